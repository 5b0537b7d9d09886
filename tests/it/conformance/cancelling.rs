//! Somebody ends a run: at once, or when the step that is running settles.

use std::time::Duration;

use sluice::ledger::{Changed, Claimed, OperatorLedger};
use uuid::Uuid;
use workflows::{
    definition::{Definition, Registry},
    ids::RunId,
    state::{RunState, StepState},
};

use super::{
    bench::{
        Bench, CONFIGURE, CREATE, DEPROVISION, LEASE, LONG, PROVISION, RECONFIGURE, VERIFY, by, due_after, registry,
        retry, run_after, send_back, success, success_that_keeps, user,
    },
    world::{Moment, World},
};

pub async fn a_due_run_is_cancelled_at_once(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;

    assert_eq!(bench.ledger().cancel(run, &by("ana")).await.unwrap(), Changed::Yes);

    assert_eq!(bench.world.run(run).await, RunState::Cancelled);
    assert_eq!(bench.state(run, 0).await, StepState::Cancelled);
    assert_eq!(bench.world.events(run).await, ["provision-instance.started", "provision-instance.cancelled"]);
    assert_eq!(bench.due(CREATE).await, []);
    bench.start(PROVISION, user).await;
}

pub async fn a_run_whose_hint_is_out_is_cancelled_at_once(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let key = bench.due_of(run, CREATE).await;

    assert_eq!(bench.ledger().cancel(run, &by("ana")).await.unwrap(), Changed::Yes);

    assert!(matches!(bench.claim("w", key).await, Claimed::Stale));
    assert_eq!(bench.state(run, 0).await, StepState::Cancelled);
}

pub async fn a_running_step_ends_its_cancelled_run_at_its_settle(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let claim = bench.take(run, CREATE).await;

    assert_eq!(bench.ledger().cancel(run, &by("ana")).await.unwrap(), Changed::AtSettle);
    assert_eq!(bench.state(run, 0).await, StepState::Running);
    let settled = bench.settle(&claim, success_that_keeps("theirs")).await;

    assert_eq!((run_after(&settled), due_after(&settled)), (RunState::Cancelled, None));
    assert_eq!(bench.state(run, 0).await, StepState::Cancelled);
    assert_eq!(bench.world.step(run, 1).await, None);
    assert_eq!(bench.world.attempts(run).await.len(), 1);
    assert_eq!(bench.world.events(run).await, ["provision-instance.started", "provision-instance.cancelled"]);
    // What a deprovision needs is kept.
    assert_eq!(bench.kept_token(user).await.as_deref(), Some("theirs"));
}

pub async fn a_cancelled_run_whose_worker_crashed_ends_at_the_rescue(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.take(run, CREATE).await;
    bench.ledger().cancel(run, &by("ana")).await.unwrap();
    bench.world.advance(LEASE + Duration::from_secs(1)).await;

    assert_eq!(bench.rescue().await, 1);

    assert_eq!(bench.world.run(run).await, RunState::Cancelled);
    assert_eq!(bench.world.attempts(run).await.len(), 1);
    assert!(bench.world.dead_letters(run).await.is_empty());
}

pub async fn a_cancelled_run_leaves_no_step_waiting(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.succeed(run, &[CREATE, CONFIGURE]).await;
    bench.work(run, VERIFY, send_back(CREATE)).await;
    let claim = bench.take(run, CREATE).await;
    bench.ledger().cancel(run, &by("ana")).await.unwrap();

    bench.settle(&claim, retry()).await;

    for position in 0..3 {
        let step = bench.step(run, position).await;
        assert_eq!((step.state, step.moment), (StepState::Cancelled, Moment::Waits), "step {position}");
    }
}

pub async fn a_dead_run_is_discarded(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.dead_run(user).await;

    assert_eq!(bench.ledger().cancel(run, &by("ana")).await.unwrap(), Changed::Yes);

    let letters = bench.world.dead_letters(run).await;
    assert_eq!(bench.world.run(run).await, RunState::Cancelled);
    assert_eq!(bench.state(run, 0).await, StepState::Cancelled);
    assert_eq!(letters[0].resolution.as_deref(), Some("discarded"));
    assert_eq!(
        bench.world.events(run).await,
        ["provision-instance.started", "provision-instance.dead", "provision-instance.cancelled"]
    );
    bench.start(PROVISION, user).await;
}

pub async fn what_has_ended_cannot_be_cancelled(bench: &Bench<impl World>) {
    let run = bench.start(DEPROVISION, user()).await;
    bench.work(run, "delete-instance", success()).await;
    let unknown = RunId::new(Uuid::from_u128(u128::MAX));
    bench.world.advance(LONG).await;

    assert_eq!(bench.ledger().cancel(run, &by("ana")).await.unwrap(), Changed::No(RunState::Succeeded));
    assert_eq!(bench.ledger().cancel(unknown, &by("ana")).await.unwrap(), Changed::Missing);

    assert_eq!(bench.world.run(run).await, RunState::Succeeded);
    assert_eq!(bench.world.events(run).await, ["deprovision-instance.started", "deprovision-instance.succeeded"]);
}

/// A workflow may say who is gone (`gone`).
pub async fn a_run_whose_subject_is_gone_is_cancelled_before_it_makes_anything(bench: &Bench<impl World>) {
    let definitions = registry();
    let definitions = definitions.all().map(|known| Definition { gone: Some("sluice.gone_users"), ..known.clone() });
    bench.world.build(Registry::new(definitions.collect())).await;
    let (goes, stays, later) = (user(), user(), user());
    for user in [goes, stays, later] {
        bench.world.sign_up(user).await;
    }
    let (left, there) = (bench.start(PROVISION, goes).await, bench.start(PROVISION, stays).await);
    let made = bench.start(PROVISION, later).await;
    bench.work(made, CREATE, success()).await;
    // Its first step makes nothing.
    let harmless = bench.start(RECONFIGURE, user()).await;
    for user in [goes, later] {
        bench.world.leave(user).await;
    }

    let keys = [bench.due_of(left, CREATE).await, bench.due_of(there, CREATE).await];
    let first = bench.claim_all("w", &keys).await;
    let mut others = Vec::new();
    for run in [made, harmless] {
        others.push(bench.claim("w", bench.due_of(run, CONFIGURE).await).await);
    }

    assert!(matches!(first[..], [Claimed::Stale, Claimed::Yes(_)]), "{first:?}");
    assert!(matches!(others[..], [Claimed::Yes(_), Claimed::Yes(_)]), "{others:?}");
    assert_eq!(bench.world.run(left).await, RunState::Cancelled);
    assert_eq!(bench.state(left, 0).await, StepState::Cancelled);
    assert_eq!(bench.world.events(left).await, ["provision-instance.started", "provision-instance.cancelled"]);
}
