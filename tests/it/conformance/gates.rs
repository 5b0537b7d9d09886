//! Gates: what a person sets, and the breaker of an API host.

use std::time::{Duration, Instant};

use sluice::ledger::{Claim, Claimed, DueKey, HostGate, OperatorLedger, Refusal, RelayLedger, WorkerLedger};
use tests::ledger::{BETWEEN_RUNS, Ledger, PREFER_UNTRIED};
use workflows::{
    breaker::{Probed, Rules, Signal, State},
    ids::RunId,
    outcome::{Class, Failure, HostSignal, Outcome},
    state::StepState,
};

use super::{
    bench::{
        BRITTLE, Bench, CONFIGURE, CREATE, HOST, PROVISION, STEPS, VERIFY, by, due_after, retry, send_back, success,
        user,
    },
    claiming::assert_refused,
    world::{Moment, Scope, World},
};

/// How long a process has to make its probe.
const LEASE: Duration = Duration::from_secs(7);

pub async fn report(bench: &Bench<impl World>, signals: &[Signal]) -> HostGate {
    bench.ledger().report(HOST, signals, None, &Rules::default(), 1.0).await.unwrap()
}

fn nobody(number: u128) -> RunId {
    RunId::new(uuid::Uuid::from_u128(0xffff_0000 + number))
}

/// Three runs of nobody's fail.
pub async fn trip(bench: &Bench<impl World>) -> HostGate {
    report(bench, &[1, 2, 3].map(|number| Signal::of(nobody(number), HostSignal::Failing))).await
}

/// The host answers a probe, and one run that is due is let through: its claim.
pub async fn half_open(bench: &Bench<impl World>) -> Claim {
    answer(bench).await;
    let mut claims = claim_all(bench).await;
    assert_eq!(claims.len(), 1, "one run is let through");
    claims.remove(0)
}

async fn answer(bench: &Bench<impl World>) {
    bench.world.advance(Duration::from_secs(60)).await;
    let probe = bench.ledger().probe(HOST, LEASE).await.unwrap().expect("a probe is due");
    let gate = bench.ledger().probed(HOST, probe, &Probed::Answered.into(), &Rules::default(), 1.0).await.unwrap();
    assert_eq!(gate.breaker, State::HalfOpen);
}

/// Claim whatever waits. The gates refuse the rest.
async fn claim_all(bench: &Bench<impl World>) -> Vec<Claim> {
    let keys = bench.due(CREATE).await;
    claim_each(bench, &keys).await
}

async fn claim_each(bench: &Bench<impl World>, keys: &[DueKey]) -> Vec<Claim> {
    let mut claims = Vec::new();
    for claimed in bench.claim_all("w", keys).await {
        match claimed {
            Claimed::Yes(claim) => claims.push(*claim),
            refused => assert_refused(&refused, Refusal::GateClosed),
        }
    }
    claims
}

pub async fn a_gate_says_whether_a_change_changed_it(bench: &Bench<impl World>) {
    let (ledger, ana) = (bench.ledger(), &by("ana"));

    assert!(!ledger.resume(Scope::Host, HOST, ana).await.unwrap());
    assert!(ledger.pause(Scope::Host, HOST, ana).await.unwrap());
    assert!(!ledger.pause(Scope::Host, HOST, ana).await.unwrap());
    assert!(ledger.hold(Scope::Host, HOST, Duration::from_secs(60)).await.unwrap());
    assert!(!ledger.hold(Scope::Host, HOST, Duration::from_secs(30)).await.unwrap());
    assert!(ledger.resume(Scope::Host, HOST, ana).await.unwrap());
    assert!(!ledger.resume(Scope::Host, HOST, ana).await.unwrap());
    assert!(!ledger.set_rate(Scope::Workflow, PROVISION, Some(1.0), ana).await.unwrap());
    for no_rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(!ledger.set_rate(Scope::Step, CREATE, Some(no_rate), ana).await.unwrap(), "{no_rate}");
    }
    assert!(!ledger.set_concurrency(Scope::Step, CREATE, Some(0), ana).await.unwrap());
    assert!(!ledger.set_concurrency(Scope::Workflow, PROVISION, Some(1), ana).await.unwrap());
    assert!(ledger.set_rate(Scope::Step, CREATE, None, ana).await.unwrap());
}

pub async fn three_runs_that_fail_open_the_breaker(bench: &Bench<impl World>) {
    bench.start_many(PROVISION, 3).await;
    let elsewhere = bench.start(BRITTLE, user()).await;
    let keys = bench.due(CREATE).await;

    let twice =
        report(bench, &[Signal::of(nobody(1), HostSignal::Failing), Signal::of(nobody(2), HostSignal::Failing)]).await;
    let opened = report(bench, &[Signal::of(nobody(3), HostSignal::Failing)]).await;

    assert_eq!((twice.breaker, twice.failing), (State::Closed, true));
    assert_eq!((opened.breaker, opened.probe_due), (State::Open, false));
    assert_eq!(bench.due(CREATE).await, []);
    let before = bench.world.rows().await;
    assert_refused(&bench.claim("w", keys[0]).await, Refusal::GateClosed);
    assert_eq!(bench.world.rows().await, before);
    assert_eq!(bench.state(keys[0].run, 0).await, StepState::Due);
    bench.take(elsewhere, "first").await;
}

