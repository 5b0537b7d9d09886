//! Whether the manifests are what they say they are. What is no part of Kubernetes is held against
//! the types that its makers' schemas were turned into (KEDA, the Prometheus operator); the
//! resources of components/servers have no such types.

use super::*;

#[test]
fn every_overlay_with_every_component_renders_and_fits_the_oldest_and_the_newest_kubernetes() {
    let renderings = renderings();

    assert_eq!(renderings.len(), OVERLAYS.len() * (COMPONENTS.len() + 1) + 3);
    for (name, rendering) in renderings {
        assert!(rendering.problems.is_empty(), "{name}: {:#?}", rendering.problems);
        assert!(rendering.documents.len() >= 15, "{name}: {}", rendering.documents.len());
    }
}

#[test]
fn a_field_that_does_not_exist_is_found() {
    let wrong = "resources: [../../../deploy/kubernetes/overlays/production]\n\
        patches: [{target: {kind: Deployment, name: sluice-relay}, \
        patch: '[{\"op\": \"add\", \"path\": \"/spec/replica\", \"value\": 3}]'}]";

    let rendered = render([("wrong".to_owned(), wrong.to_owned())].into());

    let problems = &rendered["wrong"].problems;
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems.iter().all(|problem| problem.contains("sluice-relay") && problem.contains("'replica'")));
}

/// By kind: where its type is.
const TYPES: [(&str, &str); 3] = [
    ("ScaledObject", "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject"),
    ("ServiceMonitor", "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor"),
    ("PrometheusRule", "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule"),
];

#[test]
fn resources_of_keda_and_of_the_prometheus_operator_fit_their_types() {
    let documents: Vec<&Document> = ["production+keda", "production+monitoring"]
        .iter()
        .flat_map(|name| &renderings()[*name].documents)
        .filter(|document| TYPES.iter().any(|(kind, _)| *kind == document.kind()))
        .collect();

    assert_eq!(documents.len(), 5);
    assert_eq!(compiler("custom", documents), "");
}

#[test]
fn a_trigger_without_a_type_and_a_field_that_keda_does_not_have_are_found() {
    let right = renderings()["production+keda"].find("ScaledObject", "sluice-worker-verify");
    let (mut untyped, mut unknown) = (right.clone(), right.clone());
    untyped.0["spec"]["triggers"][0].as_object_mut().unwrap().remove("type");
    unknown.0["spec"]["maxReplicas"] = 6.into();

    let said = compiler("custom-wrong", vec![right, &untyped, &unknown]);

    assert!(said.contains("'\"type\"' is missing") && said.contains("'\"maxReplicas\"' does not exist"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

/// What the compiler says of these documents as values of their types.
fn compiler(name: &str, documents: Vec<&Document>) -> String {
    let node = root().join("target/tools/manifests/node");
    let mut source = String::new();
    for (kind, module) in TYPES {
        source += &format!("import type {{ I{kind} }} from \"{module}\";\n");
    }
    for (number, document) in documents.iter().enumerate() {
        source += &format!("export const d{number}: I{} = {};\n", document.kind(), document.0);
    }
    let file = node.join(format!("{name}.ts"));
    fs::write(&file, source).unwrap();
    let compiled = Command::new(tool("python/bin/node"))
        .arg(tool("node/node_modules/typescript/bin/tsc"))
        .args(["--noEmit", "--skipLibCheck", "--strict", "--module", "nodenext", "--moduleResolution", "nodenext"])
        .arg(&file)
        .current_dir(&node)
        .output()
        .unwrap();
    String::from_utf8_lossy(&compiled.stdout).into_owned() + &String::from_utf8_lossy(&compiled.stderr)
}

#[test]
fn the_alerts_of_the_component_are_those_of_deploy_prometheus() {
    let component = read("deploy/kubernetes/components/monitoring/alerts.yaml");
    let (head, _) = component.split_once("spec:\n").unwrap();
    let alerts = read("deploy/prometheus/alerts.yaml");
    let indented = alerts.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") });
    let wanted = format!("{head}spec:\n{}", indented.collect::<String>());

    let same = component == wanted;

    let made = root().join("target/manifests/alerts.yaml");
    if !same {
        fs::create_dir_all(made.parent().unwrap()).unwrap();
        fs::write(&made, wanted).unwrap();
    }
    assert!(same, "deploy/prometheus/alerts.yaml has changed: copy {} to components/monitoring", made.display());
}
