//! What the manifests say to the program is what it hears: every variable and flag exists, and none
//! that a role needs is missing.

use std::{collections::BTreeSet, time::Duration};

use tests::{
    fleet::STEPS,
    servers::{Program, binary},
};

use super::*;

/// What stands in for a secret. Nothing listens there.
fn secret(key: &str) -> &'static str {
    match key {
        "DATABASE_URL" | "LISTEN_DATABASE_URL" | "uri" => "postgres://somebody:something@127.0.0.1:9/app",
        "REDIS_URL" => "redis://127.0.0.1:9",
        "AMQP_URL" | "EVOLUTION_AMQP_URL" => "amqp://somebody:something@127.0.0.1:9/%2f",
        _ => "something",
    }
}

/// Which are only there for others to refer to.
fn is_only_referred_to(name: &str) -> bool {
    name.starts_with("K8S_") || name == "INSTANCE"
}

/// Which every pod has. A follower exports no traces, and does not look at it.
fn is_every_pods(name: &str) -> bool {
    name == "OTEL_RESOURCE_ATTRIBUTES"
}

/// What the container's process finds in its environment.
fn environment(rendering: &Rendering, container: &Value) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    if container["envFrom"].is_array() {
        for (name, value) in rendering.settings().as_object().unwrap() {
            environment.insert(name.clone(), value.as_str().unwrap().to_owned());
        }
    }
    for variable in container["env"].as_array().unwrap() {
        let from = &variable["valueFrom"];
        let value = match (variable["value"].as_str(), from["secretKeyRef"]["key"].as_str()) {
            (Some(value), _) => value.to_owned(),
            (None, Some(key)) => secret(key).to_owned(),
            (None, None) => from["fieldRef"]["fieldPath"].as_str().unwrap().to_owned(),
        };
        environment.insert(variable["name"].as_str().unwrap().to_owned(), value);
    }
    // What the overlay leaves to be filled in, the program refuses.
    if let Some(url) = environment.get_mut("SUPABASE_URL") {
        *url = url.replace("YOUR_PROJECT_REF", "abcdefghijklmnopqrst");
    }
    environment
}

/// What a role says that it takes.
pub(super) fn help(arguments: &[String]) -> String {
    let said = Command::new(binary("sluice").unwrap()).args(arguments).arg("--help").output().unwrap();
    assert!(said.status.success(), "sluice {arguments:?} --help");
    String::from_utf8(said.stdout).unwrap()
}

#[test]
fn every_variable_and_flag_of_the_manifests_is_one_that_its_role_takes() {
    for (name, rendering) in renderings() {
        for document in rendering.ours() {
            let (container, arguments) = (&document.containers()[0], document.arguments());
            // A setting of another role is none of this one's, and does no harm.
            let anybodys: String =
                ["relay", "worker", "events", "follow"].map(|role| help(&[role.to_owned()])).concat();
            let help = help(&arguments[..1]);

            for variable in environment(rendering, container).keys().filter(|name| !is_only_referred_to(name)) {
                let in_settings = container["envFrom"].is_array() && !rendering.settings()[variable].is_null();
                let taken = if in_settings || is_every_pods(variable) { &anybodys } else { &help };
                let known = taken.contains(&format!("[env: {variable}]"));
                assert!(
                    known,
                    "{name}: {} sets {variable}, which sluice {} does not take",
                    document.name(),
                    arguments[0]
                );
            }
            for flag in arguments.iter().filter(|argument| argument.starts_with("--")) {
                let flag = flag.split('=').next().unwrap();
                let words: BTreeSet<&str> =
                    help.split(|letter: char| !letter.is_alphanumeric() && letter != '-').collect();
                assert!(words.contains(flag), "{name}: {} gives {flag}", document.name());
            }
            for (referring, value) in environment(rendering, container) {
                for referred in value.split("$(").skip(1).map(|rest| rest.split(')').next().unwrap()) {
                    let names = container["env"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap());
                    let before: Vec<&str> = names.take_while(|name| *name != referring).collect();
                    assert!(
                        before.contains(&referred),
                        "{name}: {referring} refers to {referred}, which is not before it"
                    );
                }
            }
        }
    }
}

#[test]
fn every_step_has_a_worker_of_its_own() {
    for (name, rendering) in renderings() {
        for step in STEPS {
            let worker = rendering.find("Deployment", &format!("sluice-worker-{step}"));
            assert_eq!(worker.arguments(), ["worker", step], "{name}");
        }
    }
}

/// Each role as its container starts it, with addresses where nothing listens: it finds nothing to
/// refuse in its settings, and would, were one of those missing that have no default.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_needs_is_set_and_nothing_less_would_do() {
    for name in ["local", "production", "production+events", "production+follow"] {
        for role in overlay(name).ours() {
            let arguments = role.arguments();
            let mut variables = environment(overlay(name), &role.containers()[0]);
            if role.kind() == "Deployment" {
                variables.insert("HTTP_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
            }
            let started = |variables: &BTreeMap<String, String>| {
                let program = Program::new(binary("sluice").unwrap()).args(&arguments);
                variables.iter().fold(program, |program, (name, value)| program.env(name, value)).start().unwrap()
            };

            let mut process = started(&variables);
            process.wait_for_log("Postgres", Duration::from_secs(20)).await.unwrap();
            assert!(!process.log().contains("cannot start"), "{name}: {}: {}", role.name(), process.log());
            process.kill().await.unwrap();

            let needed = match arguments[0].as_str() {
                "migrate" => &["DATABASE_URL"][..],
                "relay" => &["DATABASE_URL", "REDIS_URL", "EVOLUTION_API_BASE_URL"],
                "events" => &["DATABASE_URL", "AMQP_URL"],
                "follow" => &["DATABASE_URL", "EVOLUTION_AMQP_URL"],
                _ => &["DATABASE_URL", "REDIS_URL", "EVOLUTION_API_BASE_URL", "EVOLUTION_API_KEY", "SUPABASE_URL"],
            };
            for missing in needed {
                let mut fewer = variables.clone();
                fewer.remove(*missing).unwrap_or_else(|| panic!("{name}: {} has no {missing}", role.name()));
                let mut process = started(&fewer);
                let status = process.wait_for_exit(Duration::from_secs(20)).await.unwrap();
                assert_eq!(status.code(), Some(2), "{name}: {} without {missing}: {}", role.name(), process.log());
            }
        }
    }
}
