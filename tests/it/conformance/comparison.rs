//! The state machine against the ledger, exhaustively: every state of a step meets every event that a verb of the ledger
//! brings. The step moves exactly where `transition` says, with the effects that it says; where `transition` knows no such
//! move the verb changes nothing about it.

use std::time::Duration;

use serde_json::json;
use sluice::ledger::{Claim, DueKey, Key, OperatorLedger, RelayLedger, Settlement, settlement::Quiet};
use workflows::{
    ids::RunId,
    outcome::{Memory, Outcome, StepInput},
    secret::Secret,
    state::{Effect, Event, Limits, Place, RunState, Step, StepState, transition},
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

    /// What can happen to a step in that place: the first one has nothing to send back to, the last nobody to send it back.
    fn events(&self) -> Vec<Event> {
        let mut events = vec![
            Event::Claim,
            Event::Succeed(self.place()),
            Event::Fail,
            Event::Defer,
            Event::Expire,
            Event::Refuse,
            Event::Exceed,
            Event::Cancel,
            Event::Revive,
        ];
        // With no send-backs left it is the earlier step's `Rerun` that decides: tried from the other end.
        let sends_back = self.position > 0 && self.limits.send_backs > 0;
        events.extend(sends_back.then_some(Event::SendBack));
        events.extend((self.place() == Place::Inner).then_some(Event::Rerun));
        events
    }
}

/// A step in the state in which it is to be tried.
struct Held {
    subject: Subject,
    run: RunId,
    /// The claim of the attempt that is running; else one that a confused worker might think it has.
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
        for event in subject.events() {
            compare(bench, subject, state, event).await;
        }
    }
}

async fn compare(bench: &Bench<impl World>, subject: Subject, state: StepState, event: Event) {
    let held = drive(bench, subject, state).await;
    let before = seen(bench, &held).await;
    assert_eq!(before.state, state, "the step was not driven there");
    let attempts = own_attempts(bench, &held).await;

    apply(bench, &held, event).await;

    let after = seen(bench, &held).await;
    let what = format!("{state:?} meets {event:?} at {} of {}", subject.position, subject.workflow);
    match transition(before, event, &subject.limits) {
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

async fn seen(bench: &Bench<impl World>, held: &Held) -> Step {
    let step = bench.step(held.run, held.subject.position).await;
    Step { state: step.state, spent: step.spent }
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

async fn apply(bench: &Bench<impl World>, held: &Held, event: Event) {
    let ledger = bench.ledger();
    match event {
        Event::Claim => {
            let generation = bench.step(held.run, held.subject.position).await.generation;
            bench.claim("w", DueKey { run: held.run, position: held.subject.position, generation }).await;
        }
        Event::Succeed(_) => settle(bench, held, success()).await,
        Event::Fail => settle(bench, held, retry()).await,
        Event::Defer => settle(bench, held, defer()).await,
        Event::Refuse => settle(bench, held, refusal()).await,
        Event::SendBack => settle(bench, held, send_back(held.subject.steps[0])).await,
        Event::Expire => expire(bench, held).await,
        Event::Rerun => rerun(bench, held).await,
        Event::Exceed => {
            bench.world.advance(DEADLINE + Duration::from_secs(60)).await;
            ledger.exceed(1000).await.unwrap();
        }
        Event::Cancel => {
            ledger.cancel(held.run, &by("ana")).await.unwrap();
            // From `running` it takes effect at the settle; this one spends nothing by itself.
            settle(bench, held, refusal()).await;
        }
        Event::Revive => {
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

/// The next step sends the run back to this one; where it cannot be running, a forged settlement says that it does.
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
