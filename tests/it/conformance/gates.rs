//! Gates: what a person sets, and the breaker of an API host.

use std::time::Duration;

use sluice::ledger::{Claimed, HostGate, Ledger, PutBack};
use workflows::{
    breaker::{Probed, Rules, Signal, State},
    ids::RunId,
    state::StepState,
};

use super::{
    bench::{Bench, PROVISION, by, user, worker},
    world::{Gate, Scope, World},
};

pub const HOST: &str = "api.example";
const CREATE: &str = "create-instance";
const LEASE: Duration = Duration::from_secs(7);

pub async fn report(bench: &Bench<impl World>, signals: &[Signal]) -> HostGate {
    bench.ledger().report(HOST, signals, &Rules::default(), 1.0).await.unwrap()
}

fn nobody(number: u128) -> RunId {
    RunId::new(uuid::Uuid::from_u128(0xffff_0000 + number))
}

/// Three runs of nobody's fail.
pub async fn trip(bench: &Bench<impl World>) -> HostGate {
    report(bench, &[1, 2, 3].map(|number| Signal::Failing(nobody(number)))).await
}

/// The host answers a probe, and one run that is due is let through.
pub async fn half_open(bench: &Bench<impl World>) -> RunId {
    answer(bench).await;
    let keys = bench.dispatch_for(CREATE, Some(HOST), 10).await;
    assert_eq!(keys.len(), 1);
    keys[0].run
}

async fn answer(bench: &Bench<impl World>) {
    bench.world.advance(Duration::from_secs(60)).await;
    let probe = bench.ledger().probe(HOST, LEASE).await.unwrap().expect("a probe is due");
    let gate = bench.ledger().probed(HOST, probe, Probed::Answered, &Rules::default(), 1.0).await.unwrap();
    assert_eq!(gate.breaker, State::HalfOpen);
}

async fn start(bench: &Bench<impl World>, count: usize) -> Vec<RunId> {
    let mut runs = Vec::new();
    for _ in 0..count {
        runs.push(bench.start(PROVISION, user()).await);
    }
    runs
}

async fn claim(bench: &Bench<impl World>, key: sluice::ledger::Key) -> Claimed {
    let mut asking = worker("w");
    asking.host = Some(HOST.to_owned());
    bench.ledger().claim(&asking, &[key]).await.unwrap().remove(0)
}

pub async fn a_gate_says_whether_a_change_changed_it(bench: &Bench<impl World>) {
    let (ledger, ana) = (bench.ledger(), &by("ana"));

    assert!(!ledger.resume(Scope::Host, HOST, ana).await.unwrap());
    assert!(ledger.pause(Scope::Host, HOST, ana).await.unwrap());
    assert!(!ledger.pause(Scope::Host, HOST, ana).await.unwrap());
    assert!(ledger.hold(Scope::Host, HOST, Duration::from_secs(60), ana).await.unwrap());
    assert!(!ledger.hold(Scope::Host, HOST, Duration::from_secs(30), ana).await.unwrap());
    assert!(ledger.resume(Scope::Host, HOST, ana).await.unwrap());
    assert!(!ledger.resume(Scope::Host, HOST, ana).await.unwrap());
    assert!(!ledger.set_rate(Scope::Workflow, PROVISION, Some(1.0), ana).await.unwrap());
    assert!(!ledger.set_rate(Scope::Step, CREATE, Some(0.0), ana).await.unwrap());
    assert!(!ledger.set_concurrency(Scope::Workflow, PROVISION, Some(1), ana).await.unwrap());
    assert!(ledger.set_rate(Scope::Step, CREATE, None, ana).await.unwrap());
}

