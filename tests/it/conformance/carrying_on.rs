//! A worker that works on the next step too has it in hand by its settle, without a hint and a
//! claim.

use std::time::Duration;

use sluice::ledger::{
    AttemptSpan, CarriedOn, Claim, Claimed, Lease, OperatorLedger, RelayLedger, Settled, Settlement, SpanIds,
    WorkerLedger,
    settlement::{CarryOn, Quiet},
};
use workflows::{
    definition::Reach,
    outcome::Outcome,
    state::{RunState, StepState},
};

use super::{
    bench::{
        Bench, CONFIGURE, CREATE, LEASE, LONG, PROVISION, STEPS, VERIFY, by, due_after, name, run_after, send_back,
        success, success_that_keeps, success_with, user, worker,
    },
    settling::behind_each_closed_gate,
    world::{Gate, Scope, World},
};

pub async fn a_worker_that_would_go_on_has_the_next_step_in_hand(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take_as("ada", run, CREATE).await;

    let settled = bench.write(going_on(bench, &claim, success_that_keeps("theirs"), Quiet::Yes)).await;

    let carried_on = carried_on_by(&settled).expect("it goes on");
    assert_eq!((run_after(&settled), due_after(&settled)), (RunState::Active, None));
    assert_eq!(carried_on.memory.as_json()["token"], "theirs");
    let (before, next) = (bench.step(run, 0).await, bench.step(run, 1).await);
    assert_eq!((before.state, next.state), (StepState::Succeeded, StepState::Running));
    assert_eq!(bench.due(CONFIGURE).await, []);
    assert_eq!(bench.outcomes(run).await, ["succeeded"]);
}

pub async fn what_was_carried_on_is_what_a_claim_would_have_brought(bench: &Bench<impl World>) {
    let output = || success_with(serde_json::json!({ "made": 7 }));
    let (went_on, claimed) = (bench.start(PROVISION, user()).await, bench.start(PROVISION, user()).await);
    let [first, second] = [bench.take(went_on, CREATE).await, bench.take(claimed, CREATE).await];
    let settled = bench.write(going_on(bench, &first, output(), Quiet::Yes)).await;
    bench.settle(&second, output()).await;

    let made = next_claim(&first, output(), carried_on_by(&settled).unwrap(), CONFIGURE);
    let asked = bench.take(claimed, CONFIGURE).await;

    assert_eq!(made.input.input, asked.input.input);
    assert_eq!(made.input.exclusive_before, asked.input.exclusive_before);
    assert_eq!(made.input.memory, asked.input.memory);
    assert_eq!(
        (&made.workflow, made.version, &made.step, made.spent, &made.send_backs, made.attempt),
        (&asked.workflow, asked.version, &asked.step, asked.spent, &asked.send_backs, asked.attempt)
    );
}

pub async fn a_step_that_was_carried_on_is_settled_and_renewed_like_a_claimed_one(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    let settled = bench.write(going_on(bench, &claim, success(), Quiet::Yes)).await;
    let next = next_claim(&claim, success(), carried_on_by(&settled).unwrap(), CONFIGURE);

    let kept = bench.ledger().renew(&worker("w"), &[Lease { key: next.key, length: LEASE }]).await.unwrap();
    assert_eq!(kept, [Some(true)]);
    let settled = bench.write(going_on(bench, &next, success(), Quiet::Yes)).await;
    let last = next_claim(&next, success(), carried_on_by(&settled).unwrap(), VERIFY);
    assert_eq!(run_after(&bench.settle(&last, success()).await), RunState::Succeeded);

    assert_eq!(bench.settle(&next, success()).await, Settled::Stale);
    assert_eq!(bench.outcomes(run).await, ["succeeded", "succeeded", "succeeded"]);
}

