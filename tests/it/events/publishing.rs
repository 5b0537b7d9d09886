//! One round after the other on a real ledger: who gets which events, and in which order.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use sluice::{
    events::{Answer, Message, Round, publish_once},
    ledger::OperatorLedger,
};
use tests::ledger::Ledger;
use uuid::Uuid;

use super::Recorder;
use crate::conformance::{
    bench::{Bench, CREATE, PROVISION, STEPS, by, refusal, user},
    postgres::{self, InPostgres},
};

fn body(message: &Message) -> Value {
    serde_json::from_slice(&message.body).unwrap()
}

/// The keys of each run's messages, in the order of their arrival.
fn by_run(messages: &[Message]) -> BTreeMap<String, Vec<u32>> {
    let mut runs: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for message in messages {
        let body = body(message);
        let run = body["data"]["run"].as_str().unwrap().to_owned();
        runs.entry(run).or_default().push(body["sequence"].as_str().unwrap().parse().unwrap());
    }
    runs
}

async fn publish_all(bench: &Bench<InPostgres>, broker: &Recorder) -> usize {
    let mut rounds = 0;
    while publish_once(bench.ledger(), broker, "me", 100).await.unwrap().claimed > 0 {
        rounds += 1;
    }
    rounds
}

#[tokio::test]
async fn what_happens_to_a_run_is_announced_in_its_order() {
    let bench = postgres::bench().await;
    let run = bench.start(PROVISION, user()).await;
    bench.work(run, CREATE, refusal()).await;
    bench.ledger().revive(run, &by("ana")).await.unwrap();
    bench.succeed(run, &STEPS).await;
    let broker = Recorder::default();

    publish_all(&bench, &broker).await;

    let sent = broker.taken();
    let types: Vec<&str> = sent.iter().map(|message| message.r#type.as_str()).collect();
    let expected = ["run.started", "run.dead", "run.revived", "run.succeeded", "instance.ready"];
    assert_eq!(types, expected.map(|what| format!("sluice.{what}.v1")));
    let letters: Vec<bool> = sent.iter().map(|message| message.is_dead_letter).collect();
    assert_eq!(letters, [false, true, false, false, false]);
    assert_eq!(by_run(&sent)[&run.to_string()], [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn what_no_queue_wants_is_published_and_counted() {
    let bench = postgres::bench().await;
    bench.start(PROVISION, user()).await;
    let broker = Recorder::new(|_| Answer::Unroutable);

    let published = publish_once(bench.ledger(), &broker, "me", 100).await.unwrap();

    assert_eq!(published, Round { claimed: 1, unroutable: 1, ..Round::default() });
    assert_eq!(publish_once(bench.ledger(), &broker, "me", 100).await.unwrap(), Round::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_publishers_share_the_events_and_none_overtakes_another_of_its_run() {
    let bench = postgres::bench().await;
    for _ in 0..40 {
        let run = bench.start(PROVISION, user()).await;
        bench.succeed(run, &STEPS).await;
    }
    let broker = Recorder::default();
    let ledger = bench.world.widely(4);

    let publishers = ["a", "b", "c", "d"].map(|name| {
        let (ledger, broker) = (ledger.clone(), &broker);
        async move {
            let mut idle = 0;
            while idle < 3 {
                let published = publish_once(&ledger, broker, name, 7).await.unwrap();
                idle = if published.claimed == 0 { idle + 1 } else { 0 };
            }
        }
    });
    futures::future::join_all(publishers).await;
    publish_all(&bench, &broker).await;

    let sent = broker.taken();
    let ids: std::collections::BTreeSet<Uuid> = sent.iter().map(|message| message.id).collect();
    assert_eq!((sent.len(), ids.len()), (120, 120), "each goes out once");
    for (run, order) in by_run(&sent) {
        assert_eq!(order, [1, 2, 3], "{run}");
    }
}

#[tokio::test]
async fn a_gate_that_closes_and_passes_again_is_announced_once_whatever_closed_it() {
    let bench = postgres::bench().await;
    let scope = sluice::ledger::Scope::Host;
    let ledger = bench.ledger();
    let host = crate::conformance::bench::HOST;

    ledger.pause(scope, host, &by("ana")).await.unwrap();
    ledger.hold(scope, host, Duration::from_secs(600)).await.unwrap();
    ledger.resume(scope, host, &by("ana")).await.unwrap();
    ledger.set_rate(scope, host, Some(5.0), &by("ana")).await.unwrap();

    let broker = Recorder::default();
    publish_all(&bench, &broker).await;
    let sent = broker.taken();
    let seen: Vec<_> = sent.iter().map(|message| (message.routing_key.clone(), body(message))).collect();
    let subject = format!("host/{host}");
    let expected = [("gate.closed", "1"), ("gate.passing", "2")];
    assert_eq!(seen.len(), expected.len(), "{seen:?}");
    for ((key, body), (expected, sequence)) in seen.iter().zip(expected) {
        assert_eq!((key.as_str(), body["sequence"].as_str()), (expected, Some(sequence)));
        assert_eq!(body["subject"], Value::String(subject.clone()));
    }
    assert_eq!(seen[0].1["data"]["paused_by"], "ana");
}

#[tokio::test]
async fn a_run_that_finds_a_phone_linked_or_no_longer_announces_it() {
    let bench = postgres::bench().await;
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let mut superuser = crate::app::App::at(bench.world.url().parse().unwrap()).superuser().await;
    for status in ["connecting", "connected", "connected", "disconnected"] {
        let keep = "update sluice.resource set memory = memory || jsonb_build_object('status', ";
        superuser.run(&format!("{keep}'{status}'::text)")).await;
    }

    let broker = Recorder::default();
    publish_all(&bench, &broker).await;

    let keys: Vec<_> = broker.taken().into_iter().map(|message| message.routing_key).collect();
    assert_eq!(keys, ["provision-instance.started", "instance.connected", "instance.disconnected"], "{run}");
}
