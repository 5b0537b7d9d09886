//! A real RabbitMQ: what is declared, what arrives, and what is said where something is missing.

use std::time::Duration;

use serde_json::Value;
use sqlx::Connection;
use tests::{
    consumer::{Consumer, Received},
    servers::{Certificates, Process, RabbitMq, until},
};

use super::{rabbitmq, unique};
use crate::{
    conformance::{
        bench::{Bench, CREATE, PROVISION, STEPS, refusal, user},
        postgres::{self, InPostgres},
    },
    program,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A publisher of the bench's events.
fn publisher(bench: &Bench<InPostgres>, url: &str, exchange: &str, more: &[(&str, &str)]) -> Process {
    let letters = format!("{exchange}.dead");
    let common = [
        ("DATABASE_URL", bench.world.url()),
        ("AMQP_URL", url),
        ("EVENTS_EXCHANGE", exchange),
        ("EVENTS_DEAD_LETTER_EXCHANGE", &letters),
    ];
    program::start(&["events"], &common.iter().chain(more).copied().collect::<Vec<_>>())
}

async fn arrived(consumer: &Consumer, count: usize) -> Vec<Received> {
    let there = until(PATIENCE, async || (consumer.count() >= count).then_some(())).await;
    assert!(there.is_some(), "{:?}", consumer.received());
    consumer.received()
}

async fn unpublished(bench: &Bench<InPostgres>) -> i64 {
    let mut session = sqlx::PgConnection::connect(bench.world.url()).await.unwrap();
    let select = "select count(*) from sluice.event where published_at is null";
    sqlx::query_scalar(select).fetch_one(&mut session).await.unwrap()
}

async fn until_all_are_published(bench: &Bench<InPostgres>) {
    let done = until(PATIENCE, async || (unpublished(bench).await == 0).then_some(())).await;
    assert!(done.is_some(), "{} events wait", unpublished(bench).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_as_cloud_events_and_dead_runs_in_a_quorum_queue_too() {
    let (server, bench, exchange) = (&rabbitmq().await.server, postgres::bench().await, unique("arriving"));
    let consumer = Consumer::start(&server.url(), &exchange, &exchange).await.unwrap();
    let run = bench.start(PROVISION, user()).await;
    bench.succeed(run, &STEPS).await;
    let dead = bench.start(PROVISION, user()).await;
    bench.work(dead, CREATE, refusal()).await;

    let _publisher = publisher(&bench, &server.url(), &exchange, &[]);

    let received = arrived(&consumer, 5).await;
    for message in &received {
        assert_eq!(message.event["id"], Value::String(message.id.clone()));
        assert_eq!(message.event["type"], Value::String(message.r#type.clone()));
        assert_eq!(message.content_type, "application/cloudevents+json");
    }
    let of_run: Vec<_> = received.iter().filter(|message| message.run() == run.to_string()).collect();
    let keys: Vec<_> = of_run.iter().map(|message| message.routing_key.as_str()).collect();
    assert_eq!(keys, ["provision-instance.started", "provision-instance.succeeded", "instance.ready"]);
    let letters = format!("{exchange}.dead");
    // RabbitMQ counts a quorum queue's messages now and then.
    let wanted = [letters.as_str(), "quorum", "1"];
    let there = until(PATIENCE, async || {
        let queues = server.ctl(&["list_queues", "name", "type", "messages"]).await.unwrap();
        queues.lines().any(|line| line.split_whitespace().eq(wanted)).then_some(())
    });
    assert!(there.await.is_some(), "no queue {wanted:?}");
    until_all_are_published(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_queue_events_are_published_and_counted_as_unroutable() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (server, bench, exchange) = (&rabbitmq().await.server, postgres::bench().await, unique("unheard"));
    bench.start(PROVISION, user()).await;
    let port = tests::servers::free_port().unwrap();

    let _publisher = publisher(&bench, &server.url(), &exchange, &[("HTTP_LISTEN", &format!("127.0.0.1:{port}"))]);

    until_all_are_published(&bench).await;
    let shown = until(PATIENCE, async || {
        let text = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.ok()?.text().await.ok()?;
        text.contains(r#"sluice_events_published_total{result="unroutable"} 1"#).then_some(text)
    });
    let shown = shown.await.expect("one unroutable event is counted");
    assert!(shown.contains("sluice_broker_connected 1"), "{shown}");
    assert_eq!(reqwest::get(format!("http://127.0.0.1:{port}/readyz")).await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_at_the_broker_is_said_once_with_the_mend() {
    let (server, bench) = (&rabbitmq().await.server, postgres::bench().await);
    bench.start(PROVISION, user()).await;
    let closed = format!("amqp://127.0.0.1:{}/%2f", tests::servers::free_port().unwrap());
    let cases = [
        (server.url().replace("%2f", "nowhere"), "rabbitmqctl add_vhost"),
        (server.url_as("narrow", "wr0ng-password"), "check AMQP_URL"),
        (server.url_as("narrow", "n"), "rabbitmqctl set_permissions"),
        (server.url_as("outside", "o"), "rabbitmqctl set_permissions"),
        (closed, "connect: "),
    ];

    for (url, mend) in cases {
        let mut publisher = publisher(&bench, &url, &unique("missing"), &[]);
        publisher.wait_for_log(mend, PATIENCE).await.unwrap();
        // It has tried twice more.
        let tried = server.log().matches("accepting AMQP connection").count();
        if mend != "connect: " {
            let again = until(PATIENCE, async || {
                (server.log().matches("accepting AMQP connection").count() > tried + 1).then_some(())
            });
            assert!(again.await.is_some(), "it does not try again");
        }
        let log = publisher.log();
        assert_eq!(log.matches("events wait in the database").count(), 1, "{log}");
        assert!(!log.contains("wr0ng-password"), "{log}");
    }
    assert_eq!(unpublished(&bench).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_write_publishes_to_what_an_administrator_declared() {
    let (server, bench, exchange) = (&rabbitmq().await.server, postgres::bench().await, unique("allowed"));
    let run = bench.start(PROVISION, user()).await;
    bench.work(run, CREATE, refusal()).await;
    // Whoever may do everything has declared all before.
    publisher(&postgres::bench().await, &server.url(), &exchange, &[])
        .wait_for_log("connected to the broker", PATIENCE)
        .await
        .unwrap();

    let _publisher = publisher(&bench, &server.url_as("narrow", "n"), &exchange, &[]);

    until_all_are_published(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_of_another_kind_is_refused_with_the_mend() {
    let (server, bench, exchange) = (&rabbitmq().await.server, postgres::bench().await, unique("other"));
    let eval = format!(
        "rabbit_exchange:declare({{resource, <<\"/\">>, exchange, <<\"{exchange}\">>}}, fanout, true, false, false, [], <<\"t\">>)."
    );
    server.ctl(&["eval", &eval]).await.unwrap();

    let mut publisher = publisher(&bench, &server.url(), &exchange, &[]);

    publisher.wait_for_log("set EVENTS_EXCHANGE", PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_is_believed_only_with_a_certificate_of_a_trusted_ca() {
    let (shared, bench) = (rabbitmq().await, postgres::bench().await);
    let stranger: Certificates = tests::servers::Authority::new().unwrap().file().unwrap();
    bench.start(PROVISION, user()).await;
    let url = shared.server.tls_url();

    let mut unknown = publisher(&bench, &url, &unique("tls"), &[("SSL_CERT_FILE", stranger.path())]);
    unknown.wait_for_log("events wait in the database", PATIENCE).await.unwrap();
    let waiting = unpublished(&bench).await;
    let log = unknown.log();
    drop(unknown);
    let _known = publisher(&bench, &url, &unique("tls"), &[("SSL_CERT_FILE", shared.authority.path())]);

    assert_eq!(waiting, 1, "{log}");
    assert!(log.to_lowercase().contains("certificate"), "{log}");
    until_all_are_published(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_nothing_or_stands_still_delays_events_and_nothing_else() {
    let mut server = RabbitMq::start(tests::servers::rabbitmq::Options::default()).await.unwrap();
    let (bench, exchange) = (postgres::bench().await, unique("slow"));
    let consumer = Consumer::start(&server.url(), &exchange, &exchange).await.unwrap();
    let mut publisher = publisher(&bench, &server.url(), &exchange, &[]);
    publisher.wait_for_log("connected to the broker", PATIENCE).await.unwrap();
    // What is not told as a loss is not told when it is over.
    for _ in 0..3 {
        server.ctl(&["close_all_connections", "once more"]).await.unwrap();
        bench.start(PROVISION, user()).await;
        until_all_are_published(&bench).await;
    }
    let log = publisher.log();
    assert_eq!(log.matches("connected to the broker").count(), 1 + log.matches("events wait in").count(), "{log}");
    let alarm = |what: &str| format!("rabbit_alarm:{what}.");
    let source = "{resource_limit, memory, node()}";

    server.ctl(&["eval", &alarm(&format!("set_alarm({{{source}, []}})"))]).await.unwrap();
    let run = bench.start(PROVISION, user()).await;
    bench.succeed(run, &STEPS).await;
    publisher.wait_for_log("a memory or disk alarm", PATIENCE).await.unwrap();
    let blocked = unpublished(&bench).await;
    server.ctl(&["eval", &alarm(&format!("clear_alarm({source})"))]).await.unwrap();
    // What was under way when the broker stopped taking may arrive twice.
    let last = until(PATIENCE, async || {
        consumer.received().iter().any(|message| message.r#type == "sluice.instance.ready.v1").then_some(())
    });
    assert!(last.await.is_some(), "{:?}", consumer.received());
    until_all_are_published(&bench).await;
    // That no confirm came in time was the alarm's doing, and no reason to connect anew.
    assert!(!publisher.log().contains("does not confirm"), "{}", publisher.log());

    server.pause().unwrap();
    let other = bench.start(PROVISION, user()).await;
    publisher.wait_for_log("events wait in the database", PATIENCE).await.unwrap();
    server.resume().unwrap();
    until_all_are_published(&bench).await;

    assert!(blocked > 0);
    let there = until(PATIENCE, async || {
        consumer.received().iter().any(|message| message.run() == other.to_string()).then_some(())
    });
    assert!(there.await.is_some(), "{:?}", consumer.received());
}
