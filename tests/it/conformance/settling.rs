//! From `running` to wherever the attempt led: written once, as a whole, by whoever holds the
//! token.

use serde_json::json;
use sluice::ledger::{Claim, Claimed, Settled, settlement::Quiet};
use workflows::{
    outcome::{Memory, Outcome},
    state::{DeathReason, RunState, StepState},
};

use super::{
    bench::{
        Bench, CONFIGURE, CREATE, DEPROVISION, HOST, LEASE, LONG, PROVISION, STEPS, VERIFY, defer, due_after, refusal,
        resource_of, retry, run_after, send_back, success, success_that_keeps, success_with, user,
    },
    world::{Gate, Moment, Scope, World},
};

pub async fn a_success_makes_the_next_step_due_with_its_output_and_memory(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let claim = bench.take(run, CREATE).await;
    let memory = Memory::default().with("token", "theirs").with("webhook_url", "https://app.example/hook");
    let outcome = Outcome::Success { output: json!({ "made": 1 }), memory, note: Some("adopted".to_owned()) };

    assert_eq!(run_after(&bench.settle(&claim, outcome).await), RunState::Active);

    let (done, next) = (bench.step(run, 0).await, bench.step(run, 1).await);
    assert_eq!((done.state, done.output), (StepState::Succeeded, Some(json!({ "made": 1 }))));
    assert_eq!((next.state, next.moment), (StepState::Due, Moment::Now));
    let memory = bench.world.resource(&resource_of(user)).await.memory;
    assert_eq!(memory, json!({ "token": "theirs", "webhook_url": "https://app.example/hook" }));
    assert_eq!(bench.outcomes(run).await, ["succeeded"]);
    assert_eq!(bench.world.events(run).await, ["provision-instance.started"]);
}

pub async fn what_a_step_keeps_is_merged_into_what_was_kept(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let keeps = |memory| Outcome::Success { output: json!({}), memory, note: None };
    bench.work(run, CREATE, keeps(Memory::default().with("token", "first").with("status", "connecting"))).await;

    bench.work(run, CONFIGURE, keeps(Memory::default().with("token", "second").with("paired", true))).await;

    let memory = bench.world.resource(&resource_of(user)).await.memory;
    assert_eq!(memory, json!({ "token": "second", "status": "connecting", "paired": true }));
}

pub async fn what_a_settle_makes_due_is_named_and_is_what_waits(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    for (queue, outcome, next) in [
        (CREATE, success(), Some(CONFIGURE)),
        (CONFIGURE, success(), Some(VERIFY)),
        (VERIFY, send_back(CREATE), Some(CREATE)),
        (CREATE, success(), Some(CONFIGURE)),
        (CONFIGURE, success(), Some(VERIFY)),
        (VERIFY, success(), None),
    ] {
        let claim = bench.take(run, queue).await;

        let settled = bench.settle(&claim, outcome).await;

        let named = due_after(&settled);
        assert_eq!(named.map(|due| due.step.as_str()), next, "after {queue}");
        if let Some(due) = named {
            let waiting = bench.waiting(due.step.as_str(), 10).await.expect("it waits");
            assert_eq!(waiting.due.iter().collect::<Vec<_>>(), [due]);
        }
    }
}

pub async fn a_step_that_is_due_later_is_named_by_no_settle(bench: &Bench<impl World>) {
    let runs = bench.start_many(PROVISION, 3).await;
    for (run, outcome) in runs.into_iter().zip([retry(), defer(), refusal()]) {
        let claim = bench.take(run, CREATE).await;

        assert_eq!(due_after(&bench.settle(&claim, outcome).await), None);
    }
}

pub async fn a_step_behind_a_closed_gate_is_named_by_no_settle(bench: &Bench<impl World>) {
    behind_each_closed_gate(bench, async |claim, gate| {
        assert_eq!(due_after(&bench.settle(&claim, success()).await), None, "{gate:?}");
    })
    .await;
}

