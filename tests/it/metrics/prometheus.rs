//! A real Prometheus scrapes every role, loads the alerts, and answers the dashboard's queries.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tests::servers::{Program, free_port};

use super::*;
use crate::program::{run, said};

struct Prometheus {
    _process: Process,
    address: String,
}

impl Prometheus {
    /// With the example's configuration, the given targets in place of its own.
    async fn start(targets: &BTreeMap<String, String>) -> Self {
        let config = configuration(targets);
        let path = std::env::temp_dir().join(format!("sluice-prometheus-{}.yaml", Uuid::new_v4()));
        std::fs::write(&path, config).unwrap();
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let mut process = Program::new("prometheus")
            .args([
                format!("--config.file={}", path.display()),
                "--storage.tsdb.path=data".to_owned(),
                format!("--web.listen-address={address}"),
            ])
            .start()
            .unwrap();
        process.wait_for_log("Server is ready to receive web requests", PATIENCE).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        Self { _process: process, address }
    }

    async fn ask(&self, path: &str) -> Value {
        let (status, text) = get(&self.address, path).await;
        assert_eq!(status, 200, "{path}: {text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {text}");
        answer["data"].clone()
    }

    /// The values of a query's series.
    async fn query(&self, query: &str) -> Vec<f64> {
        let encoded = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let answer = self.ask(&format!("/api/v1/query?query={encoded}")).await;
        let series = answer["result"].as_array().unwrap();
        series.iter().map(|series| series["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    async fn until_answers(&self, query: &str, expected: &[f64]) {
        let mut last = Vec::new();
        let answered = until(PATIENCE, async || {
            last = self.query(query).await;
            (last == expected).then_some(())
        });
        assert!(answered.await.is_some(), "{query} answers {last:?}, not {expected:?}");
    }
}

/// The example, scraping our processes often.
fn configuration(targets: &BTreeMap<String, String>) -> String {
    let example = std::fs::read_to_string(file("deploy/prometheus/prometheus.yaml")).unwrap();
    let alerts = file("deploy/prometheus/alerts.yaml");
    let mut config = example
        .replace("interval: 15s", "interval: 250ms")
        .replace("- alerts.yaml", &format!("- {}", alerts.display()));
    for (process, address) in targets {
        let target = format!("\"{}:9464\"", process.trim_end_matches("-1"));
        assert!(config.contains(&target), "the example does not scrape {target}");
        config = config.replace(&target, &format!("\"{address}\""));
    }
    assert!(!config.contains(":9464"), "{config}");
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_scrapes_every_role_and_loads_the_alerts() {
    let mut fleet = fleet().await;
    sign_up(&fleet, Uuid::new_v4()).await;
    start_every_role(&mut fleet).await;
    let prometheus = Prometheus::start(&addresses(&mut fleet).await).await;

    prometheus.until_answers("count(up == 1)", &[6.0]).await;
    prometheus.until_answers("sum(sluice_run_duration_seconds_count)", &[1.0]).await;
    prometheus.until_answers(r#"sum(sluice_runs_total{outcome="succeeded"})"#, &[1.0]).await;
    prometheus.until_answers("sum(sluice_queue_depth)", &[0.0]).await;
    prometheus.until_answers("sum(sluice_unfinished_steps)", &[0.0]).await;
    prometheus.until_answers(r#"count by (role) (sluice_build_info{role="worker"})"#, &[3.0]).await;

    // What it has is what the roles show.
    let stored = prometheus.ask("/api/v1/label/__name__/values").await;
    let stored: BTreeSet<String> = serde_json::from_value(stored).unwrap();
    assert!(known().is_subset(&stored), "{:?}", known().difference(&stored));
    for (panel, query) in files::dashboard_queries() {
        prometheus.query(&query.replace("$__rate_interval", "1m")).await;
        assert!(query.contains("sluice_") || query.contains("http_"), "{panel}");
    }
    check_rules(&prometheus.ask("/api/v1/rules").await).await;
}

/// Each alert says how bad it is, what it is, and which command to run first: one that the program
/// knows.
async fn check_rules(loaded: &Value) {
    let rules = loaded["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() >= 7);
    for rule in rules {
        let (name, text) = (&rule["name"], |name: &str| rule["annotations"][name].as_str().unwrap_or_default());
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        assert!(!text("summary").is_empty() && text("description").len() > 40, "{name}");
        let names = files::names_in(rule["query"].as_str().unwrap());
        assert!(!names.is_empty() && names.is_subset(&known()), "{name} names {:?}", names.difference(&known()));
        let mut words = text("run").split(' ');
        assert_eq!(words.next(), Some("sluice"), "{name}");
        let arguments: Vec<&str> = words.chain(["--help"]).collect();
        let known = run(&arguments, &[]).await;
        assert!(known.status.success() && arguments.len() > 1, "{name}: {arguments:?}: {}", said(&known));
    }
}
