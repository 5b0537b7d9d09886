//! That every scraper can read what every role shows: Prometheus' own tool for its older format, a
//! strict reader for OpenMetrics.

use std::{io::Write, process::Stdio};

use super::*;

/// What `promtool check metrics` says of an exposition: nothing where it is content.
async fn promtool(text: String) -> String {
    let check = move || {
        let mut command = std::process::Command::new("promtool");
        command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("promtool is on the PATH: tests/setup installs it");
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(check).await.unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    format!("{said}{}", if output.status.success() { "" } else { "it is not content" })
}

async fn assert_valid(role: &str, address: &str) {
    let (kind, open) = get_accepting(address, "/metrics", OPEN_METRICS).await;
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{role}: {kind}");
    let series = open_metrics::read(&open).unwrap_or_else(|wrong| panic!("{role}: {wrong}\n{open}"));
    assert!(series.len() > 20, "{role}: {open}");

    let (kind, older) = get_accepting(address, "/metrics", "*/*").await;
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{role}: {kind}");
    assert!(older.contains("# TYPE sluice_spans_total counter\n"), "{role}: {older}");
    assert_eq!(promtool(older).await, "", "{role}");
}

/// Issue 11: the family of the pools' connections stood twice in a worker and in `all`.
#[tokio::test(flavor = "multi_thread")]
async fn what_every_role_shows_is_valid_in_both_formats() {
    let mut fleet = fleet().await;
    let user = Uuid::new_v4();
    arrange(&fleet, user, Route::WebhookSet, error(503));
    sign_up(&fleet, user).await;
    fleet.start_roles().await.unwrap();
    fleet.start("all", &["all"]).await.unwrap();
    until_true(
        &fleet,
        "the sign-up is completed",
        "select status = 'completed' from evolution_instance_creation_queue",
    )
    .await;

    let addresses = addresses(&mut fleet).await;

    assert!(addresses.len() >= 5, "{addresses:?}");
    for (role, address) in addresses {
        assert_valid(&role, &address).await;
    }
}

#[tokio::test]
async fn promtool_refuses_a_family_that_stands_twice() {
    let family = "# HELP c Now.\n# TYPE c gauge\nc 1\n";

    assert_eq!(promtool(family.to_owned()).await, "");
    assert_ne!(promtool(family.repeat(2)).await, "");
}
