//! What is in deploy/: the manifests rendered by a real kustomize, held against Kubernetes'
//! schemas, against what the program takes, and against what we ask of every pod; the image's and
//! compose's files linted. The tools are installed by `make tools`.

mod capacity;
mod images;
mod policy;
mod schemas;
mod settings;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::Value;

/// The oldest and the newest Kubernetes that the manifests are for.
const VERSIONS: &str = "1.30,1.37";
const OVERLAYS: [&str; 2] = ["local", "production"];
/// Those that have pods of ours, events and follow, stand in an overlay: its version is theirs.
const COMPONENTS: [&str; 4] = ["hpa", "keda", "monitoring", "servers"];
/// Deployments of ours, by the arguments of their role. The last two are there where events are
/// published, and where the API's are followed.
const ROLES: [&str; 6] =
    ["relay", "worker create-instance", "worker configure-webhooks", "worker verify", "events", "follow"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A program that `make tools` installs.
fn tool(name: &str) -> PathBuf {
    let tool = root().join("target/tools/manifests").join(name);
    assert!(tool.exists(), "{} is missing: run `make tools`", tool.display());
    tool
}

/// What is rendered of one folder.
#[derive(Debug, Clone)]
struct Rendering {
    documents: Vec<Document>,
    problems: Vec<String>,
}

#[derive(Debug, Clone)]
struct Document(Value);

impl Document {
    fn kind(&self) -> &str {
        self.0["kind"].as_str().unwrap()
    }

    fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap()
    }

    /// What its pods are made of, where it has any.
    fn pod(&self) -> Option<&Value> {
        let pod = &self.0["spec"]["template"]["spec"];
        pod["containers"].is_array().then_some(pod)
    }

    fn containers(&self) -> &[Value] {
        self.pod().and_then(|pod| pod["containers"].as_array()).map_or(&[], Vec::as_slice)
    }

    /// A role of Sluice's own, or its migration.
    fn is_ours(&self) -> bool {
        self.pod().is_some() && self.name().starts_with("sluice-")
    }

    fn arguments(&self) -> Vec<String> {
        texts(&self.containers()[0]["args"])
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().map_or(vec![], |list| list.iter().map(|text| text.as_str().unwrap().to_owned()).collect())
}

impl Rendering {
    fn find(&self, kind: &str, name: &str) -> &Document {
        let found = self.documents.iter().find(|document| document.kind() == kind && document.name() == name);
        found.unwrap_or_else(|| panic!("no {kind} is called {name}"))
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Document> {
        self.documents.iter().filter(move |document| document.kind() == kind)
    }

    fn ours(&self) -> impl Iterator<Item = &Document> {
        self.documents.iter().filter(|document| document.is_ours())
    }

    /// The settings of the one ConfigMap that the roles read.
    fn settings(&self) -> &Value {
        let settings = self.of_kind("ConfigMap").find(|map| map.name().starts_with("sluice-settings-"));
        &settings.expect("the settings' name carries their hash").0["data"]
    }
}

/// Each overlay alone and with each component, by `overlay` or `overlay+component`; rendered once.
fn renderings() -> &'static BTreeMap<String, Rendering> {
    static RENDERED: OnceLock<BTreeMap<String, Rendering>> = OnceLock::new();
    RENDERED.get_or_init(|| {
        let alone = OVERLAYS.map(|overlay| (overlay.to_owned(), format!("resources: [{}]", path("overlays", overlay))));
        let with = OVERLAYS.iter().flat_map(|overlay| {
            COMPONENTS.map(|component| {
                let (resource, path) = (path("overlays", overlay), path("components", component));
                (format!("{overlay}+{component}"), format!("resources: [{resource}]\ncomponents: [{path}]"))
            })
        });
        let more = [
            ("production+events".to_owned(), production(&["events"])),
            ("production+follow".to_owned(), production(&["follow"])),
            ("production+all".to_owned(), production(&["events", "follow", "monitoring", "keda", "servers"])),
        ];
        render(alone.into_iter().chain(with).chain(more).collect())
    })
}

/// overlays/production as a user copies it, with these components.
fn production(components: &[&str]) -> String {
    let mut text = read("deploy/kubernetes/overlays/production/kustomization.yaml") + "\ncomponents:\n";
    for component in components {
        text += &format!("  - ../../components/{component}\n");
    }
    text.replace(" ../../", " ../../../deploy/kubernetes/")
}

/// The roles of a rendering.
fn roles(name: &str) -> Vec<&'static str> {
    let publishes = name.starts_with("local") || ["production+events", "production+all"].contains(&name);
    let follows = ["production+follow", "production+all"].contains(&name);
    let is_there = |role: &&str| match *role {
        "events" => publishes,
        "follow" => follows,
        _ => true,
    };
    ROLES.into_iter().filter(is_there).collect()
}

/// From a folder two levels below target/ to one of ours.
fn path(kind: &str, name: &str) -> String {
    format!("../../../deploy/kubernetes/{kind}/{name}")
}

/// Renders kustomizations, each in a folder of its own below target/, and holds them against the
/// schemas.
fn render(kustomizations: BTreeMap<String, String>) -> BTreeMap<String, Rendering> {
    let below = root().join("target/manifests");
    for (name, text) in &kustomizations {
        fs::create_dir_all(below.join(name)).unwrap();
        fs::write(below.join(name).join("kustomization.yaml"), text).unwrap();
        for beside in ["namespace.yaml", "settings.env"] {
            let text = read(&format!("deploy/kubernetes/overlays/production/{beside}"));
            fs::write(below.join(name).join(beside), text).unwrap();
        }
    }
    let looked = Command::new(tool("python/bin/python"))
        .arg(root().join("tests/it/deployment/tools/look.py"))
        .arg(tool("python/bin/kubectl"))
        .arg(VERSIONS)
        .args(kustomizations.keys())
        .current_dir(&below)
        .output()
        .unwrap();
    assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stderr));
    let looked: BTreeMap<String, Value> = serde_json::from_slice(&looked.stdout).unwrap();
    let read = |value: Value| Rendering {
        documents: value["documents"].as_array().unwrap().iter().cloned().map(Document).collect(),
        problems: texts(&value["problems"]),
    };
    looked.into_iter().map(|(name, value)| (name, read(value))).collect()
}

/// One overlay as it stands.
fn overlay(name: &str) -> &'static Rendering {
    &renderings()[name]
}
