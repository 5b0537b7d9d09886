//! The state machine against the ledger, exhaustively: every state of a step against every move
//! that a verb of the ledger brings. The step moves exactly where `transition` says, with the
//! effects that it says; where `transition` knows no such move the verb changes nothing about it.

use std::time::Duration;

use serde_json::json;
use sluice::ledger::{Claim, DueKey, Key, OperatorLedger, RelayLedger, Settlement, settlement::Quiet};
use workflows::{
    ids::RunId,
    outcome::{Memory, Outcome, StepInput},
    secret::Secret,
    state::{Effect, Limits, Move, Place, RunState, Standing, StepState, transition},
};

use super::{
    bench::{
        BRITTLE, Bench, DEADLINE, DEPROVISION, LEASE, LIMITS, NO_BUDGET, PROVISION, STEPS, by, defer, expired,
        forged_token, refusal, resource_of, retry, send_back, success, user,
    },
    world::{Moment, World},
};

/// A step of a workflow, under test.
#[derive(Debug, Clone, Copy)]
struct Subject {
    workflow: &'static str,
    steps: &'static [&'static str],
    position: i16,
    limits: Limits,
}

const INNER: Subject = Subject { workflow: PROVISION, steps: &STEPS, position: 1, limits: LIMITS };
const WITHOUT_BUDGET: Subject =
    Subject { workflow: BRITTLE, steps: &["first", "second", "third"], position: 1, limits: NO_BUDGET };
const LAST: Subject = Subject { position: 2, ..INNER };
const ONLY: Subject = Subject { workflow: DEPROVISION, steps: &["delete-instance"], position: 0, limits: LIMITS };

impl Subject {
    fn queue(&self) -> &'static str {
        self.steps[usize::try_from(self.position).unwrap()]
    }

    fn place(&self) -> Place {
        if self.queue() == *self.steps.last().unwrap() { Place::Last } else { Place::Inner }
    }

    /// What can happen to a step in that place: the first one has nothing to send back to, the last
    /// nobody to send it back.
    fn moves(&self) -> Vec<Move> {
        let mut moves = vec![
            Move::Claim,
            Move::Succeed(self.place()),
            Move::Fail,
            Move::Defer,
            Move::Expire,
            Move::Refuse,
            Move::Exceed,
            Move::Cancel,
            Move::Revive,
        ];
        // With no send-backs left it is the earlier step's `Rerun` that decides: tried from the
        // other end.
        let sends_back = self.position > 0 && self.limits.send_backs > 0;
        moves.extend(sends_back.then_some(Move::SendBack));
        moves.extend((self.place() == Place::Inner).then_some(Move::Rerun));
        moves
    }
}

/// A step in the state in which it is to be tried.
struct Held {
    subject: Subject,
    run: RunId,
    /// The claim of the attempt that is running; else one that a confused worker might think it
    /// has.
    claim: Claim,
}

pub async fn an_inner_step_moves_as_the_state_machine_says(bench: &Bench<impl World>) {
    compare_all(bench, INNER).await;
}

pub async fn a_step_without_budget_moves_as_the_state_machine_says(bench: &Bench<impl World>) {
    compare_all(bench, WITHOUT_BUDGET).await;
}

pub async fn the_last_step_moves_as_the_state_machine_says(bench: &Bench<impl World>) {
    compare_all(bench, LAST).await;
}

pub async fn an_only_step_moves_as_the_state_machine_says(bench: &Bench<impl World>) {
    compare_all(bench, ONLY).await;
}

async fn compare_all(bench: &Bench<impl World>, subject: Subject) {
    use StepState::*;
    for state in [Due, Running, Succeeded, Dead, Cancelled] {
        for wanted in subject.moves() {
            compare(bench, subject, state, wanted).await;
        }
    }
}

async fn compare(bench: &Bench<impl World>, subject: Subject, state: StepState, wanted: Move) {
    let held = drive(bench, subject, state).await;
    let before = seen(bench, &held).await;
    assert_eq!(before.state, state, "the step was not driven there");
    let attempts = own_attempts(bench, &held).await;

    apply(bench, &held, wanted).await;

    let after = seen(bench, &held).await;
    let what = format!("{state:?} makes the move {wanted:?} at {} of {}", subject.position, subject.workflow);
    match transition(before, wanted, &subject.limits) {
        Ok((expected, effects)) => {
            assert_eq!(after, expected, "{what}");
            let written = own_attempts(bench, &held).await - attempts;
            assert_eq!(written, usize::from(effects.contains(&Effect::RecordAttempt)), "{what}: attempts");
            check_effects(bench, &held, &effects, &what).await;
        }
        Err(_) => {
            assert_eq!(after, before, "{what}: there is no such move");
            assert_eq!(own_attempts(bench, &held).await, attempts, "{what}: attempts");
        }
    }
    // Out of the way of the next one.
    bench.ledger().cancel(held.run, &by("the test")).await.unwrap();
}

async fn seen(bench: &Bench<impl World>, held: &Held) -> Standing {
    let step = bench.step(held.run, held.subject.position).await;
    Standing { state: step.state, spent: step.spent }
}

async fn own_attempts(bench: &Bench<impl World>, held: &Held) -> usize {
    let attempts = bench.world.attempts(held.run).await;
    attempts.iter().filter(|attempt| attempt.position == held.subject.position).count()
}

