//! A check that cannot fail is none: each invariant is broken by hand here, and must be missed.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use serde_json::json;
use sluice::ledger::settlement::Quiet;
use uuid::Uuid;
use workflows::{
    definition::{Definition, LEASE, Reach, Step as StepDefinition},
    ids::StepName,
    outcome::{Class, Failure, Outcome},
    policy::Retry,
    state::{RunState, Spent, StepState},
    whatsapp::names::InstanceName,
};

use super::*;

const STEP: &str = "create-instance";

fn ledger() -> ModelLedger {
    let steps = [STEP, "verify"].map(|name| StepDefinition {
        name: name.parse().unwrap(),
        timeout: Duration::from_secs(30),
        lease: LEASE,
        retry: Retry::default(),
        reach: Reach::Exclusive,
        host: None,
    });
    let named = |name: &str| Definition {
        name: name.parse().unwrap(),
        version: 1,
        steps: steps.to_vec(),
        deadline: Duration::from_secs(3600),
        priority: 0,
        projection: None,
        source: None,
        gone: None,
    };
    let registry = Registry::new(vec![named("provision-instance"), named("reconfigure-webhooks")]);
    let (runs, tokens) = (AtomicU64::new(1), AtomicI64::new(1));
    let setup = Setup {
        registry: Arc::new(registry),
        draw_run: Arc::new(move || RunId::new(Uuid::from_u128(runs.fetch_add(1, Ordering::Relaxed).into()))),
        draw_secret: Arc::new(|| Secret::new("secret")),
        draw_token: Arc::new(move || Token::new(tokens.fetch_add(1, Ordering::Relaxed))),
        on_sign_up: "provision-instance".parse().unwrap(),
    };
    let ticks = AtomicU64::new(0);
    ModelLedger::new(setup, Arc::new(move || Duration::from_micros(ticks.fetch_add(1, Ordering::Relaxed))))
}

fn user() -> UserId {
    UserId::new(Uuid::from_u128(77))
}

fn start(ledger: &ModelLedger, workflow: &str) -> RunId {
    let new = NewRun {
        workflow: workflow.parse().unwrap(),
        subject: user().subject(),
        resource: InstanceName::of_user(user()).resource(),
        input: json!({}),
        traceparent: None,
        age: Duration::ZERO,
    };
    match ledger.transact(|tx| tx.start(&new)) {
        Started::New(run) => run,
        other => panic!("{workflow} was not started: {other:?}"),
    }
}

/// Claims and settles the run's first step.
fn settle(ledger: &ModelLedger, outcome: Outcome) -> RunState {
    let worker = Worker { name: "w".to_owned() };
    ledger.transact(|tx| {
        let waiting = tx.waiting(1);
        let due = waiting.iter().find(|waiting| waiting.queue == STEP.parse::<StepName>().unwrap());
        let ask = Ask { key: due.expect("it is due").due[0].key, span: None };
        let mut claimed = tx.claim_all(&worker, &[ask]);
        let Claimed::Yes(claim) = claimed.remove(0) else { panic!("it was not claimed") };
        let workflow = tx.setup.registry.find(&claim.workflow, 1).unwrap();
        let settled = tx.settle(&Settlement::plan(&claim, workflow, outcome, Quiet::Yes, 1.0).unwrap());
        let Settled::Done { run, .. } = settled else { panic!("{settled:?}") };
        run
    })
}

fn failure() -> Failure {
    Failure::new(Class::ServerError, "500")
}

/// The invariants that are broken after `damage`, which were whole before.
fn broken_by(ledger: &ModelLedger, damage: impl FnOnce(&mut Tables)) -> Vec<String> {
    assert_eq!(ledger.check_invariants(), Vec::<String>::new());
    ledger.transact(|tx| damage(tx.tables));
    ledger.check_invariants()
}

fn assert_misses(broken: &[String], invariant: &str, text: &str) {
    assert!(broken.iter().any(|line| line.starts_with(invariant) && line.contains(text)), "{broken:#?}");
}

#[test]
fn two_unfinished_runs_of_one_subject_break_i2() {
    let ledger = ledger();
    start(&ledger, "provision-instance");
    let other = start(&ledger, "reconfigure-webhooks");

    let broken = broken_by(&ledger, |tables| {
        tables.runs.get_mut(&other).unwrap().workflow = "provision-instance".parse().unwrap();
    });

    assert_misses(&broken, "I2", "both unfinished");
}