/// `settles` the first step of a run whose next one is behind a gate that has just closed. Once the
/// gate passes the run goes on.
pub async fn behind_each_closed_gate<W: World>(bench: &Bench<W>, settles: impl AsyncFn(Claim, Gate<'_>)) {
    for gate in [
        Gate::Pause(Scope::Step, CONFIGURE),
        Gate::Pause(Scope::Workflow, PROVISION),
        Gate::Hold(Scope::Host, HOST, LONG),
    ] {
        let run = bench.start(PROVISION, user()).await;
        let claim = bench.take(run, CREATE).await;
        bench.world.set(gate).await;

        settles(claim, gate).await;

        let (Gate::Pause(scope, name) | Gate::Hold(scope, name, _)) = gate else { unreachable!() };
        bench.world.set(Gate::Resume(scope, name)).await;
        bench.world.advance(LONG).await;
        bench.due_of(run, CONFIGURE).await;
    }
}

pub async fn a_run_whose_turn_a_settle_brings_is_due(bench: &Bench<impl World>) {
    let user = user();
    let first = bench.start(PROVISION, user).await;
    let second = bench.start(DEPROVISION, user).await;
    bench.succeed(first, &STEPS[..2]).await;
    let claim = bench.take(first, VERIFY).await;

    let settled = bench.settle(&claim, success()).await;

    let key = bench.due_of(second, "delete-instance").await;
    assert!(due_after(&settled).is_none_or(|due| due.key == key), "{settled:?}");
    assert!(matches!(bench.claim("w", key).await, Claimed::Yes(_)));
}

pub async fn the_last_success_ends_the_run(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.succeed(run, &STEPS[..2]).await;

    assert_eq!(bench.work(run, VERIFY, success()).await, RunState::Succeeded);

    assert_eq!(bench.world.run(run).await, RunState::Succeeded);
    assert_eq!(bench.world.events(run).await, ["provision-instance.started", "provision-instance.succeeded"]);
    assert_eq!(bench.outcomes(run).await, ["succeeded"; 3]);
    assert_eq!(bench.world.step(run, 3).await, None);
}

pub async fn a_late_settle_changes_nothing(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let late = bench.take(run, CREATE).await;
    bench.settle(&late, retry()).await;
    bench.world.advance(LONG).await;
    bench.take(run, CREATE).await;
    let before = bench.step(run, 0).await;

    for outcome in [success(), retry(), refusal()] {
        assert_eq!(bench.settle(&late, outcome).await, Settled::Stale);
    }

    assert_eq!(bench.step(run, 0).await, before);
    assert_eq!(bench.world.step(run, 1).await, None);
    assert_eq!(bench.world.run(run).await, RunState::Active);
    assert_eq!(bench.outcomes(run).await, ["failed"]);
}

pub async fn a_settle_twice_in_one_batch_is_written_once(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    let settlement = bench.plan(&claim, retry(), Quiet::Yes);

    let settled = bench.write_all(&[settlement.clone(), settlement]).await;

    assert_eq!(run_after(&settled[0]), RunState::Active);
    assert_eq!(bench.outcomes(run).await, ["failed"]);
    assert_eq!(bench.step(run, 0).await.spent.failures, 1);
}

pub async fn a_late_settle_beside_the_right_one_changes_nothing(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let late = bench.take(run, CREATE).await;
    bench.settle(&late, retry()).await;
    bench.world.advance(LONG).await;
    let claim = bench.take(run, CREATE).await;
    let late = bench.plan(&late, success_that_keeps("late"), Quiet::Yes);
    let right = bench.plan(&claim, defer(), Quiet::Yes);

    let settled = bench.write_all(&[late.clone(), right, late]).await;

    assert_eq!((&settled[0], &settled[2]), (&Settled::Stale, &Settled::Stale));
    assert_eq!(run_after(&settled[1]), RunState::Active);
    let step = bench.step(run, 0).await;
    assert_eq!((step.state, step.spent.defers, step.output), (StepState::Due, 1, None));
    assert_eq!(bench.outcomes(run).await, ["failed", "deferred"]);
    assert_eq!(bench.kept_token(user).await, None);
    assert_eq!(bench.world.step(run, 1).await, None);
}

pub async fn a_permanent_failure_ends_the_run_at_once(bench: &Bench<impl World>) {
    let run = bench.dead_run(user()).await;

    let letters = bench.world.dead_letters(run).await;
    assert_eq!(bench.state(run, 0).await, StepState::Dead);
    assert_eq!((letters.len(), letters[0].position, letters[0].reason), (1, 0, DeathReason::PermanentError));
    assert_eq!(letters[0].resolution, None);
    assert_eq!(bench.world.events(run).await, ["provision-instance.started", "provision-instance.dead"]);
    assert_eq!(bench.outcomes(run).await, ["refused"]);
}

pub async fn a_bad_settlement_harms_only_itself(bench: &Bench<impl World>) {
    let (good, bad) = (bench.start(PROVISION, user()).await, bench.start(PROVISION, user()).await);
    let (right, wrong) = (bench.take(good, CREATE).await, bench.take(bad, CREATE).await);
    let settlements = [
        bench.plan(&wrong, success_with(json!({ "text": "a\u{0}b" })), Quiet::Yes),
        bench.plan(&right, success(), Quiet::Yes),
    ];

    let settled = bench.write_all(&settlements).await;

    assert!(matches!(settled[0], Settled::Refused(_)), "{settled:?}");
    assert_eq!(run_after(&settled[1]), RunState::Active);
    assert_eq!(bench.state(good, 1).await, StepState::Due);
    assert_eq!(bench.state(bad, 0).await, StepState::Running);
    assert!(bench.outcomes(bad).await.is_empty());
    // Its lease runs out, and a rescue says so.
    bench.world.advance(LEASE + LONG).await;
    assert_eq!(bench.rescue().await, 1);
    assert_eq!(bench.outcomes(bad).await, ["crashed"]);
}
