//! A collector that is away, hangs or is a stranger costs spans, and never a sign-up or a log full
//! of it.

use std::time::Duration;

use serde_json::Value;
use tests::{
    collector::Collector,
    servers::{Authority, Certificates, until},
};
use uuid::Uuid;

use super::{AppTrace, PATIENCE, Traced};

const USERS: usize = 25;

/// Signs users up while nothing is taken; what the process said about its spans, and how long it
/// took to stop.
async fn lose(endpoint: &str) -> (Vec<Value>, Duration) {
    let mut traced = Traced::prepare(endpoint).await;
    traced.fleet.set("OTEL_BSP_MAX_QUEUE_SIZE", "32");
    traced.fleet.set("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16");
    traced.fleet.start("all", &["all"]).await.unwrap();

    let mut users: Vec<Uuid> = Vec::new();
    for _ in 0..USERS {
        users.push(traced.sign_up(None).await);
    }
    for user in users {
        traced.wait_for(user, "completed").await;
    }
    let asked = std::time::Instant::now();
    let logs = traced.stop().await;
    let took = asked.elapsed();
    traced.close().await;

    let lines = logs.iter().flat_map(|log| log.lines()).filter_map(|line| serde_json::from_str::<Value>(line).ok());
    (lines.filter(|line| line.get("dropped").is_some()).collect(), took)
}

fn assert_lost(said: &[Value], took: Duration) {
    // While it ran, one line per service at most in this minute; and one at its end.
    assert!((1..=3).contains(&said.len()), "{said:#?}");
    let last = said.last().unwrap();
    assert!(last["dropped"].as_u64().unwrap() > 0, "{last}");
    assert_eq!(last["exported"].as_u64(), Some(0), "{last}");
    assert!(took < Duration::from_secs(10), "it took {took:?} to stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_costs_only_spans_and_a_line_of_log() {
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();

    let (said, took) = lose(&format!("http://127.0.0.1:{port}")).await;

    assert_lost(&said, took);
    assert!(said[0]["error"].as_str().unwrap().contains("cannot be reached"), "{said:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_costs_only_spans() {
    let collector = Collector::start().await.unwrap();
    collector.hang();

    let (said, took) = lose(&collector.url()).await;

    assert_lost(&said, took);
    assert!(collector.requests() > 0 && collector.spans().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_a_collector_refuses_are_counted_as_failed() {
    let collector = Collector::start().await.unwrap();
    collector.refuse();
    let mut traced = Traced::prepare(&collector.url()).await;
    traced.fleet.start("all", &["all"]).await.unwrap();

    let user = traced.sign_up(None).await;
    traced.wait_for(user, "completed").await;
    let logs = traced.stop().await;

    let last: Value = serde_json::from_str(logs[0].lines().find(|line| line.contains("\"dropped\"")).unwrap()).unwrap();
    assert_eq!((last["exported"].as_u64(), last["dropped"].as_u64()), (Some(0), Some(0)), "{last}");
    assert!(last["failed"].as_u64().unwrap() >= 16, "{last}");
    traced.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_busy_for_a_moment_costs_nothing() {
    let collector = Collector::start().await.unwrap();
    collector.be_busy_for(2);
    let mut traced = Traced::prepare(&collector.url()).await;
    traced.fleet.start("relay", &["relay"]).await.unwrap();
    let trace = AppTrace::new("01");

    let user = traced.sign_up(Some(&trace)).await;
    traced.wait_for(user, "processing").await;
    let names = until(PATIENCE, async || {
        let mut names: Vec<_> = trace.spans(&collector).into_iter().map(|span| span.name).collect();
        names.sort();
        (names.len() == 2).then_some(names)
    });

    assert_eq!(names.await.unwrap(), ["intake provision-instance", "send create-instance"]);
    assert!(collector.requests() > 2);
    traced.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_believed_only_with_a_certificate_of_a_trusted_ca() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (trusted, strange) = (authority.file().unwrap(), stranger.file().unwrap());
    let collector = Collector::start_tls(&authority.identity("localhost").unwrap()).await.unwrap();
    let mut traced = Traced::prepare(&collector.url()).await;
    let mut take_in = async |certificates: &Certificates| {
        traced.fleet.set("SSL_CERT_FILE", certificates.path());
        traced.fleet.start("relay", &["relay"]).await.unwrap();
        let (trace, process) = (AppTrace::new("01"), "relay");
        let user = traced.sign_up(Some(&trace)).await;
        traced.wait_for(user, "processing").await;
        let said = until(PATIENCE, async || {
            let log = traced.fleet.process(process).unwrap().log();
            (log.contains("spans are lost") || !trace.spans(&collector).is_empty()).then_some(log)
        });
        (said.await.unwrap(), trace.spans(&collector).len())
    };

    let (unknown, known) = (take_in(&strange).await, take_in(&trusted).await);

    assert!(unknown.0.contains("certificate") && unknown.1 == 0, "{}", unknown.0);
    assert!(known.1 > 0, "{}", known.0);
    traced.close().await;
}
