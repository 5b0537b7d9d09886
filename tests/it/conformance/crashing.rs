//! Leases that ran out: who is rescued, and what is counted.

use std::time::Duration;

use sluice::ledger::{Lease, Ledger, Settled};
use workflows::state::{DeathReason, RunState, Spent, StepState};

use super::{
    bench::{Bench, LEASE, LIMITS, LONG, PROVISION, success, user, worker},
    world::World,
};

const CREATE: &str = "create-instance";
const OVER: Duration = Duration::from_secs(LEASE.as_secs() + 1);

pub async fn crashes_count_and_end_the_run_at_the_limit(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;

    for crashes in 1..=LIMITS.crashes {
        bench.take_as(&format!("killed-{crashes}"), run, CREATE).await;
        bench.world.advance(OVER).await;
        assert_eq!(bench.rescue().await, 1);
        assert_eq!(bench.step(run, 0).await.spent, Spent { crashes, ..Spent::default() });
        bench.world.advance(LONG).await;
    }

    let letters = bench.world.dead_letters(run).await;
    assert_eq!(bench.world.run(run).await, RunState::Dead);
    assert_eq!((letters.len(), letters[0].reason), (1, DeathReason::WorkerLost));
    assert_eq!(bench.outcomes(run).await, ["crashed"; 2]);
}

pub async fn a_lost_lease_whose_worker_lives_is_no_crash(bench: &Bench<impl World>) {
    let (lost, kept) = (bench.start(PROVISION, user()).await, bench.start(PROVISION, user()).await);
    let keys = bench.dispatch(CREATE, 10).await;
    bench.ledger().claim(&worker("alive"), &keys).await.unwrap();
    let key = *keys.iter().find(|key| key.run == kept).unwrap();

    // It beats, as it must, every second; this one lease is not among those that it renews.
    for _ in 1..LEASE.as_secs() {
        bench.world.advance(Duration::from_secs(1)).await;
        bench.ledger().renew(&worker("alive"), &[Lease { key, length: LEASE }]).await.unwrap();
    }
    // The lease ends before the next beat.
    bench.world.advance(Duration::from_millis(1100)).await;
    assert_eq!(bench.rescue().await, 1);

    let step = bench.step(lost, 0).await;
    assert_eq!((step.state, step.spent.crashes, step.spent.failures), (StepState::Due, 0, 0));
    assert_eq!(bench.outcomes(lost).await, ["deferred"]);
}

pub async fn a_lease_that_was_renewed_is_not_rescued(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.world.advance(OVER).await;
    let expired = bench.ledger().expired(10).await.unwrap();
    bench.ledger().renew(&worker("w"), &[Lease { key: claim.key, length: LEASE }]).await.unwrap();

    let settled = bench.write(bench.plan_rescue(&expired[0])).await;

    assert_eq!(settled, Settled::Stale);
    assert_eq!(bench.state(run, 0).await, StepState::Running);
    assert_eq!(bench.settle(&claim, success()).await, Settled::Done(RunState::Active));
}

pub async fn a_lease_that_has_not_ended_is_not_expired(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.world.advance(LEASE / 2).await;

    assert!(bench.ledger().expired(10).await.unwrap().is_empty());

    // Nor does a rescue that claims it has.
    let expired = sluice::ledger::Expired { claim, worker_lives: false };
    assert_eq!(bench.write(bench.plan_rescue(&expired)).await, Settled::Stale);
    assert_eq!(bench.step(run, 0).await.spent.crashes, 0);
}

pub async fn a_rescued_attempt_cannot_settle(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.world.advance(OVER).await;
    bench.rescue().await;

    assert_eq!(bench.settle(&claim, success()).await, Settled::Stale);

    assert_eq!(bench.state(run, 0).await, StepState::Due);
    assert_eq!(bench.outcomes(run).await, ["crashed"]);
}