pub async fn a_good_answer_in_between_keeps_it_closed(bench: &Bench<impl World>) {
    report(bench, &[Signal::of(nobody(1), HostSignal::Failing), Signal::of(nobody(2), HostSignal::Failing)]).await;

    let calm = report(bench, &[Signal::of(nobody(9), HostSignal::Healthy)]).await;
    let gate = report(bench, &[Signal::of(nobody(3), HostSignal::Failing)]).await;

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
    let failed = bench.ledger().probed(HOST, first, &Probed::Failed.into(), &Rules::default(), 1.0).await.unwrap();

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

    let gate = bench.ledger().probed(HOST, slow, &Probed::Answered.into(), &Rules::default(), 1.0).await.unwrap();

    assert_eq!(gate.breaker, State::Open);
}

pub async fn a_half_open_breaker_lets_one_untried_run_through(bench: &Bench<impl World>) {
    let runs = bench.start_many(PROVISION, 5).await;
    let keys = bench.due(CREATE).await;
    report(bench, &[0, 1, 2].map(|number| Signal::of(runs[number], HostSignal::Failing))).await;
    answer(bench).await;
    let named: Vec<_> = bench.due(CREATE).await.into_iter().map(|key| key.run).collect();
    assert_eq!(named, runs[3..], "those that failed are pushed last");

    // All of them ask, those that failed first.
    let claims = claim_each(bench, &keys).await;

    assert_eq!(claims.iter().map(|claim| claim.key.run).collect::<Vec<_>>(), [runs[3]]);
    bench.world.advance(Duration::from_secs(5)).await;
    assert_eq!(claim_each(bench, &keys[4..]).await.len(), 0, "while it is under way nothing else is let through");
}

pub async fn a_half_open_breaker_names_few_to_be_pushed(bench: &Bench<impl World>) {
    bench.start_many(PROVISION, 5).await;
    trip(bench).await;
    answer(bench).await;

    let waiting = bench.waiting(CREATE, 10).await.expect("one may go");

    assert!(!waiting.due.is_empty());
    assert_eq!(waiting.most, Some(1));
}

pub async fn where_only_failing_runs_wait_one_of_them_is_let_through(bench: &Bench<impl World>) {
    let runs = bench.start_many(PROVISION, 3).await;
    let keys = bench.due(CREATE).await;
    report(bench, &[0, 1, 2].map(|number| Signal::of(runs[number], HostSignal::Failing))).await;
    answer(bench).await;

    let at_first = claim_each(bench, &keys).await;
    bench.world.advance(PREFER_UNTRIED + Duration::from_secs(1)).await;
    let later = claim_each(bench, &keys).await;

    assert_eq!((at_first.len(), later.len()), (0, 1));
}

pub async fn the_next_run_is_let_through_when_the_first_ones_answer_was_reported(bench: &Bench<impl World>) {
    bench.start_many(PROVISION, 2).await;
    trip(bench).await;
    answer(bench).await;
    let keys = bench.due(CREATE).await;
    let first = claim_each(bench, &keys).await.remove(0);
    bench.settle(&first, retry()).await;

    let at_once = claim_each(bench, &keys[1..]).await.len();
    bench.world.advance(BETWEEN_RUNS).await;
    let later = claim_each(bench, &keys[1..]).await.len();

    assert_eq!((at_once, later), (0, 1));
}

pub async fn the_run_let_through_goes_on_with_its_next_step(bench: &Bench<impl World>) {
    bench.start_many(PROVISION, 2).await;
    trip(bench).await;
    let claim = half_open(bench).await;

    let settled = bench.settle(&claim, success()).await;
    let next = bench.due_of(claim.key.run, CONFIGURE).await;

    assert!(due_after(&settled).is_none_or(|due| due.key == next), "{settled:?}");
    assert!(matches!(bench.claim("w", next).await, Claimed::Yes(_)), "it was let through");
}

pub async fn only_the_answer_to_the_run_let_through_closes_it(bench: &Bench<impl World>) {
    let runs = bench.start_many(PROVISION, 2).await;
    trip(bench).await;
    let first = half_open(bench).await;

    let unmoved =
        report(bench, &[Signal::of(nobody(1), HostSignal::Healthy), Signal::of(nobody(2), HostSignal::Failing)]).await;
    let reopened = report(bench, &[Signal::of(first.key.run, HostSignal::Failing)]).await;
    assert_eq!((unmoved.breaker, reopened.breaker), (State::HalfOpen, State::Open));
    bench.settle(&first, retry()).await;
    let second = half_open(bench).await;
    let closed = report(bench, &[Signal::of(second.key.run, HostSignal::Healthy)]).await;

    assert_eq!((closed.breaker, closed.failing), (State::Closed, false));
    let (first, second) = (first.key.run, second.key.run);
    assert!(runs.contains(&first) && runs.contains(&second) && first != second);
}