async fn check_effects(bench: &Bench<impl World>, held: &Held, effects: &[Effect], what: &str) {
    let run = bench.world.run(held.run).await;
    let ended = effects.iter().find_map(|effect| match effect {
        Effect::EndRun(state) => Some(*state),
        _ => None,
    });
    match ended {
        Some(state) => {
            assert_eq!(run, state, "{what}: the run");
            let key = format!("{}.{}", held.subject.workflow, state.as_str());
            assert_eq!(bench.world.events(held.run).await.last(), Some(&key), "{what}: the event");
        }
        None => assert_eq!(run, RunState::Active, "{what}: the run"),
    }
    for effect in effects {
        match effect {
            Effect::Advance => {
                let next = bench.step(held.run, held.subject.position + 1).await;
                assert_eq!((next.state, next.moment), (StepState::Due, Moment::Now), "{what}: the next step");
            }
            Effect::Bury(reason) => {
                let letters = bench.world.dead_letters(held.run).await;
                let letter = letters.last().unwrap_or_else(|| panic!("{what}: no dead letter"));
                assert_eq!((letter.reason, letter.position), (*reason, held.subject.position), "{what}");
                assert_eq!(letter.resolution, None, "{what}");
            }
            Effect::RecordAttempt | Effect::EndRun(_) | Effect::ReviveRun => {}
        }
    }
}

/// Bring a new run's step into `state`, with the ledger's own verbs.
async fn drive(bench: &Bench<impl World>, subject: Subject, state: StepState) -> Held {
    let run = bench.start(subject.workflow, user()).await;
    let before = usize::try_from(subject.position).unwrap();
    bench.succeed(run, &subject.steps[..before]).await;
    let mut held = Held { subject, run, claim: forged(subject, run, subject.position) };
    match state {
        StepState::Due => {}
        StepState::Running => held.claim = bench.take(run, subject.queue()).await,
        StepState::Succeeded | StepState::Dead => {
            held.claim = bench.take(run, subject.queue()).await;
            let outcome = if state == StepState::Dead { refusal() } else { success() };
            bench.settle(&held.claim, outcome).await;
        }
        StepState::Cancelled => {
            bench.ledger().cancel(run, &by("the test")).await.unwrap();
        }
    }
    held
}

/// A claim that the ledger never gave.
fn forged(subject: Subject, run: RunId, position: i16) -> Claim {
    let user = user();
    Claim {
        key: Key { run, position, token: forged_token() },
        workflow: subject.workflow.parse().unwrap(),
        version: 1,
        step: subject.steps[usize::try_from(position).unwrap()].parse().unwrap(),
        spent: Default::default(),
        send_backs: vec![0; usize::try_from(position).unwrap()],
        attempt: 1,
        input: StepInput {
            subject: user.subject(),
            resource: resource_of(user),
            secret: Secret::new("forged"),
            memory: Memory::default(),
            exclusive_before: false,
            input: json!({}),
        },
        traceparent: None,
        age: Duration::ZERO,
        waited: None,
    }
}

async fn apply(bench: &Bench<impl World>, held: &Held, wanted: Move) {
    let ledger = bench.ledger();
    match wanted {
        Move::Claim => {
            let generation = bench.step(held.run, held.subject.position).await.generation;
            bench.claim("w", DueKey { run: held.run, position: held.subject.position, generation }).await;
        }
        Move::Succeed(_) => settle(bench, held, success()).await,
        Move::Fail => settle(bench, held, retry()).await,
        Move::Defer => settle(bench, held, defer()).await,
        Move::Refuse => settle(bench, held, refusal()).await,
        Move::SendBack => settle(bench, held, send_back(held.subject.steps[0])).await,
        Move::Expire => expire(bench, held).await,
        Move::Rerun => rerun(bench, held).await,
        Move::Exceed => {
            bench.world.advance(DEADLINE + Duration::from_secs(60)).await;
            ledger.exceed(1000).await.unwrap();
        }
        Move::Cancel => {
            ledger.cancel(held.run, &by("ana")).await.unwrap();
            // From `running` it takes effect at the settle; this one spends nothing by itself.
            settle(bench, held, refusal()).await;
        }
        Move::Revive => {
            ledger.revive(held.run, &by("ana")).await.unwrap();
        }
    }
}

async fn settle(bench: &Bench<impl World>, held: &Held, outcome: Outcome) {
    bench.settle(&held.claim, outcome).await;
}

/// The lease runs out; and somebody says that it has, whatever the state.
async fn expire(bench: &Bench<impl World>, held: &Held) {
    bench.world.advance(LEASE + Duration::from_secs(1)).await;
    bench.rescue().await;
    bench.write(bench.plan_rescue(&expired(&held.claim))).await;
}

/// The next step sends the run back to this one; where it cannot be running, a forged settlement
/// says that it does.
async fn rerun(bench: &Bench<impl World>, held: &Held) {
    let next = held.subject.position + 1;
    let queue = held.subject.steps[usize::try_from(next).unwrap()];
    let due = bench.due(queue).await.into_iter().any(|key| key.run == held.run);
    let claim = match due {
        true => bench.take(held.run, queue).await,
        false => forged(held.subject, held.run, next),
    };
    let settlement: Settlement = bench.plan(&claim, send_back(held.subject.queue()), Quiet::Yes);
    bench.write(settlement).await;
}
