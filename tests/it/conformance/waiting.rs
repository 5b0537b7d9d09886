//! What waits to be pushed: what is due, and let through by its gates. Reading it changes nothing,
//! and a step waits until a claim has won it.

use std::time::Duration;

use sluice::ledger::{Claimed, RelayLedger};
use tests::ledger::Ledger;
use workflows::ids::RunId;

use super::{
    bench::{Bench, CONFIGURE, CREATE, DEPROVISION, HOST, LEASE, LONG, PROVISION, RECONFIGURE, retry, success, user},
    world::{Gate, Scope, World},
};

async fn queues(bench: &Bench<impl World>) -> Vec<String> {
    let waiting = bench.ledger().waiting(10).await.unwrap();
    let mut queues: Vec<_> = waiting
        .into_iter()
        .filter(|waiting| !waiting.due.is_empty())
        .map(|waiting| waiting.queue.to_string())
        .collect();
    queues.sort();
    queues
}

async fn runs(bench: &Bench<impl World>, queue: &str) -> Vec<RunId> {
    bench.due(queue).await.into_iter().map(|key| key.run).collect()
}

pub async fn a_due_step_waits_until_it_is_claimed(bench: &Bench<impl World>) {
    let started = bench.start_many(PROVISION, 3).await;
    let before = bench.world.rows().await;

    let first = bench.due(CREATE).await;
    let again = bench.due(CREATE).await;

    assert_eq!(first, again, "whatever became of the hints, the steps are due");
    assert_eq!(bench.world.rows().await, before, "looking writes nothing");
    assert_eq!(first.iter().map(|key| key.run).collect::<Vec<_>>(), started);
    assert!(matches!(bench.claim("w", first[1]).await, Claimed::Yes(_)));
    assert_eq!(bench.due(CREATE).await, [first[0], first[2]]);
}

pub async fn a_queue_waits_as_long_as_a_step_of_it_is_due(bench: &Bench<impl World>) {
    assert!(queues(bench).await.is_empty());
    let one = bench.start(PROVISION, user()).await;
    bench.start(RECONFIGURE, user()).await;

    let both = queues(bench).await;
    bench.work(one, CREATE, retry()).await;
    let rest = queues(bench).await;
    bench.world.advance(LONG).await;
    let again = queues(bench).await;

    assert_eq!(both, [CONFIGURE, CREATE]);
    assert_eq!(rest, [CONFIGURE]);
    assert_eq!(again, [CONFIGURE, CREATE]);
}

pub async fn no_more_of_a_queue_is_named_than_was_asked_for(bench: &Bench<impl World>) {
    let started = bench.start_many(PROVISION, 5).await;
    bench.start(RECONFIGURE, user()).await;

    let waiting = bench.ledger().waiting(2).await.unwrap();

    let named: Vec<_> = waiting.iter().map(|waiting| (waiting.queue.as_str(), waiting.due.len())).collect();
    assert!(named.contains(&(CREATE, 2)) && named.contains(&(CONFIGURE, 1)), "{named:?}");
    let of_create = waiting.iter().find(|waiting| waiting.queue.as_str() == CREATE).unwrap();
    assert_eq!(of_create.due.iter().map(|due| due.key.run).collect::<Vec<_>>(), started[..2]);
}

pub async fn what_waits_says_whose_it_is(bench: &Bench<impl World>) {
    let mut new = super::bench::new_run(PROVISION, user());
    new.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    bench.ledger().start(std::slice::from_ref(&new)).await.unwrap();

    let waiting = bench.waiting(CREATE, 10).await.unwrap();

    let [due] = &waiting.due[..] else { panic!("{waiting:?}") };
    assert_eq!((due.step.as_str(), due.workflow.as_str()), (CREATE, PROVISION));
    assert_eq!((&due.traceparent, &due.linked), (&new.traceparent, &None));
    assert_eq!(waiting.most, None, "nothing limits it");
}

pub async fn a_paused_step_does_not_wait_to_be_pushed(bench: &Bench<impl World>) {
    bench.start(PROVISION, user()).await;
    bench.world.set(Gate::Pause(Scope::Step, CREATE)).await;
    assert_eq!(bench.due(CREATE).await, []);

    bench.world.set(Gate::Resume(Scope::Step, CREATE)).await;

    assert_eq!(bench.due(CREATE).await.len(), 1);
}

pub async fn a_paused_workflow_does_not_wait_and_others_do(bench: &Bench<impl World>) {
    let provision = bench.start(PROVISION, user()).await;
    bench.succeed(provision, &[CREATE]).await;
    let reconfigure = bench.start(RECONFIGURE, user()).await;
    bench.world.set(Gate::Pause(Scope::Workflow, RECONFIGURE)).await;

    let paused = runs(bench, CONFIGURE).await;
    bench.world.set(Gate::Resume(Scope::Workflow, RECONFIGURE)).await;
    let resumed = runs(bench, CONFIGURE).await;

    assert_eq!(paused, [provision]);
    assert_eq!(resumed, [reconfigure, provision]);
}

pub async fn nothing_waits_for_a_held_host_until_the_hold_is_over(bench: &Bench<impl World>) {
    bench.start(PROVISION, user()).await;
    bench.world.set(Gate::Hold(Scope::Host, HOST, Duration::from_secs(60))).await;

    assert_eq!(bench.due(CREATE).await, []);
    // Long enough that the slow start after a hold would let it through.
    bench.world.advance(Duration::from_secs(30)).await;
    assert_eq!(bench.due(CREATE).await, []);
    bench.world.advance(Duration::from_secs(31)).await;

    assert_eq!(bench.due(CREATE).await.len(), 1);
}

pub async fn a_more_urgent_run_goes_first_then_the_one_due_longer(bench: &Bench<impl World>) {
    let later = bench.start(PROVISION, user()).await;
    let sooner = bench.start(PROVISION, user()).await;
    bench.work(later, CREATE, success()).await;
    bench.work(sooner, CREATE, success()).await;
    // Its first try failed: it is due after the one that was started after it.
    bench.work(later, CONFIGURE, retry()).await;
    bench.world.advance(LONG).await;
    let urgent = bench.start(RECONFIGURE, user()).await;
    bench.start(DEPROVISION, user()).await;
    bench.world.advance(LEASE).await;

    assert_eq!(runs(bench, CONFIGURE).await, [urgent, sooner, later]);
}