pub async fn a_step_that_was_carried_on_comes_back_when_its_lease_is_over(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.write(going_on(bench, &claim, success(), Quiet::Yes)).await;
    bench.world.advance(LEASE - Duration::from_secs(2)).await;
    assert_eq!(bench.rescue().await, 0);

    bench.world.advance(Duration::from_secs(3)).await;

    let expired = bench.ledger().expired(10).await.unwrap();
    assert_eq!(expired.len(), 1);
    assert_eq!((expired[0].worker.as_str(), expired[0].attempt), ("w", 1));
    assert_eq!(expired[0].span, Some(span()));
    assert_eq!(bench.rescue().await, 1);
    bench.world.advance(LONG).await;
    bench.due_of(run, CONFIGURE).await;
}

pub async fn nobody_goes_on_while_a_gate_counts(bench: &Bench<impl World>) {
    behind_each_closed_gate(bench, async |claim, gate| {
        let settled = bench.write(going_on(bench, &claim, success(), Quiet::Yes)).await;

        assert_eq!(carried_on_by(&settled), None, "{gate:?}");
        assert_eq!(bench.step(claim.key.run, 1).await.state, StepState::Due);
    })
    .await;
}

/// A limit is charged by claims alone.
pub async fn nobody_goes_on_while_a_limit_counts(bench: &Bench<impl World>) {
    bench.world.set(Gate::Rate(Scope::Step, CONFIGURE, 100.0)).await;
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;

    let settled = bench.write(going_on(bench, &claim, success(), Quiet::Yes)).await;

    assert_eq!(carried_on_by(&settled), None);
    assert_eq!(bench.step(run, 1).await.state, StepState::Due);
}

/// It is the host's word that counts, not the outcome: a claim waits until the call can have no
/// effect any more.
pub async fn nobody_goes_on_while_a_call_may_be_under_way(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;

    let settled = bench.write(going_on(bench, &claim, success(), Quiet::Unsure)).await;

    assert_eq!(carried_on_by(&settled), None);
    assert!(matches!(bench.claim("w", due_after(&settled).unwrap().key).await, Claimed::Refused(_)));
}

pub async fn nobody_goes_on_with_a_step_that_was_there_already(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.succeed(run, &STEPS[..2]).await;
    bench.work(run, VERIFY, send_back(CREATE)).await;
    let claim = bench.take(run, CREATE).await;

    let settled = bench.write(going_on(bench, &claim, success(), Quiet::Yes)).await;

    assert_eq!(carried_on_by(&settled), None);
    bench.take(run, CONFIGURE).await;
}

pub async fn nobody_goes_on_with_a_run_whose_end_was_asked_for(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.ledger().cancel(run, &by("grace")).await.unwrap();

    let settled = bench.write(going_on(bench, &claim, success(), Quiet::Yes)).await;

    assert_eq!((run_after(&settled), carried_on_by(&settled)), (RunState::Cancelled, None));
}

pub async fn nobody_goes_on_by_a_stale_settle(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.settle(&claim, success()).await;

    assert_eq!(bench.write(going_on(bench, &claim, success(), Quiet::Yes)).await, Settled::Stale);

    assert_eq!(bench.step(run, 1).await.state, StepState::Due);
}

fn span() -> AttemptSpan {
    let ids = SpanIds { trace: "0af7651916cd43dd8448eb211c80319c".to_owned(), span: "b7ad6b7169203331".to_owned() };
    AttemptSpan { ids, parent: Some("00f067aa0ba902b7".to_owned()) }
}

/// The settlement of a worker that would go on.
fn going_on(bench: &Bench<impl World>, claim: &Claim, outcome: Outcome, quiet: Quiet) -> Settlement {
    let carry_on = Some(CarryOn { lease: LEASE, span: Some(span()) });
    Settlement { carry_on, ..bench.plan(claim, outcome, quiet) }
}

fn carried_on_by(settled: &Settled) -> Option<CarriedOn> {
    let Settled::Done { carried_on, .. } = settled else { panic!("{settled:?}") };
    carried_on.clone()
}

/// What the worker has in hand then.
fn next_claim(before: &Claim, outcome: Outcome, carried_on: CarriedOn, step: &str) -> Claim {
    let Outcome::Success { output, .. } = outcome else { panic!("{outcome:?}") };
    let own = if before.step.as_str() == CREATE { Reach::Exclusive } else { Reach::Shared };
    before.of_next(own, &name(step), output, carried_on, Duration::ZERO)
}