pub async fn three_runs_that_fail_open_the_breaker(bench: &Bench<impl World>) {
    start(bench, 3).await;
    let key = bench.dispatch_for(CREATE, Some(HOST), 1).await[0];

    let twice = report(bench, &[Signal::Failing(nobody(1)), Signal::Failing(nobody(2))]).await;
    let opened = report(bench, &[Signal::Failing(nobody(3))]).await;

    assert_eq!((twice.breaker, twice.failing), (State::Closed, true));
    assert_eq!((opened.breaker, opened.probe_due), (State::Open, false));
    assert!(bench.dispatch_for(CREATE, Some(HOST), 10).await.is_empty());
    assert!(matches!(claim(bench, key).await, Claimed::PutBack(PutBack::GateClosed)));
    assert_eq!(bench.state(key.run, 0).await, StepState::Due);
}

pub async fn a_good_answer_in_between_keeps_it_closed(bench: &Bench<impl World>) {
    report(bench, &[Signal::Failing(nobody(1)), Signal::Failing(nobody(2))]).await;

    let calm = report(bench, &[Signal::Healthy(nobody(9))]).await;
    let gate = report(bench, &[Signal::Failing(nobody(3))]).await;

    assert!(!calm.failing);
    assert_eq!(gate.breaker, State::Closed);
}

pub async fn one_process_at_a_time_may_probe(bench: &Bench<impl World>) {
    trip(bench).await;
    assert_eq!(bench.ledger().probe(HOST, LEASE).await.unwrap(), None);
    bench.world.advance(Duration::from_secs(2)).await;
    assert!(bench.ledger().host_gate(HOST).await.unwrap().probe_due);

    let first = bench.ledger().probe(HOST, LEASE).await.unwrap().expect("it is due");
    assert_eq!(bench.ledger().probe(HOST, LEASE).await.unwrap(), None);
    let failed = bench.ledger().probed(HOST, first, Probed::Failed, &Rules::default(), 1.0).await.unwrap();

    assert_eq!((failed.breaker, failed.probe_due), (State::Open, false));
    bench.world.advance(Duration::from_secs(3)).await;
    assert!(bench.ledger().probe(HOST, LEASE).await.unwrap().is_some());
}

pub async fn a_probe_that_came_too_late_changes_nothing(bench: &Bench<impl World>) {
    trip(bench).await;
    bench.world.advance(Duration::from_secs(2)).await;
    let slow = bench.ledger().probe(HOST, LEASE).await.unwrap().unwrap();
    bench.world.advance(LEASE).await;
    bench.ledger().probe(HOST, LEASE).await.unwrap().unwrap();

    let gate = bench.ledger().probed(HOST, slow, Probed::Answered, &Rules::default(), 1.0).await.unwrap();

    assert_eq!(gate.breaker, State::Open);
}

pub async fn a_half_open_breaker_lets_one_untried_run_through(bench: &Bench<impl World>) {
    let runs = start(bench, 5).await;
    let late = bench.dispatch_for(CREATE, Some(HOST), 1).await[0];
    assert_eq!(late.run, runs[0]);
    report(bench, &[1, 2, 3].map(|number| Signal::Failing(runs[number]))).await;

    let let_through = half_open(bench).await;

    assert_eq!(let_through, runs[4]);
    bench.world.advance(Duration::from_secs(5)).await;
    assert!(bench.dispatch_for(CREATE, Some(HOST), 10).await.is_empty());
    assert!(matches!(claim(bench, late).await, Claimed::PutBack(PutBack::GateClosed)));
}

pub async fn only_the_answer_to_the_run_let_through_closes_it(bench: &Bench<impl World>) {
    let runs = start(bench, 2).await;
    trip(bench).await;
    let first = half_open(bench).await;

    let unmoved = report(bench, &[Signal::Healthy(nobody(1)), Signal::Failing(nobody(2))]).await;
    let reopened = report(bench, &[Signal::Failing(first)]).await;
    assert_eq!((unmoved.breaker, reopened.breaker), (State::HalfOpen, State::Open));
    bench.ledger().lose().await.unwrap();
    let second = half_open(bench).await;
    let closed = report(bench, &[Signal::Healthy(second)]).await;

    assert_eq!((closed.breaker, closed.failing), (State::Closed, false));
    assert!(runs.contains(&first) && runs.contains(&second) && first != second);
}