#[test]
fn two_live_runs_on_one_resource_break_i2() {
    let ledger = ledger();
    start(&ledger, "provision-instance");
    let waiting = start(&ledger, "reconfigure-webhooks");

    let broken = broken_by(&ledger, |tables| {
        tables.steps.get_mut(&(waiting, 0)).unwrap().due_at = Some(Duration::ZERO);
    });

    assert_misses(&broken, "I2", "1 of its steps live");
}

#[test]
fn a_run_whose_turn_nobody_passes_on_breaks_i2() {
    let ledger = ledger();
    let run = start(&ledger, "provision-instance");

    let broken = broken_by(&ledger, |tables| {
        tables.resources.values_mut().for_each(|resource| resource.run = None);
        tables.steps.get_mut(&(run, 0)).unwrap().due_at = None;
    });

    assert_misses(&broken, "I2", "it is the turn of None");
}

#[test]
fn a_run_that_nothing_will_move_breaks_i2() {
    let ledger = ledger();
    let run = start(&ledger, "provision-instance");

    let broken = broken_by(&ledger, |tables| tables.steps.get_mut(&(run, 0)).unwrap().due_at = None);

    assert_misses(&broken, "I2", "0 of its steps live");
}

#[test]
fn a_run_that_waits_though_it_is_its_turn_breaks_i2() {
    let ledger = ledger();
    let run = start(&ledger, "provision-instance");

    let broken = broken_by(&ledger, |tables| tables.runs.get_mut(&run).unwrap().waits = true);

    assert_misses(&broken, "I2", "it waits: true");
}

#[test]
fn failures_that_no_attempt_shows_break_i5() {
    let ledger = ledger();
    let run = start(&ledger, "provision-instance");
    settle(&ledger, Outcome::Defer { failure: failure(), after: None });

    let broken = broken_by(&ledger, |tables| tables.steps.get_mut(&(run, 0)).unwrap().spent.failures = 1);

    assert_misses(&broken, "I5", "which its attempts do not show");
}

#[test]
fn a_budget_that_is_overspent_breaks_i5() {
    for overspend in
        [(|spent| spent.failures = 30) as fn(&mut Spent), |spent| spent.crashes = 10, |spent| spent.send_backs = 4]
    {
        let ledger = ledger();
        let run = start(&ledger, "provision-instance");

        let broken = broken_by(&ledger, |tables| overspend(&mut tables.steps.get_mut(&(run, 0)).unwrap().spent));

        assert_misses(&broken, "I5", "is Due and has spent");
    }
}

#[test]
fn an_attempt_that_left_no_row_breaks_i6() {
    let ledger = ledger();
    start(&ledger, "provision-instance");
    settle(&ledger, Outcome::Defer { failure: failure(), after: None });

    let broken = broken_by(&ledger, |tables| tables.attempts.clear());

    assert_misses(&broken, "I6", "was claimed 1 times and ended 0 times");
}

#[test]
fn a_death_that_left_no_letter_or_no_event_breaks_i6() {
    for (forget, text) in [
        ((|tables| tables.dead_letters.clear()) as fn(&mut Tables), "0 open dead letters"),
        (|tables| tables.events.clear(), "no event says so"),
    ] {
        let ledger = ledger();
        start(&ledger, "provision-instance");
        assert_eq!(settle(&ledger, Outcome::Permanent(failure())), RunState::Dead);

        assert_misses(&broken_by(&ledger, forget), "I6", text);
    }
}

#[test]
fn a_cancellation_by_nobody_breaks_i6() {
    let ledger = ledger();
    let run = start(&ledger, "provision-instance");
    let by = By { actor: "ana".to_owned(), note: None };
    assert_eq!(ledger.transact(|tx| tx.cancel(run, &by)), Changed::Yes);
    assert_eq!(ledger.step(run, 0).unwrap().state, StepState::Cancelled);

    let broken = broken_by(&ledger, |tables| tables.runs.get_mut(&run).unwrap().cancel_by = None);

    assert_misses(&broken, "I6", "nobody says by whom");
}

#[test]
fn a_token_of_a_step_that_nobody_runs_breaks_i9() {
    let ledger = ledger();
    let run = start(&ledger, "provision-instance");

    let broken = broken_by(&ledger, |tables| tables.steps.get_mut(&(run, 0)).unwrap().token = Some(Token::new(9)));

    assert_misses(&broken, "I9", "is Due, and its token is Some");
}

#[test]
fn an_attempt_that_ends_twice_breaks_i9() {
    let ledger = ledger();
    start(&ledger, "provision-instance");
    settle(&ledger, Outcome::Defer { failure: failure(), after: None });

    let broken = broken_by(&ledger, |tables| {
        let again = tables.attempts[0].clone();
        tables.attempts.push(again);
    });

    assert_misses(&broken, "I9", "ended twice");
}
