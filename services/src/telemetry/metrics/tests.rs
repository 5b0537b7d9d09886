use std::time::Duration;

use workflows::{
    outcome::{Memory, Outcome},
    state::RunState,
    whatsapp::provision,
};

use super::*;
use crate::ledger::settlement::{
    Quiet, Settlement,
    tests::{claim, workflow},
};

fn assert_has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|shown| shown == *line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn what_is_counted_is_shown_under_its_name_with_its_labels() {
    let metrics = Metrics::new("worker");
    let success = Outcome::Success { output: Default::default(), memory: Memory::default(), note: None };
    let settlement = Settlement::plan(&claim(2), &workflow(), success, Quiet::Yes, 0.0).unwrap();

    metrics.attempt_ended(&settlement, RunState::Succeeded);
    metrics.count(&names::CLAIMS_REFUSED, ["send", "gate_closed"], 2);
    metrics.measure(&names::RUN_DURATION, ["welcome", "succeeded"], Duration::from_millis(1200));
    metrics.called("POST /greetings", None, "no_answer", Duration::from_secs(15));
    metrics.count(&names::LEASES_LOST, [], 0);
    metrics.spans_from(Arc::default());

    let text = metrics.scrape(Format::OpenMetrics).await;
    assert_has(
        &text,
        &[
            r#"sluice_attempts_total{workflow="three",step="third",outcome="succeeded",class="none"} 1"#,
            r#"sluice_runs_total{workflow="three",outcome="succeeded"} 1"#,
            r#"sluice_claims_refused_total{step="send",reason="gate_closed"} 2"#,
            r#"sluice_run_duration_seconds_bucket{le="1.0",workflow="welcome",outcome="succeeded"} 0"#,
            r#"sluice_run_duration_seconds_bucket{le="1.5",workflow="welcome",outcome="succeeded"} 1"#,
            r#"sluice_spans_total{result="exported"} 0.0"#,
            "# TYPE sluice_spans counter",
            "# TYPE sluice_claims_refused counter",
        ],
    );
    let call = r#"http_client_request_duration_seconds_count{http_request_method="POST",url_template="/greetings","#;
    assert!(text.contains(call), "{text}");
    assert!(!text.contains("sluice_leases_lost_total"), "{text}");
}

#[tokio::test]
async fn what_a_worker_may_count_is_there_from_zero_on() {
    let metrics = Metrics::new("worker");

    let (timeout, deadline) = (Duration::from_secs(30), Duration::from_secs(3600));
    let workflow = provision::definition(Default::default(), timeout, deadline, "api");
    metrics.expect_attempts(std::iter::once(&workflow), &["verify".parse().unwrap()]);

    let text = metrics.scrape(Format::OpenMetrics).await;
    assert_has(
        &text,
        &[
            r#"sluice_runs_total{workflow="provision-instance",outcome="dead"} 0"#,
            r#"sluice_run_duration_seconds_count{workflow="provision-instance",outcome="succeeded"} 0"#,
            r#"sluice_claims_refused_total{step="verify",reason="unknown_definition"} 0"#,
            "sluice_leases_lost_total{} 0",
        ],
    );
    assert!(!text.contains("create-instance"), "{text}");
}

/// Issue 11: the pools of two roles in one process had the family written twice.
#[tokio::test]
async fn a_family_of_several_sources_stands_once_and_each_series_too() {
    let metrics = Metrics::new("all");
    for (pool, idle) in [("relay", 1.0), ("worker", 2.0), ("relay", 3.0)] {
        metrics.read_from(move || vec![Sample::of(&names::POOL_CONNECTIONS, [pool, "idle"], idle)]);
    }

    let text = metrics.scrape(Format::OpenMetrics).await;

    let shown: Vec<&str> = text.lines().filter(|line| line.contains("sluice_pool_connections")).collect();
    assert_eq!(
        shown,
        [
            "# HELP sluice_pool_connections Connections to Postgres: busy, idle.",
            "# TYPE sluice_pool_connections gauge",
            r#"sluice_pool_connections{pool="relay",state="idle"} 3.0"#,
            r#"sluice_pool_connections{pool="worker",state="idle"} 2.0"#,
        ]
    );
}