pub async fn a_run_let_through_that_is_put_back_makes_room_for_the_next(bench: &Bench<impl World>) {
    start(bench, 2).await;
    trip(bench).await;
    let first = half_open(bench).await;
    assert!(bench.dispatch_for(CREATE, Some(HOST), 10).await.is_empty());

    bench.ledger().lose().await.unwrap();
    bench.world.advance(Duration::from_secs(2)).await;
    let keys = bench.dispatch_for(CREATE, Some(HOST), 10).await;

    assert_eq!(keys.len(), 1);
    assert!(matches!(claim(bench, keys[0]).await, Claimed::Yes(_)), "{first} was let through before");
}

pub async fn a_backlog_is_let_go_slowly(bench: &Bench<impl World>) {
    start(bench, 200).await;
    trip(bench).await;
    let let_through = half_open(bench).await;
    report(bench, &[Signal::Healthy(let_through)]).await;

    // Nothing is in anybody's hands when the next second's worth is given out.
    let mut given = Vec::new();
    for _ in 0..3 {
        given.push(bench.dispatch_for(CREATE, Some(HOST), 200).await.len());
        bench.ledger().lose().await.unwrap();
        bench.world.advance(Duration::from_secs(1)).await;
    }
    bench.world.advance(Duration::from_secs(8)).await;

    // What a slow machine adds to a second is little beside the whole.
    assert!(given[0] <= 32 && given[0] < given[2] && given[2] <= 180, "{given:?}");
    assert_eq!(bench.dispatch_for(CREATE, Some(HOST), 200).await.len(), 200);
}

pub async fn what_the_host_asks_for_holds_it(bench: &Bench<impl World>) {
    start(bench, 1).await;

    let held = [Signal::Hold(Duration::from_secs(60)), Signal::Hold(Duration::from_secs(20))];
    report(bench, &held).await;
    report(bench, &[Signal::Hold(Duration::from_secs(5))]).await;

    bench.world.advance(Duration::from_secs(40)).await;
    assert!(bench.dispatch_for(CREATE, Some(HOST), 10).await.is_empty());
    bench.world.advance(Duration::from_secs(21)).await;
    assert_eq!(bench.dispatch_for(CREATE, Some(HOST), 10).await.len(), 1);
}

pub async fn a_step_that_waits_for_the_api_says_why(bench: &Bench<impl World>) {
    let user = user();
    bench.world.sign_up(user).await;
    bench.ledger().intake(10).await.unwrap();
    assert_eq!(bench.ledger().explain(HOST, 10).await.unwrap(), 0);
    report(bench, &[Signal::KeyRefused(nobody(1))]).await;

    assert_eq!(bench.ledger().explain(HOST, 10).await.unwrap(), 1);
    assert_eq!(bench.ledger().explain(HOST, 10).await.unwrap(), 0);

    assert!(bench.world.queue_row(user).await.has_error);
}

pub async fn a_limited_host_has_one_seconds_worth_outstanding(bench: &Bench<impl World>) {
    start(bench, 12).await;
    bench.world.set(Gate::Rate(Scope::Host, HOST, 3.0)).await;
    bench.world.advance(Duration::from_secs(60)).await;

    let keys = bench.dispatch_for(CREATE, Some(HOST), 12).await;
    bench.world.advance(Duration::from_secs(60)).await;
    assert!(bench.dispatch_for(CREATE, Some(HOST), 12).await.is_empty());
    assert!(matches!(claim(bench, keys[0]).await, Claimed::Yes(_)));

    assert_eq!(keys.len(), 3);
    assert_eq!(bench.dispatch_for(CREATE, Some(HOST), 12).await.len(), 1);
}
