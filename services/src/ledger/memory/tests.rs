//! A check that cannot fail is none: each invariant is broken by hand here, and must be missed.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde_json::json;
use uuid::Uuid;
use workflows::{
    definition::{LEASE, Reach, Registry, Workflow},
    ids::InstanceName,
    outcome::{Class, Failure, Outcome},
    state::{RunState, StepState},
};

use super::*;
use crate::ledger::settlement::Quiet;

const STEP: &str = "create-instance";

fn ledger() -> Memory {
    let steps = [STEP, "verify"].map(|name| workflows::definition::Step {
        name: name.parse().unwrap(),
        timeout: Duration::from_secs(30),
        lease: LEASE,
        retry: Retry::default(),
        reach: Reach::Exclusive,
    });
    let named = |name: &str| Workflow {
        name: name.parse().unwrap(),
        version: 1,
        steps: steps.to_vec(),
        deadline: Duration::from_secs(3600),
        priority: 0,
    };
    let registry = Registry::new(vec![named("provision-instance"), named("reconfigure-webhooks")]);
    let setup = Setup {
        registry: Arc::new(registry),
        draw_run: Arc::new(|| RunId::new(Uuid::from_u128(1))),
        draw_token: Arc::new(|| workflows::secret::Secret::new("token")),
        on_sign_up: "provision-instance".parse().unwrap(),
    };
    let ticks = AtomicU64::new(0);
    Memory::new(setup, Arc::new(move || Duration::from_micros(ticks.fetch_add(1, Ordering::Relaxed))))
}

fn user() -> UserId {
    UserId::new(Uuid::from_u128(77))
}

fn start(ledger: &Memory, workflow: &str, id: u128) -> RunId {
    let id = RunId::new(Uuid::from_u128(id));
    let new = NewRun {
        id,
        workflow: workflow.parse().unwrap(),
        subject: user().subject(),
        resource: InstanceName::of_user(user()),
        instance_token: workflows::secret::Secret::new("token"),
        input: json!({}),
        traceparent: None,
        age: Duration::ZERO,
    };
    assert_eq!(ledger.transact(|tx| tx.start(&new)), Started::New(id));
    id
}

/// Dispatch, claim and settle the run's first step.
fn settle(ledger: &Memory, run: RunId, outcome: Outcome) -> Settled {
    let key = Key { run, position: 0, token: Token::new(1) };
    let worker = Worker { name: "w".to_owned(), host: None };
    ledger.transact(|tx| {
        assert_eq!(tx.dispatch(&STEP.parse().unwrap(), None, &[key.token]).len(), 1);
        let Claimed::Yes(claim) = tx.claim(&worker, &key) else { panic!("it was not claimed") };
        let workflow = tx.setup.registry.find(&claim.workflow, 1).unwrap();
        tx.settle(&Settlement::plan(&claim, workflow, outcome, Quiet::Yes, 1.0).unwrap())
    })
}

fn failure() -> Failure {
    Failure::new(Class::ServerError, "500")
}

/// The invariants that are broken after `damage`, which were whole before.
fn broken_by(ledger: &Memory, damage: impl FnOnce(&mut Tables)) -> Vec<String> {
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
    start(&ledger, "provision-instance", 10);
    let other = start(&ledger, "reconfigure-webhooks", 11);

    let broken = broken_by(&ledger, |tables| {
        tables.runs.get_mut(&other).unwrap().workflow = "provision-instance".parse().unwrap();
    });

    assert_misses(&broken, "I2", "both unfinished");
}

#[test]
fn two_live_runs_on_one_resource_break_i2() {
    let ledger = ledger();
    start(&ledger, "provision-instance", 10);
    let waiting = start(&ledger, "reconfigure-webhooks", 11);

    let broken = broken_by(&ledger, |tables| {
        tables.steps.get_mut(&(waiting, 0)).unwrap().due_at = Some(Duration::ZERO);
    });

    assert_misses(&broken, "I2", "1 of its steps live");
}

#[test]
fn a_run_whose_turn_nobody_passes_on_breaks_i2() {
    let ledger = ledger();
    let run = start(&ledger, "provision-instance", 10);

    let broken = broken_by(&ledger, |tables| {
        tables.resources.values_mut().for_each(|resource| resource.run = None);
        tables.steps.get_mut(&(run, 0)).unwrap().due_at = None;
    });

    assert_misses(&broken, "I2", "it is the turn of None");
}

#[test]
fn a_run_that_nothing_will_move_breaks_i2() {
    let ledger = ledger();
    let run = start(&ledger, "provision-instance", 10);

    let broken = broken_by(&ledger, |tables| tables.steps.get_mut(&(run, 0)).unwrap().due_at = None);

    assert_misses(&broken, "I2", "0 of its steps live");
}

#[test]
fn failures_that_no_attempt_shows_break_i5() {
    let ledger = ledger();
    let run = start(&ledger, "provision-instance", 10);
    settle(&ledger, run, Outcome::Defer { failure: failure(), after: None });

    let broken = broken_by(&ledger, |tables| tables.steps.get_mut(&(run, 0)).unwrap().spent.failures = 1);

    assert_misses(&broken, "I5", "which its attempts do not show");
}

#[test]
fn a_budget_that_is_overspent_breaks_i5() {
    for overspend in [
        (|spent| spent.failures = 30) as fn(&mut workflows::state::Spent),
        |spent| spent.crashes = 10,
        |spent| spent.send_backs = 4,
    ] {
        let ledger = ledger();
        let run = start(&ledger, "provision-instance", 10);

        let broken = broken_by(&ledger, |tables| overspend(&mut tables.steps.get_mut(&(run, 0)).unwrap().spent));

        assert_misses(&broken, "I5", "is Due and has spent");
    }
}

#[test]
fn an_attempt_that_left_no_row_breaks_i6() {
    let ledger = ledger();
    let run = start(&ledger, "provision-instance", 10);
    settle(&ledger, run, Outcome::Defer { failure: failure(), after: None });

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
        let run = start(&ledger, "provision-instance", 10);
        assert_eq!(settle(&ledger, run, Outcome::Permanent(failure())), Settled::Done(RunState::Dead));

        assert_misses(&broken_by(&ledger, forget), "I6", text);
    }
}

#[test]
fn a_cancellation_by_nobody_breaks_i6() {
    let ledger = ledger();
    let run = start(&ledger, "provision-instance", 10);
    let by = By { actor: "ana".to_owned(), note: None };
    assert_eq!(ledger.transact(|tx| tx.cancel(run, &by)), Changed::Yes);
    assert_eq!(ledger.step(run, 0).unwrap().state, StepState::Cancelled);

    let broken = broken_by(&ledger, |tables| tables.runs.get_mut(&run).unwrap().cancel_by = None);

    assert_misses(&broken, "I6", "nobody says by whom");
}
