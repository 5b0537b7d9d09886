//! Somebody ends a run: at once, or when the step that is running settles.

use std::time::Duration;

use serde_json::json;
use sluice::ledger::{Changed, Claimed, Ledger, Settled};
use uuid::Uuid;
use workflows::{
    ids::RunId,
    outcome::{Facts, Outcome},
    secret::Secret,
    state::{RunState, StepState},
};

use super::{
    bench::{Bench, LEASE, LONG, PROVISION, by, retry, send_back, success, user},
    world::{Moment, World},
};

const CREATE: &str = "create-instance";

pub async fn a_due_run_is_cancelled_at_once(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;

    assert_eq!(bench.ledger().cancel(run, &by("ana")).await.unwrap(), Changed::Yes);

    assert_eq!(bench.world.run(run).await, RunState::Cancelled);
    assert_eq!(bench.state(run, 0).await, StepState::Cancelled);
    assert_eq!(bench.world.events(run).await, ["provision-instance.cancelled"]);
    assert!(bench.dispatch(CREATE, 10).await.is_empty());
    bench.start(PROVISION, user).await;
}

pub async fn a_dispatched_run_is_cancelled_at_once(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let key = bench.dispatch_of(run, CREATE).await;

    assert_eq!(bench.ledger().cancel(run, &by("ana")).await.unwrap(), Changed::Yes);

    assert!(matches!(bench.claim("w", key).await, Claimed::Stale));
    assert_eq!(bench.ledger().put_back(&[key]).await.unwrap(), 0);
    assert_eq!(bench.state(run, 0).await, StepState::Cancelled);
}

pub async fn a_running_step_ends_its_cancelled_run_at_its_settle(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let claim = bench.take(run, CREATE).await;

    assert_eq!(bench.ledger().cancel(run, &by("ana")).await.unwrap(), Changed::AtSettle);
    assert_eq!(bench.state(run, 0).await, StepState::Running);
    let facts = Facts { token: Some(Secret::new("theirs")), ..Facts::default() };
    let settled = bench.settle(&claim, Outcome::Success { output: json!({}), facts, note: None }).await;

    assert_eq!(settled, Settled::Done(RunState::Cancelled));
    assert_eq!(bench.state(run, 0).await, StepState::Cancelled);
    assert_eq!(bench.world.step(run, 1).await, None);
    assert_eq!(bench.world.attempts(run).await.len(), 1);
    assert_eq!(bench.world.events(run).await, ["provision-instance.cancelled"]);
    // What a deprovision needs is kept.
    assert_eq!(bench.subject_token(&user.subject()).await, "theirs");
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
    bench.succeed(run, &[CREATE, "configure-webhooks"]).await;
    bench.work(run, "verify", send_back(CREATE)).await;
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
    assert_eq!(bench.world.events(run).await, ["provision-instance.dead", "provision-instance.cancelled"]);
    bench.start(PROVISION, user).await;
}

pub async fn what_has_ended_cannot_be_cancelled(bench: &Bench<impl World>) {
    let run = bench.start("deprovision-instance", user()).await;
    bench.work(run, "delete-instance", success()).await;
    let unknown = RunId::new(Uuid::from_u128(u128::MAX));
    bench.world.advance(LONG).await;

    assert_eq!(bench.ledger().cancel(run, &by("ana")).await.unwrap(), Changed::No(RunState::Succeeded));
    assert_eq!(bench.ledger().cancel(unknown, &by("ana")).await.unwrap(), Changed::Missing);

    assert_eq!(bench.world.run(run).await, RunState::Succeeded);
    assert_eq!(bench.world.events(run).await, ["deprovision-instance.succeeded"]);
}
