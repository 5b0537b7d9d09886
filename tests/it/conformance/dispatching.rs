//! From `due` to `dispatched` as the gates allow, and back.

use std::{collections::BTreeSet, time::Duration};

use sluice::ledger::{Key, Ledger, Settled};
use workflows::{ids::RunId, state::StepState};

use super::{
    bench::{Bench, DEPROVISION, LEASE, LONG, PROVISION, RECONFIGURE, retry, success, token, user},
    world::{Gate, Scope, World},
};

const CREATE: &str = "create-instance";

async fn runs(bench: &Bench<impl World>, count: usize) -> Vec<RunId> {
    let mut runs = Vec::new();
    for _ in 0..count {
        runs.push(bench.start(PROVISION, user()).await);
    }
    runs
}

pub async fn a_due_step_is_dispatched_once(bench: &Bench<impl World>) {
    let runs = runs(bench, 3).await;

    let first = bench.dispatch(CREATE, 2).await;
    let second = bench.dispatch(CREATE, 10).await;

    let seen: BTreeSet<_> = first.iter().chain(&second).map(|key| key.run).collect();
    let tokens: BTreeSet<_> = first.iter().chain(&second).map(|key| key.token).collect();
    assert_eq!((first.len(), second.len()), (2, 1));
    assert_eq!(seen, runs.into_iter().collect());
    assert_eq!(tokens.len(), 3);
}

pub async fn a_queue_is_due_as_long_as_a_step_of_it_is(bench: &Bench<impl World>) {
    assert!(bench.ledger().due().await.unwrap().is_empty());
    let one = bench.start(PROVISION, user()).await;
    bench.start(PROVISION, user()).await;
    bench.start(RECONFIGURE, user()).await;

    let both = bench.ledger().due().await.unwrap();
    bench.work(one, CREATE, retry()).await;
    let rest = bench.ledger().due().await.unwrap();
    bench.world.advance(LONG).await;
    let again = bench.ledger().due().await.unwrap();

    assert_eq!(both.iter().map(|queue| queue.as_str()).collect::<Vec<_>>(), ["configure-webhooks", CREATE]);
    assert_eq!(rest.iter().map(|queue| queue.as_str()).collect::<Vec<_>>(), ["configure-webhooks"]);
    assert_eq!(again.len(), 2);
}

pub async fn a_push_that_failed_puts_back_only_its_own_token(bench: &Bench<impl World>) {
    let [one, other] = runs(bench, 2).await[..] else { unreachable!() };
    let keys = bench.dispatch(CREATE, 10).await;
    let stale = Key { token: token(), ..keys[0] };

    assert_eq!(bench.ledger().put_back(&[stale]).await.unwrap(), 0);
    assert!(bench.dispatch(CREATE, 10).await.is_empty());
    assert_eq!(bench.ledger().put_back(&keys).await.unwrap(), 2);

    assert_eq!(bench.dispatch(CREATE, 10).await.len(), 2);
    assert_eq!(bench.ledger().put_back(&keys).await.unwrap(), 0);
    for run in [one, other] {
        assert_eq!(bench.step(run, 0).await.spent, Default::default());
    }
}

pub async fn lost_steps_are_due_again(bench: &Bench<impl World>) {
    let [one, other] = runs(bench, 2).await[..] else { unreachable!() };
    bench.dispatch(CREATE, 1).await;
    let held = bench.take(other, CREATE).await;

    assert_eq!(bench.ledger().lose().await.unwrap(), 1);

    assert_eq!(bench.dispatch(CREATE, 10).await[..].len(), 1);
    assert_eq!(bench.state(other, 0).await, StepState::Running);
    assert!(matches!(bench.settle(&held, success()).await, Settled::Done(_)));
    assert_eq!(bench.step(one, 0).await.spent, Default::default());
}

pub async fn a_paused_step_is_not_dispatched(bench: &Bench<impl World>) {
    runs(bench, 1).await;
    bench.world.set(Gate::Pause(Scope::Step, CREATE)).await;
    assert!(bench.dispatch(CREATE, 10).await.is_empty());

    bench.world.set(Gate::Resume(Scope::Step, CREATE)).await;

    assert_eq!(bench.dispatch(CREATE, 10).await.len(), 1);
}

