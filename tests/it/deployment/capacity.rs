//! The ceilings of scaling: what Postgres takes, and what a scaler divides by.

use super::{settings::help, *};

/// What a superuser's reserve (`superuser_reserved_connections`) and people at work need of
/// Postgres' connections.
const OF_OTHERS: u64 = 3 + 7;
/// Postgres' own default, where the database is not ours to set.
const DEFAULT: u64 = 100;

/// Connections that a pod of a role opens at most: what the program says of itself, and one for
/// leases or LISTEN.
fn connections_of(role: &str) -> u64 {
    let help = help(&["relay".to_owned()]);
    let (before, beside) = match role {
        "relay" => ("a relay has ", 1),
        "worker" => ("and a worker ", 1),
        "events" => ("a publisher of events ", 0),
        "follow" => ("and a follower ", 0),
        other => panic!("how many connections has {other}?"),
    };
    let (_, rest) = help.split_once(before).unwrap();
    let works_with: u64 = rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap();
    works_with + beside
}

#[test]
fn the_page_says_of_connections_what_the_program_says() {
    let page = read("docs/operating.md");
    for role in ["relay", "worker", "events", "follow"] {
        let row = format!("\n| {role} | {} |", connections_of(role));
        assert!(page.contains(&row), "docs/operating.md has no row {row}");
    }
}

/// How many pods a Deployment has at most: as its scaler lets it, and one more in a rollout.
fn pods(rendering: &Rendering, deployment: &Document) -> u64 {
    let scaled = rendering.documents.iter().find(|document| {
        ["ScaledObject", "HorizontalPodAutoscaler"].contains(&document.kind())
            && document.0["spec"]["scaleTargetRef"]["name"] == deployment.name()
    });
    let most = match scaled {
        Some(scaler) => {
            assert!(deployment.0["spec"]["replicas"].is_null(), "each apply would set {} back", deployment.name());
            let spec = &scaler.0["spec"];
            spec["maxReplicaCount"].as_u64().or(spec["maxReplicas"].as_u64())
        }
        None => deployment.0["spec"]["replicas"].as_u64(),
    };
    let surge = deployment.0["spec"]["strategy"]["rollingUpdate"]["maxSurge"].as_u64().unwrap();
    most.unwrap_or_else(|| panic!("nobody says how many {} there are", deployment.name())) + surge
}

/// What the Postgres of the manifests allows; Postgres' default where it is outside.
fn allowed(rendering: &Rendering) -> u64 {
    let ours = rendering.of_kind("StatefulSet").find(|document| document.name() == "postgres");
    let argument = ours.map(Document::arguments).unwrap_or_default();
    let set = argument.iter().find_map(|argument| argument.strip_prefix("max_connections="));
    set.map_or(DEFAULT, |number| number.parse().unwrap())
}

#[test]
fn all_pods_in_a_rollout_at_full_scale_fit_into_what_postgres_allows() {
    for (name, rendering) in renderings() {
        let roles = rendering.of_kind("Deployment").filter(|document| document.is_ours());
        let wanted: u64 =
            roles.map(|document| pods(rendering, document) * connections_of(&document.arguments()[0])).sum();

        let allowed = allowed(rendering);

        assert!(wanted > 20, "{name}: {wanted}");
        assert!(wanted + OF_OTHERS <= allowed, "{name}: {wanted} connections and {OF_OTHERS}, of {allowed}");
    }
}

#[test]
fn the_scalers_divide_known_metrics_of_each_step_by_what_a_worker_does_at_once() {
    let known = crate::metrics::known();
    let concurrency = overlay("production").settings()["WORKER_CONCURRENCY"].as_str().unwrap();
    for (name, kind) in [("production+keda", "ScaledObject"), ("production+hpa", "HorizontalPodAutoscaler")] {
        let scalers: Vec<&Document> = renderings()[name].of_kind(kind).collect();
        assert_eq!(scalers.len(), tests::fleet::STEPS.len(), "{name}");
        for scaler in scalers {
            let (what, spec) = (scaler.name(), &scaler.0["spec"]);
            let step = what.strip_prefix("sluice-worker-").unwrap();
            let (metric, of, divided_by) = match kind {
                "ScaledObject" => {
                    let trigger = &spec["triggers"][0]["metadata"];
                    let query = trigger["query"].as_str().unwrap();
                    let (metric, rest) = query.strip_prefix("max(").unwrap().split_once("{step=\"").unwrap();
                    (metric, rest.strip_suffix("\"})").unwrap(), &trigger["threshold"])
                }
                _ => {
                    let external = &spec["metrics"][0]["external"];
                    let metric = &external["metric"];
                    let of = metric["selector"]["matchLabels"]["step"].as_str().unwrap();
                    (metric["name"].as_str().unwrap(), of, &external["target"]["averageValue"])
                }
            };
            assert!(known.contains(metric), "{what}: there is no metric {metric}");
            assert_eq!(of, step, "{what}");
            assert_eq!(divided_by, concurrency, "{what}");
        }
    }
}
