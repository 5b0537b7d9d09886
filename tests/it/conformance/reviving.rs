//! A person gives a dead run a fresh budget.

use serde_json::json;
use sluice::ledger::{Changed, OperatorLedger, RelayLedger, Traced};
use uuid::Uuid;
use workflows::{
    ids::RunId,
    state::{RunState, Spent, StepState},
};

use super::{
    bench::{
        Bench, CONFIGURE, CREATE, DEPROVISION, LIMITS, LONG, PROVISION, by, refusal, retry, run_after, success,
        success_with, user,
    },
    world::{Moment, World},
};

pub async fn a_revived_run_keeps_its_outputs_and_gets_a_fresh_budget(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.work(run, CREATE, success_with(json!({ "made": 1 }))).await;
    for _ in 0..LIMITS.failures {
        bench.work(run, CONFIGURE, retry()).await;
        bench.world.advance(LONG).await;
    }
    assert_eq!(bench.world.run(run).await, RunState::Dead);

    assert_eq!(bench.ledger().revive(run, &by("ana")).await.unwrap(), Changed::Yes);

    let (done, failed) = (bench.step(run, 0).await, bench.step(run, 1).await);
    assert_eq!((done.state, done.output), (StepState::Succeeded, Some(json!({ "made": 1 }))));
    assert_eq!((failed.state, failed.moment, failed.spent), (StepState::Due, Moment::Now, Spent::default()));
    assert_eq!(bench.world.dead_letters(run).await[0].resolution.as_deref(), Some("revived"));
    for _ in 1..LIMITS.failures {
        assert_eq!(bench.work(run, CONFIGURE, retry()).await, RunState::Active);
        bench.world.advance(LONG).await;
    }
    let claim = bench.take(run, CONFIGURE).await;
    assert_eq!(claim.input.input, json!({ "made": 1 }));
    assert_eq!(claim.attempt, LIMITS.failures * 2);
    assert_eq!(run_after(&bench.settle(&claim, retry()).await), RunState::Dead);
    let keys = bench.world.events(run).await;
    let expected = ["started", "dead", "revived", "dead"].map(|what| format!("provision-instance.{what}"));
    assert_eq!(keys, expected);
}

pub async fn a_revived_run_waits_for_its_turn(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.dead_run(user).await;
    let other = bench.start(DEPROVISION, user).await;

    assert_eq!(bench.ledger().revive(run, &by("ana")).await.unwrap(), Changed::Yes);
    assert_eq!(bench.step(run, 0).await.moment, Moment::Waits);
    assert_eq!(bench.step(other, 0).await.moment, Moment::Now);
    bench.work(other, "delete-instance", refusal()).await;

    assert_eq!(bench.step(run, 0).await.moment, Moment::Now);
}

pub async fn only_a_dead_run_is_revived(bench: &Bench<impl World>) {
    let active = bench.start(PROVISION, user()).await;
    let done = bench.start(DEPROVISION, user()).await;
    bench.work(done, "delete-instance", success()).await;
    let unknown = RunId::new(Uuid::from_u128(u128::MAX));

    assert_eq!(bench.ledger().revive(active, &by("ana")).await.unwrap(), Changed::No(RunState::Active));
    assert_eq!(bench.ledger().revive(done, &by("ana")).await.unwrap(), Changed::No(RunState::Succeeded));
    assert_eq!(bench.ledger().revive(unknown, &by("ana")).await.unwrap(), Changed::Missing);

    assert_eq!(bench.state(done, 0).await, StepState::Succeeded);
}

pub async fn a_revived_step_is_due_under_another_generation(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let before = bench.due_of(run, CREATE).await;
    bench.work(run, CREATE, refusal()).await;

    bench.ledger().revive(run, &by("ana")).await.unwrap();

    let after = bench.due_of(run, CREATE).await;
    assert!(before.generation < after.generation, "{before:?}, {after:?}");
}

pub async fn a_revived_run_leaves_its_trace_and_is_linked_to_it(bench: &Bench<impl World>) {
    let run = bench.dead_run(user()).await;
    let keep = async |was: Option<&str>, now: &str| {
        let traced = Traced { run, was: was.map(str::to_owned), now: now.to_owned() };
        bench.ledger().keep_traces(&[traced]).await.unwrap()
    };
    let contexts = async || {
        let waiting = bench.waiting(CREATE, 10).await.expect("it is due");
        let [only] = &waiting.due[..] else { panic!("not one step is due: {waiting:?}") };
        (only.traceparent.clone(), only.linked.clone())
    };

    let first = (keep(None, "first").await, keep(None, "other").await, keep(Some("first"), "sampled").await);
    bench.ledger().revive(run, &by("ana")).await.unwrap();
    let revived = contexts().await;
    let second = keep(None, "second").await;

    assert_eq!(first, (vec![true], vec![false], vec![true]));
    assert_eq!(revived, (None, Some("sampled".to_owned())));
    assert_eq!(second, [true]);
    assert_eq!(contexts().await, (Some("second".to_owned()), Some("sampled".to_owned())));
}