pub async fn a_paused_workflow_is_not_dispatched_and_others_are(bench: &Bench<impl World>) {
    let provision = bench.start(PROVISION, user()).await;
    bench.succeed(provision, &[CREATE]).await;
    let reconfigure = bench.start(RECONFIGURE, user()).await;
    bench.world.set(Gate::Pause(Scope::Workflow, RECONFIGURE)).await;

    let dispatched = bench.dispatch("configure-webhooks", 10).await;
    bench.world.set(Gate::Resume(Scope::Workflow, RECONFIGURE)).await;
    let resumed = bench.dispatch("configure-webhooks", 10).await;

    assert_eq!(dispatched.iter().map(|key| key.run).collect::<Vec<_>>(), [provision]);
    assert_eq!(resumed.iter().map(|key| key.run).collect::<Vec<_>>(), [reconfigure]);
}

pub async fn a_held_host_is_not_dispatched_to_until_the_hold_is_over(bench: &Bench<impl World>) {
    runs(bench, 1).await;
    bench.world.set(Gate::Hold(Scope::Host, "api.example", Duration::from_secs(60))).await;

    assert!(bench.dispatch_for(CREATE, Some("api.example"), 10).await.is_empty());
    // Long enough that the slow start after a hold would let it through.
    bench.world.advance(Duration::from_secs(30)).await;
    assert!(bench.dispatch_for(CREATE, Some("api.example"), 10).await.is_empty());
    bench.world.advance(Duration::from_secs(31)).await;

    assert_eq!(bench.dispatch_for(CREATE, Some("api.example"), 10).await.len(), 1);
}

pub async fn a_rate_bounds_the_starts_per_second(bench: &Bench<impl World>) {
    runs(bench, 40).await;
    bench.world.set(Gate::Rate(Scope::Step, CREATE, 4.0)).await;
    bench.world.advance(Duration::from_secs(60)).await;

    // However long nothing was started, no more than one second's worth is in store.
    let mut most_at_once = 0;
    let mut started = 0;
    for _ in 0..12 {
        let keys = bench.dispatch(CREATE, 40).await;
        most_at_once = most_at_once.max(keys.len());
        started += keys.len();
        bench.ledger().claim(&super::bench::worker("w"), &keys).await.unwrap();
        bench.world.advance(Duration::from_millis(500)).await;
    }

    assert!(most_at_once <= 4, "{most_at_once} at once");
    // Six seconds, and what a slow machine adds to them.
    assert!((22..=36).contains(&started), "{started} in six seconds");
}

pub async fn concurrency_counts_dispatched_and_running_steps(bench: &Bench<impl World>) {
    runs(bench, 4).await;
    bench.world.set(Gate::Concurrency(Scope::Step, CREATE, 2)).await;
    let keys = bench.dispatch(CREATE, 10).await;
    assert_eq!(keys.len(), 2);

    let claim = match bench.claim("w", keys[0]).await {
        sluice::ledger::Claimed::Yes(claim) => claim,
        other => panic!("{other:?}"),
    };
    assert!(bench.dispatch(CREATE, 10).await.is_empty());
    bench.settle(&claim, success()).await;

    assert_eq!(bench.dispatch(CREATE, 10).await.len(), 1);
}

pub async fn a_more_urgent_run_goes_first_then_the_one_due_longer(bench: &Bench<impl World>) {
    let queue = "configure-webhooks";
    let later = bench.start(PROVISION, user()).await;
    let sooner = bench.start(PROVISION, user()).await;
    bench.work(later, CREATE, success()).await;
    bench.ledger().lose().await.unwrap();
    bench.work(sooner, CREATE, success()).await;
    // Its first try failed: it is due after the one that was started after it.
    bench.work(later, queue, retry()).await;
    bench.ledger().lose().await.unwrap();
    bench.world.advance(LONG).await;
    let urgent = bench.start(RECONFIGURE, user()).await;
    bench.start(DEPROVISION, user()).await;
    bench.world.advance(LEASE).await;

    let mut order = Vec::new();
    for _ in 0..3 {
        order.extend(bench.dispatch(queue, 1).await.into_iter().map(|key| key.run));
    }

    assert_eq!(order, [urgent, sooner, later]);
}
