//! What we ask of every pod, and of a rollout.

use std::collections::BTreeSet;

use super::*;

#[test]
fn no_pod_may_do_more_than_pod_security_restricted_allows() {
    for (name, rendering) in renderings() {
        for document in &rendering.documents {
            let Some(pod) = document.pod() else { continue };
            let what = format!("{name}: {} {}", document.kind(), document.name());
            let security = &pod["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{what}");
            assert!(security["runAsUser"].as_i64().is_some_and(|user| user > 0), "{what}");
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{what}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{what}");
            assert_eq!(pod["enableServiceLinks"], false, "{what}: a Service's variables would be settings");
            for field in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(pod[field].is_null(), "{what}: {field}");
            }
            for volume in pod["volumes"].as_array().into_iter().flatten() {
                assert!(volume["hostPath"].is_null(), "{what}: {volume}");
            }
            for container in document.containers().iter().chain(pod["initContainers"].as_array().into_iter().flatten())
            {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{what}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{what}");
                assert_eq!(security["capabilities"], serde_json::json!({"drop": ["ALL"]}), "{what}");
                assert!(security["privileged"].is_null() && security["runAsUser"].is_null(), "{what}");
            }
        }
        let namespaces: Vec<_> = rendering.of_kind("Namespace").collect();
        assert_eq!(namespaces.len(), 1, "{name}");
        assert_eq!(namespaces[0].0["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted", "{name}");
        for account in rendering.of_kind("ServiceAccount") {
            assert_eq!(account.0["automountServiceAccountToken"], false, "{name}");
        }
    }
}

#[test]
fn every_container_says_what_it_needs_and_how_it_is_looked_after() {
    for (name, rendering) in renderings() {
        for document in rendering.documents.iter().filter(|document| document.pod().is_some()) {
            for container in document.containers() {
                let what = format!("{name}: {} {}", document.kind(), document.name());
                let resources = &container["resources"];
                assert!(
                    resources["requests"]["cpu"].is_string() && resources["requests"]["memory"].is_string(),
                    "{what}"
                );
                assert!(resources["limits"]["memory"].is_string(), "{what}");
                if document.kind() != "Job" {
                    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                        assert!(container[probe].is_object(), "{what} has no {probe}");
                    }
                }
                let image = container["image"].as_str().unwrap();
                let tag = image.rsplit('/').next().unwrap().split_once(':').map_or("latest", |(_, tag)| tag);
                assert!(tag.starts_with(|first: char| first.is_ascii_digit()), "{what}: {image} says no version");
            }
        }
    }
}

