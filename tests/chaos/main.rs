//! Chaos, bounded: real servers, separate processes, and faults at random for less than a minute.
//! `make chaos` runs the long one.

#![allow(clippy::unwrap_used)]

use tests::chaos::{Fault, Options, Scenario};
use tokio::sync::Mutex;

/// One fleet at a time: on a small machine two starve each other, and prove less.
static ALONE: Mutex<()> = Mutex::const_new(());

fn options(users: u32, seconds: u32) -> Options {
    Options {
        users: Some(users),
        seconds: Some(seconds),
        seed: rand::random_range(0..1_000_000),
        say: |text| eprintln!("{text}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sign_up_is_served_once_whatever_is_killed_frozen_or_wiped() {
    let _alone = ALONE.lock().await;

    let report = Scenario::Mixed.run(&options(150, 40)).await.unwrap();

    assert!(report.held(), "{report:#?}");
    let kinds = [
        Fault::WorkerKilled,
        Fault::RelayKilled,
        Fault::WorkerFrozen,
        Fault::PublisherKilled,
        Fault::BrokerKilled,
        Fault::RedisWiped,
        Fault::PostgresKilled,
    ];
    for kind in kinds {
        assert!(report.faults.contains_key(&kind), "nothing was injected of: {kind}; {report:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wiping_redis_three_times_in_a_burst_loses_nothing_and_repeats_nothing() {
    let _alone = ALONE.lock().await;

    let report = Scenario::Flushall.run(&options(200, 0)).await.unwrap();

    assert!(report.held(), "{report:#?}");
    assert_eq!(report.faults.get(&Fault::RedisWiped), Some(&3));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_of_everybody_every_300_ms_loses_nothing_and_repeats_nothing() {
    let _alone = ALONE.lock().await;

    let report = Scenario::Killing.run(&options(60, 12)).await.unwrap();

    assert!(report.held(), "{report:#?}");
    assert!(report.faults.get(&Fault::WorkerKilled).is_some_and(|times| *times > 30), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_instance_is_made_again_while_the_api_loads_what_its_cache_hides() {
    let _alone = ALONE.lock().await;

    let report = Scenario::Loading.run(&options(20, 9)).await.unwrap();

    assert!(report.held(), "{report:#?}");
    assert_eq!(report.faults.get(&Fault::ApiKilled), Some(&3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_in_its_creates_meets_the_next_one_and_every_user_has_one_good_instance() {
    let _alone = ALONE.lock().await;

    let report = Scenario::Frozen.run(&options(8, 0)).await.unwrap();

    assert!(report.held(), "{report:#?}");
    assert!(report.verdict.overlaps_of_frozen > 0, "{report:#?}");
}
