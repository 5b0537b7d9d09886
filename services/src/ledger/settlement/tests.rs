//! Every way in which an attempt may end, and what is planned for it.

use std::time::Duration;

use serde_json::json;
use workflows::{
    definition::{LEASE, Step},
    ids::{RunId, Token},
    outcome::StepInput,
    policy::Retry,
    secret::Secret,
    state::Limits,
};

use super::*;

const LIMITS: Limits = Limits { failures: 3, crashes: 2, send_backs: 1 };
/// What the middle step has spent when it is tried here.
const SPENT: Spent = Spent { failures: 1, crashes: 0, send_backs: 1, defers: 4 };

/// Three steps, of which the first may create or delete.
pub(crate) fn workflow() -> Definition {
    let step = |(name, reach): (&str, Reach)| Step {
        name: name.parse().unwrap(),
        timeout: Duration::from_secs(30),
        lease: LEASE,
        retry: Retry { limits: LIMITS, ..Retry::default() },
        reach,
        host: None,
    };
    Definition {
        name: "three".parse().unwrap(),
        version: 1,
        steps: [("first", Reach::Exclusive), ("second", Reach::Shared), ("third", Reach::Shared)].map(step).to_vec(),
        deadline: Duration::from_secs(3600),
        priority: 0,
        projection: None,
        source: None,
        gone: None,
    }
}

pub(crate) fn claim(position: i16) -> Claim {
    let step = workflow().step(position).unwrap().name.clone();
    Claim {
        key: Key { run: RunId::new(Default::default()), position, token: Token::new(7) },
        workflow: "three".parse().unwrap(),
        version: 1,
        step,
        spent: SPENT,
        send_backs: vec![0; usize::try_from(position).unwrap()],
        attempt: 6,
        input: StepInput {
            subject: "somebody".parse().unwrap(),
            resource: "something".parse().unwrap(),
            secret: Secret::new("secret"),
            memory: Memory::default(),
            exclusive_before: false,
            input: json!({}),
        },
        traceparent: None,
        age: Duration::ZERO,
        waited: None,
    }
}

fn name(text: &str) -> StepName {
    text.parse().unwrap()
}

/// The run dies at the second step.
fn death(reason: DeathReason) -> Then {
    Then::Die { position: 1, step: name("second"), reason }
}

fn failure() -> Failure {
    Failure::new(Class::ServerError, "the server answered 500").with_status(Some(500))
}

fn plan(claim: &Claim, outcome: Outcome) -> Settlement {
    Settlement::plan(claim, &workflow(), outcome, Quiet::Yes, 1.0).unwrap()
}

fn success() -> Outcome {
    Outcome::Success { output: json!({}), memory: Memory::default(), note: None }
}

fn assert_records_the_failure(settlement: &Settlement, outcome: &str) {
    let attempt = &settlement.attempt;
    assert_eq!((attempt.outcome, attempt.class), (outcome, Some(Class::ServerError)));
    assert_eq!((attempt.http_status, attempt.error.as_deref()), (Some(500), Some("the server answered 500")));
    assert_eq!(settlement.output, None);
}

#[test]
fn a_success_makes_the_next_step_due_and_keeps_what_was_learnt() {
    let memory = Memory::default().with("colour", "red");
    let outcome =
        Outcome::Success { output: json!({ "made": 1 }), memory: memory.clone(), note: Some("adopted".to_owned()) };

    let settlement = plan(&claim(1), outcome);

    assert_eq!((settlement.key, settlement.fence), (claim(1).key, Fence::Token));
    assert_eq!((settlement.to, settlement.spent), (StepState::Succeeded, Spent { defers: 0, ..SPENT }));
    assert_eq!(settlement.then, Then::Advance { next: name("third") });
    assert_eq!((settlement.output, settlement.memory), (Some(json!({ "made": 1 })), memory));
    let attempt = Attempt { outcome: "succeeded", note: Some("adopted".to_owned()), ..Attempt::default() };
    assert_eq!(settlement.attempt, attempt);
}

#[test]
fn the_last_success_ends_the_run() {
    let settlement = plan(&claim(2), success());

    assert_eq!((settlement.to, settlement.then), (StepState::Succeeded, Then::Succeed));
}

#[test]
fn a_failure_is_counted_and_due_after_the_policys_delay_which_the_jitter_spreads() {
    let settlement = plan(&claim(1), Outcome::Retry(failure()));
    let sooner = Settlement::plan(&claim(1), &workflow(), Outcome::Retry(failure()), Quiet::Yes, 0.0).unwrap();

    assert_eq!((settlement.to, settlement.then.clone()), (StepState::Due, Then::Nothing));
    assert_eq!(settlement.spent, Spent { failures: 2, defers: 0, ..SPENT });
    // The second failure: twice the base, all of it at the highest jitter.
    assert_eq!(settlement.due, Some(Duration::from_secs(2)));
    assert_eq!(sooner.due, Some(Duration::from_secs(1)));
    assert_records_the_failure(&settlement, "failed");
}

#[test]
fn the_last_failure_of_the_budget_ends_the_run() {
    let mut claim = claim(1);
    claim.spent.failures = LIMITS.failures - 1;

    let settlement = plan(&claim, Outcome::Retry(failure()));

    assert_eq!((settlement.to, settlement.spent.failures), (StepState::Dead, LIMITS.failures));
    assert_eq!(settlement.then, death(DeathReason::AttemptsExhausted));
    assert_records_the_failure(&settlement, "failed");
}

