//! Leases that ran out: who is rescued, and what is counted.

use std::time::Duration;

use sluice::ledger::{Changed, Claimed, Lease, OperatorLedger, RelayLedger, Settled, Upkeep, WorkerLedger};
use workflows::state::{DeathReason, RunState, Spent, StepState};

use super::{
    bench::{
        Bench, CREATE, DEADLINE, LEASE, LIMITS, LONG, PROVISION, by, due_after, expired, run_after, success, user,
        worker,
    },
    world::{Moment, World},
};

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
    bench.take_as("alive", lost, CREATE).await;
    let key = bench.take_as("alive", kept, CREATE).await.key;

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

/// A lease that is so young is not moved with the beat: the worker may have been killed after it.
pub async fn a_beat_right_after_a_claim_does_not_say_that_its_worker_lives(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.take_as("killed", run, CREATE).await;
    bench.world.advance(Duration::from_millis(500)).await;
    bench.ledger().renew(&worker("killed"), &[]).await.unwrap();
    bench.world.advance(OVER).await;

    assert_eq!(bench.rescue().await, 1);

    assert_eq!(bench.step(run, 0).await.spent.crashes, 1);
    assert_eq!(bench.outcomes(run).await, ["crashed"]);
}

pub async fn a_rescued_step_is_due_at_once_and_once_more(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let before = bench.due_of(run, CREATE).await;
    assert!(matches!(bench.claim("killed", before).await, Claimed::Yes(_)));
    bench.world.advance(OVER).await;
    let expired = bench.ledger().expired(10).await.unwrap();

    let settled = RelayLedger::settle(bench.ledger(), &[bench.plan_rescue(&expired[0])]).await.unwrap();

    let after = bench.due_of(run, CREATE).await;
    assert_eq!(due_after(&settled[0]).map(|due| due.key), Some(after), "it may be pushed at once");
    assert_eq!(bench.step(run, 0).await.moment, Moment::Now);
    assert!(before.generation < after.generation, "{before:?}, {after:?}");
    assert!(matches!(bench.claim("w", before).await, Claimed::Stale));
    let Claimed::Yes(claim) = bench.claim("w", after).await else { panic!("it was not claimed") };
    assert_eq!((claim.attempt, claim.spent.crashes), (2, 1));
}

pub async fn what_ran_out_says_whose_attempt_it_was(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take_as("killed", run, CREATE).await;
    bench.world.advance(OVER).await;

    let expired = bench.ledger().expired(10).await.unwrap();

    let [one] = &expired[..] else { panic!("{expired:?}") };
    assert_eq!((one.key, one.attempt, one.spent), (claim.key, 1, Spent::default()));
    assert_eq!((one.workflow.as_str(), one.version, one.step.as_str()), (PROVISION, 1, CREATE));
    assert_eq!((one.worker.as_str(), one.worker_lives), ("killed", false));
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
    assert_eq!(run_after(&bench.settle(&claim, success()).await), RunState::Active);
}

pub async fn a_lease_that_has_not_ended_is_not_expired(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.world.advance(LEASE / 2).await;

    assert!(bench.ledger().expired(10).await.unwrap().is_empty());

    // Nor does a rescue that claims it has.
    assert_eq!(bench.write(bench.plan_rescue(&expired(&claim))).await, Settled::Stale);
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

pub async fn one_look_tells_what_upkeep_has_to_do(bench: &Bench<impl World>) {
    let (lost, unwanted) = (bench.start(PROVISION, user()).await, bench.start(PROVISION, user()).await);
    bench.take_as("killed", lost, CREATE).await;
    let upkeep = async || bench.ledger().upkeep().await.unwrap();
    let running = Upkeep { running: true, ..Upkeep::default() };
    assert_eq!(upkeep().await, running);

    assert_eq!(bench.ledger().cancel(unwanted, &by("ana")).await.unwrap(), Changed::Yes);
    assert_eq!(upkeep().await, Upkeep { cancelled: true, ..running });
    bench.ledger().spans_that_wait(10).await.unwrap();
    assert_eq!(upkeep().await, running);

    bench.world.advance(OVER).await;
    assert_eq!(upkeep().await, Upkeep { expired: true, ..running });
    bench.rescue().await;
    let nothing = Upkeep::default();
    assert_eq!(upkeep().await, nothing);

    bench.world.advance(DEADLINE).await;
    assert_eq!(upkeep().await, Upkeep { late: true, ..nothing });
    bench.ledger().exceed(10).await.unwrap();
    assert_eq!(upkeep().await, nothing);
}
