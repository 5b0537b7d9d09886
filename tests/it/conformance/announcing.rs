//! Events in several publishers' hands: only Postgres' own. The model has its publishers in the
//! simulator.

use std::time::Duration;

use sluice::{
    events::{Answer, Round, publish_once},
    ledger::EventLedger,
};

use super::{
    bench::{Bench, PROVISION, STEPS, user},
    postgres::InPostgres,
};
use crate::events::Recorder;

pub async fn the_next_event_of_a_run_waits_until_the_one_before_it_is_confirmed(bench: &Bench<InPostgres>) {
    let run = bench.start(PROVISION, user()).await;
    bench.succeed(run, &STEPS).await;
    let losing = Recorder::new(|_| Answer::Lost);
    let taking = Recorder::default();

    let lost = publish_once(bench.ledger(), &losing, "me", 100).await.unwrap();
    let again = publish_once(bench.ledger(), &taking, "me", 100).await.unwrap();

    assert_eq!(lost, Round { claimed: 1, unconfirmed: 1, ..Round::default() });
    assert_eq!(again, Round { claimed: 1, routed: 1, ..Round::default() });
    assert_eq!(losing.taken()[0].id, taking.taken()[0].id, "it goes out again under its id");
    let mut later = Vec::new();
    while publish_once(bench.ledger(), &taking, "me", 100).await.unwrap().claimed > 0 {
        later.extend(taking.taken().into_iter().map(|message| message.routing_key));
    }
    assert_eq!(later, ["provision-instance.succeeded", "instance.ready"]);
}

pub async fn a_claim_of_an_event_is_one_publishers_until_it_ends(bench: &Bench<InPostgres>) {
    bench.start(PROVISION, user()).await;
    let ledger = bench.ledger();

    let first = ledger.claim_events("a", Duration::from_secs(30), 10).await.unwrap();
    let meanwhile = ledger.claim_events("b", Duration::from_secs(30), 10).await.unwrap();
    bench.world.advance_events(Duration::from_secs(31)).await;
    let after = ledger.claim_events("b", Duration::from_secs(30), 10).await.unwrap();
    // The first publisher comes back: its event is another's now, and its note of failure changes
    // nothing.
    ledger.publish_events("a", &[], &[first[0].id]).await.unwrap();
    let still = ledger.claim_events("c", Duration::from_secs(30), 10).await.unwrap();

    assert_eq!((first.len(), meanwhile.len(), after.len(), still.len()), (1, 0, 1, 0));
    assert_eq!(first[0].id, after[0].id);
    // What it has confirmed is published, whoever has it in hand.
    ledger.publish_events("a", &[first[0].id], &[]).await.unwrap();
    bench.world.advance_events(Duration::from_secs(31)).await;
    assert!(ledger.claim_events("c", Duration::from_secs(30), 10).await.unwrap().is_empty());
}

pub async fn an_event_that_the_broker_refuses_stands_in_no_others_way(bench: &Bench<InPostgres>) {
    bench.start(PROVISION, user()).await;
    bench.start(PROVISION, user()).await;
    let refusing = Recorder::new(|_| Answer::Unconfirmed);
    let taking = Recorder::default();

    let refused = publish_once(bench.ledger(), &refusing, "me", 1).await.unwrap();
    let other = publish_once(bench.ledger(), &taking, "me", 1).await.unwrap();
    bench.world.advance_events(Duration::from_secs(31)).await;
    let again = publish_once(bench.ledger(), &taking, "me", 1).await.unwrap();

    assert_eq!(refused, Round { claimed: 1, unconfirmed: 1, ..Round::default() });
    assert_eq!((other.routed, again.routed), (1, 1));
    let (kept, sent) = (refusing.taken(), taking.taken());
    assert_ne!(kept[0].id, sent[0].id);
    assert_eq!(kept[0].id, sent[1].id, "it goes out again under its id");
}