pub async fn a_run_let_through_that_says_nothing_makes_room_for_the_next(bench: &Bench<impl World>) {
    bench.start_many(PROVISION, 2).await;
    trip(bench).await;
    let first = half_open(bench).await;
    assert_eq!(claim_all(bench).await.len(), 0);

    // Its worker was killed, and rescued; nobody heard what the host answered.
    bench.world.advance(super::bench::LEASE + BETWEEN_RUNS).await;
    assert_eq!(bench.rescue().await, 1);
    let second = claim_all(bench).await;

    assert_eq!(second.len(), 1, "{:?} was let through before", first.key.run);
}

pub async fn a_backlog_is_let_go_slowly(bench: &Bench<impl World>) {
    bench.start_many(PROVISION, 400).await;
    let mut keys = bench.due(CREATE).await;
    trip(bench).await;
    let let_through = half_open(bench).await;
    keys.retain(|key| key.run != let_through.key.run);
    report(bench, &[Signal::of(let_through.key.run, HostSignal::Healthy)]).await;

    let (closed, mut given) = (Instant::now(), Vec::new());
    for second in 0..3 {
        let asked = Instant::now();
        let claims = claim_each(bench, &keys[..120]).await;
        keys.retain(|key| claims.iter().all(|claim| claim.key.run != key.run));
        // One second's worth at the rate of this moment, and what the claims themselves took.
        let rate = 20.0 * 2f64.powf(f64::from(second) + closed.elapsed().as_secs_f64());
        let most = rate * (1.0 + asked.elapsed().as_secs_f64());
        assert!(claims.len() as f64 <= most, "{} in second {second}, and at most {most}", claims.len());
        given.push(claims.len());
        bench.world.advance(Duration::from_secs(1)).await;
    }
    bench.world.advance(Duration::from_secs(8)).await;

    assert!(given[0] < given[2], "{given:?}");
    assert_eq!(claim_each(bench, &keys).await.len(), keys.len());
}

pub async fn what_the_host_asks_for_holds_it(bench: &Bench<impl World>) {
    bench.start(PROVISION, user()).await;

    let held = [
        Signal::of_a_probe(HostSignal::Hold(Duration::from_secs(60))),
        Signal::of_a_probe(HostSignal::Hold(Duration::from_secs(20))),
    ];
    report(bench, &held).await;
    report(bench, &[Signal::of_a_probe(HostSignal::Hold(Duration::from_secs(5)))]).await;

    bench.world.advance(Duration::from_secs(40)).await;
    assert_eq!(bench.due(CREATE).await, []);
    bench.world.advance(Duration::from_secs(21)).await;
    assert_eq!(bench.due(CREATE).await.len(), 1);
}

pub async fn a_step_that_waits_for_the_api_says_why(bench: &Bench<impl World>) {
    let user = user();
    bench.world.sign_up(user).await;
    bench.ledger().intake(10).await.unwrap();
    bench.start(BRITTLE, super::bench::user()).await;
    let untold = async || bench.ledger().upkeep().await.unwrap().untold;
    assert_eq!((untold().await, bench.ledger().explain(10).await.unwrap()), (false, 0));
    report(bench, &[Signal::of(nobody(1), HostSignal::KeyRefused)]).await;

    assert!(untold().await);
    assert_eq!(bench.ledger().explain(10).await.unwrap(), 1);
    assert_eq!(bench.ledger().explain(10).await.unwrap(), 0);

    let said = bench.world.queue_row(user).await.error.expect("a reason");
    assert!(said.contains(HOST) && said.contains(Rules::default().key_advice), "{said}");

    answer(bench).await;
    assert!(untold().await);
    assert_eq!(bench.ledger().explain(10).await.unwrap(), 1);
    assert_eq!((untold().await, bench.ledger().explain(10).await.unwrap()), (false, 0));
    assert_eq!(bench.world.queue_row(user).await.error, None);
}

pub async fn a_step_that_waited_for_the_api_is_due_at_once_when_it_answers(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    let failure = Failure::new(Class::Unreachable, "refused").with_host(HostSignal::Failing);
    bench.settle(&claim, Outcome::Defer { failure, after: Some(Duration::from_secs(300)) }).await;
    trip(bench).await;
    assert_eq!(bench.ledger().explain(10).await.unwrap(), 1);

    answer(bench).await;
    assert_eq!(bench.due(CREATE).await, []);
    assert_eq!(bench.ledger().explain(10).await.unwrap(), 1);

    assert_eq!(bench.due(CREATE).await.len(), 1);
}

pub async fn why_a_step_waited_is_forgotten_once_it_was_worked_on(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.succeed(run, &STEPS[..2]).await;
    trip(bench).await;
    assert_eq!(bench.ledger().explain(10).await.unwrap(), 1);
    answer(bench).await;

    let claim = bench.take(run, VERIFY).await;
    bench.settle(&claim, send_back(CREATE)).await;
    bench.ledger().explain(10).await.unwrap();

    // It waits for the step before it, whatever it waited for.
    assert_eq!((bench.step(run, 0).await.moment, bench.step(run, 2).await.moment), (Moment::Now, Moment::Waits));
}