#[test]
fn a_defer_counts_nowhere_and_waits_as_long_as_it_was_asked_to_or_longer_each_time() {
    let defer = |after| plan(&claim(1), Outcome::Defer { failure: failure(), after });

    let settlement = defer(Some(Duration::from_secs(100)));

    assert_eq!((settlement.to, settlement.then.clone()), (StepState::Due, Then::Nothing));
    assert_eq!(settlement.spent, Spent { defers: 5, ..SPENT });
    assert_eq!(settlement.due, Some(Duration::from_secs(120)));
    assert_eq!(defer(None).due, Some(Duration::from_secs(16)));
    assert_records_the_failure(&settlement, "deferred");
}

#[test]
fn a_send_back_waits_for_the_earlier_step_to_run_again() {
    let settlement = plan(&claim(2), Outcome::SendBack { to: name("first"), failure: failure() });

    assert_eq!((settlement.to, settlement.due), (StepState::Due, None));
    assert_eq!(settlement.then, Then::Rerun { position: 0, send_backs: 1 });
    assert_eq!(settlement.spent, Spent { defers: 0, ..SPENT });
    assert_records_the_failure(&settlement, "sent_back");
}

#[test]
fn a_send_back_too_many_ends_the_run_at_the_earlier_step() {
    let mut claim = claim(2);
    claim.send_backs = vec![0, LIMITS.send_backs];

    let settlement = plan(&claim, Outcome::SendBack { to: name("second"), failure: failure() });

    assert_eq!(settlement.then, death(DeathReason::AttemptsExhausted));
    // It is the earlier step that is dead; this one waits for it.
    assert_eq!((settlement.to, settlement.due), (StepState::Due, None));
    assert_records_the_failure(&settlement, "sent_back");
}

#[test]
fn a_send_back_to_no_earlier_step_is_a_refusal() {
    for to in ["second", "third", "unheard-of"] {
        let settlement = plan(&claim(1), Outcome::SendBack { to: name(to), failure: failure() });

        assert_eq!(settlement.then, death(DeathReason::PermanentError), "{to}");
        assert_eq!(settlement.to, StepState::Dead);
        assert_records_the_failure(&settlement, "refused");
    }
}

#[test]
fn a_permanent_failure_ends_the_run_and_counts_nothing() {
    let settlement = plan(&claim(1), Outcome::Permanent(failure()));

    assert_eq!((settlement.to, settlement.spent), (StepState::Dead, Spent { defers: 0, ..SPENT }));
    assert_eq!(settlement.then, death(DeathReason::PermanentError));
    assert_records_the_failure(&settlement, "refused");
}

#[test]
fn whether_the_api_is_quiet_is_the_workers_to_say() {
    for quiet in [Quiet::Yes, Quiet::Unsure] {
        let settlement = Settlement::plan(&claim(1), &workflow(), success(), quiet, 1.0).unwrap();

        assert_eq!(settlement.quiet, quiet);
    }
}

#[test]
fn what_a_failure_leaves_behind_is_kept() {
    let memory = Memory::default().with("looks", 2);

    let settlement = plan(&claim(1), Outcome::Retry(failure()).remembering(&memory));

    assert_eq!(settlement.memory, memory);
}

#[test]
fn only_a_step_that_may_create_or_delete_keeps_its_resource_busy() {
    assert!(plan(&claim(0), success()).exclusive);
    assert!(!plan(&claim(1), success()).exclusive);
}

fn rescue(crashes: u32, worker_lives: bool) -> Settlement {
    let Claim { key, workflow: name, version, step, spent, attempt, .. } = claim(1);
    let expired = Expired {
        key,
        workflow: name,
        version,
        step,
        spent: Spent { crashes, ..spent },
        attempt,
        worker: "gone".to_owned(),
        generation: 1,
        age: Duration::ZERO,
        span: None,
        traceparent: None,
        worker_lives,
    };
    Settlement::rescue(&expired, &workflow(), 1.0).unwrap()
}

#[test]
fn a_lease_that_ran_out_is_a_crash_unless_its_worker_lives_and_is_guarded_by_the_expiry() {
    let (last, died) = (LIMITS.crashes - 1, death(DeathReason::WorkerLost));
    let spent = |crashes, defers| Spent { crashes, defers, ..SPENT };
    for (what, crashes, worker_lives, left, to, then, outcome) in [
        ("a crash is counted", 0, false, spent(1, 0), StepState::Due, Then::Nothing, "crashed"),
        ("the last of the budget ends the run", last, false, spent(last + 1, 0), StepState::Dead, died, "crashed"),
        ("a worker that lives", last, true, spent(last, SPENT.defers + 1), StepState::Due, Then::Nothing, "deferred"),
    ] {
        let settlement = rescue(crashes, worker_lives);

        assert_eq!((settlement.fence, settlement.quiet), (Fence::Expiry, Quiet::Unsure), "{what}");
        assert_eq!((settlement.to, settlement.then, settlement.spent), (to, then, left), "{what}");
        assert!(to == StepState::Dead || settlement.due == Some(Duration::ZERO), "{what}");
        let attempt = settlement.attempt;
        assert_eq!((attempt.outcome, attempt.class), (outcome, Some(Class::WorkerLost)), "{what}");
        assert!(attempt.error.is_some(), "{what}");
    }
}