#[test]
fn a_rollout_or_a_drain_never_takes_more_than_one_pod_of_a_role() {
    for (name, rendering) in renderings() {
        let deployments: Vec<&Document> = rendering.ours().filter(|document| document.kind() == "Deployment").collect();
        let arguments: Vec<String> = deployments.iter().map(|role| role.arguments().join(" ")).collect();
        assert!(roles(name).iter().all(|role| arguments.iter().any(|have| have == role)), "{name}: {arguments:?}");
        assert_eq!(arguments.len(), roles(name).len(), "{name}: {arguments:?}");
        for role in deployments {
            let (what, spec) = (format!("{name}: {}", role.name()), &role.0["spec"]);
            assert_eq!(spec["strategy"]["rollingUpdate"]["maxUnavailable"], 0, "{what}");
            let replicas = spec["replicas"].as_i64();
            assert!(replicas.is_none_or(|replicas| replicas >= 2), "{what}: one pod is none while its node is drained");
            let budget = rendering.find("PodDisruptionBudget", role.name());
            assert_eq!(budget.0["spec"]["maxUnavailable"], 1, "{what}");
            assert_eq!(budget.0["spec"]["selector"]["matchLabels"], spec["selector"]["matchLabels"], "{what}");
            let grace = role.pod().unwrap()["terminationGracePeriodSeconds"].as_u64().unwrap();
            let drain: u64 =
                rendering.settings()["DRAIN_GRACE"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
            assert!(grace >= drain + 15, "{what}: {grace} s are too short for a drain of {drain} s");
        }
    }
}

#[test]
fn every_resource_of_ours_has_the_recommended_labels_and_selects_by_none_that_a_version_changes() {
    for (name, rendering) in renderings() {
        for document in rendering.ours() {
            let what = format!("{name}: {} {}", document.kind(), document.name());
            for labels in [&document.0["metadata"]["labels"], &document.0["spec"]["template"]["metadata"]["labels"]] {
                for label in ["name", "instance", "component", "part-of", "managed-by"] {
                    assert!(labels[format!("app.kubernetes.io/{label}")].is_string(), "{what} has no label {label}");
                }
            }
            let selector = &document.0["spec"]["selector"]["matchLabels"];
            assert!(selector["app.kubernetes.io/version"].is_null(), "{what}");
        }
    }
}

#[test]
fn no_secret_stands_in_a_config_map() {
    let words = ["password", "secret", "apikey", "api_key", "bearer"];
    for (name, rendering) in renderings() {
        for map in rendering.of_kind("ConfigMap") {
            for (key, value) in map.0["data"].as_object().unwrap() {
                if key.ends_with(".json") || key.ends_with(".sql") || key.ends_with(".sh") {
                    continue;
                }
                let value = value.as_str().unwrap().to_lowercase();
                let in_url = value.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
                let named = words.iter().any(|word| key.to_lowercase().contains(word) || value.contains(word));
                assert!(!in_url && !named, "{name}: {} has {key}", map.name());
            }
        }
    }
}

#[test]
fn the_migration_carries_the_version_and_refers_to_nothing_that_is_generated() {
    let version = env!("CARGO_PKG_VERSION");
    for (name, rendering) in renderings() {
        let job = rendering.find("Job", &format!("sluice-migrate-{version}"));
        let container = &job.containers()[0];
        assert!(container["envFrom"].is_null(), "{name}: a ConfigMap with another hash would be another Job");
        for variable in container["env"].as_array().unwrap() {
            assert!(variable["valueFrom"]["configMapKeyRef"].is_null(), "{name}: {variable}");
        }
        for ours in rendering.ours() {
            let image = ours.containers()[0]["image"].as_str().unwrap();
            assert!(image.ends_with(&format!("sluice:{version}")), "{name}: {} runs {image}", ours.name());
        }
        for role in rendering.of_kind("Deployment").filter(|role| role.is_ours()) {
            let labels = &role.0["spec"]["template"]["metadata"]["labels"];
            assert_eq!(labels["app.kubernetes.io/version"], version, "{name}: {}", role.name());
        }
    }
}

/// The ports that network policies let a role speak to, where a network enforces them.
fn ports(rendering: &Rendering, role: &Document) -> BTreeSet<u64> {
    let labels = &role.0["spec"]["template"]["metadata"]["labels"];
    let component = &labels["app.kubernetes.io/component"];
    let policies = rendering.of_kind("NetworkPolicy").filter(|policy| {
        let selector = &policy.0["spec"]["podSelector"];
        let matches = selector["matchLabels"].as_object().unwrap().iter().all(|(name, value)| labels[name] == *value);
        let mut others = selector["matchExpressions"].as_array().into_iter().flatten();
        matches && others.all(|other| !texts(&other["values"]).iter().any(|value| component == value))
    });
    let rules = policies.flat_map(|policy| policy.0["spec"]["egress"].as_array().unwrap());
    rules.flat_map(|rule| rule["ports"].as_array().unwrap()).filter_map(|port| port["port"].as_u64()).collect()
}

#[test]
fn a_pod_may_speak_to_what_it_has_an_address_of_and_to_nothing_else() {
    let servers = [
        ("DATABASE_URL", 5432),
        ("REDIS_URL", 6379),
        ("AMQP_URL", 5671),
        ("EVOLUTION_AMQP_URL", 5671),
        ("EVOLUTION_API_KEY", 443),
    ];
    for (name, rendering) in renderings() {
        for ours in rendering.ours() {
            let variables = ours.containers()[0]["env"].as_array().unwrap();
            let is_set = |variable: &str| variables.iter().any(|set| set["name"] == variable);
            let wanted: BTreeSet<u64> =
                servers.iter().filter(|(variable, _)| is_set(variable)).map(|(_, port)| *port).collect();

            let may: BTreeSet<u64> = ports(rendering, ours);

            let may: BTreeSet<u64> = may.into_iter().filter(|port| servers.iter().any(|(_, of)| of == port)).collect();
            assert_eq!(may, wanted, "{name}: {}", ours.name());
        }
    }
}

#[test]
fn every_role_is_behind_the_service_that_is_scraped() {
    for (name, rendering) in renderings() {
        let service = &rendering.find("Service", "sluice").0["spec"];
        for role in rendering.of_kind("Deployment").filter(|role| role.is_ours()) {
            let labels = &role.0["spec"]["template"]["metadata"]["labels"];
            let selected =
                service["selector"].as_object().unwrap().iter().all(|(label, value)| labels[label] == *value);
            assert!(selected, "{name}: {}", role.name());
            assert_eq!(role.containers()[0]["ports"][0]["name"], service["ports"][0]["targetPort"], "{name}");
        }
    }
}

/// No type of RabbitMQ's operator is at hand to hold this against: these are the fields that it
/// knows (version 2.22.3), as far as we may need them.
#[test]
fn rabbitmq_of_our_own_keeps_what_a_majority_has_confirmed_and_publishers_find_it() {
    let known =
        ["affinity", "image", "override", "persistence", "rabbitmq", "replicas", "resources", "tls", "tolerations"];
    for name in ["production+servers", "production+all"] {
        let cluster = renderings()[name].find("RabbitmqCluster", "sluice-rabbitmq");
        let spec = &cluster.0["spec"];

        assert_eq!(cluster.0["apiVersion"], "rabbitmq.com/v1beta1");
        for field in spec.as_object().unwrap().keys() {
            assert!(known.contains(&field.as_str()), "{name}: {field}");
        }
        assert_eq!(spec["replicas"], 3);
        let settings = spec["rabbitmq"]["additionalConfig"].as_str().unwrap();
        assert!(settings.lines().any(|line| line == "default_queue_type = quorum"), "{settings}");
        assert!(spec["persistence"]["storage"].is_string());
        assert!(
            spec["resources"]["requests"]["memory"].is_string() && spec["resources"]["limits"]["memory"].is_string()
        );
        let apart = &spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(apart["topologyKey"], "kubernetes.io/hostname");
        assert_eq!(apart["labelSelector"]["matchLabels"]["app.kubernetes.io/name"], cluster.name());
    }
    let publisher = renderings()["production+all"].find("Deployment", "sluice-events");
    let variables = publisher.containers()[0]["env"].as_array().unwrap();
    let address = variables.iter().find(|variable| variable["name"] == "AMQP_URL").unwrap();
    let wanted = serde_json::json!({"name": "sluice-rabbitmq-default-user", "key": "connection_string"});
    assert_eq!(address["valueFrom"]["secretKeyRef"], wanted);
}
