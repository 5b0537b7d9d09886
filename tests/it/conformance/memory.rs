//! The model ledger as the suite sees it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tests::ledger::{ModelLedger, QueueStatus, Setup};
use uuid::Uuid;
use workflows::{
    definition::Registry,
    ids::{ResourceName, RunId, Token},
    secret::Secret,
    state::{RunState, StepState},
    whatsapp::names::UserId,
};

use super::{
    bench::{Bench, PROVISION, registry},
    world::{AttemptSeen, Budget, LetterSeen, Moment, ResourceSeen, RowSeen, StepSeen, World},
};

pub struct InMemory {
    ledger: ModelLedger,
    setup: Setup,
    microseconds: Arc<AtomicU64>,
}

pub fn bench() -> Bench<InMemory> {
    let microseconds = Arc::new(AtomicU64::new(0));
    let read = microseconds.clone();
    // As with a real clock, no two moments are the same.
    let clock = Arc::new(move || Duration::from_micros(read.fetch_add(1, Ordering::Relaxed)));
    let setup = setup();
    Bench::new(InMemory { ledger: ModelLedger::new(setup.clone(), clock), setup, microseconds })
}

fn setup() -> Setup {
    let (runs, secrets, tokens) = (AtomicU64::new(1), AtomicU64::new(1), AtomicI64::new(1));
    Setup {
        registry: Arc::new(registry()),
        draw_run: Arc::new(move || RunId::new(Uuid::from_u128(runs.fetch_add(1, Ordering::Relaxed).into()))),
        draw_secret: Arc::new(move || Secret::new(format!("secret-{:016x}", secrets.fetch_add(1, Ordering::Relaxed)))),
        // Far from what the suite forges.
        draw_token: Arc::new(move || Token::new(-tokens.fetch_add(1, Ordering::Relaxed))),
        on_sign_up: PROVISION.parse().unwrap(),
    }
}

impl InMemory {
    fn now(&self) -> Duration {
        Duration::from_micros(self.microseconds.load(Ordering::Relaxed))
    }
}

impl World for InMemory {
    type Ledger = ModelLedger;

    fn ledger(&self) -> &ModelLedger {
        &self.ledger
    }

    async fn build(&self, registry: Registry) -> ModelLedger {
        self.ledger.with_setup(Setup { registry: Arc::new(registry), ..self.setup.clone() })
    }

    async fn run(&self, run: RunId) -> RunState {
        self.ledger.run(run).unwrap().state
    }

    async fn step(&self, run: RunId, position: i16) -> Option<StepSeen> {
        let step = self.ledger.step(run, position)?;
        let now = self.now();
        let moment = match step.due_at.filter(|_| step.state == StepState::Due) {
            None => Moment::Waits,
            Some(due_at) if due_at <= now => Moment::Now,
            Some(_) => Moment::Later,
        };
        let (state, generation, spent, output) = (step.state, step.generation, step.spent, step.output);
        Some(StepSeen { state, generation, spent, moment, output })
    }

    async fn attempts(&self, run: RunId) -> Vec<AttemptSeen> {
        let attempts = self.ledger.tables().attempts.into_iter().filter(|attempt| attempt.run == run);
        attempts
            .map(|attempt| AttemptSeen {
                position: attempt.position,
                outcome: attempt.ended.outcome.to_owned(),
                error: attempt.ended.error,
            })
            .collect()
    }

    async fn dead_letters(&self, run: RunId) -> Vec<LetterSeen> {
        let letters = self.ledger.tables().dead_letters.into_iter().filter(|letter| letter.run == run);
        letters
            .map(|letter| LetterSeen {
                position: letter.position,
                reason: letter.reason,
                class: letter.class,
                error: letter.error,
                resolution: letter.resolved.map(|resolved| resolved.resolution.to_owned()),
            })
            .collect()
    }

    async fn events(&self, run: RunId) -> Vec<String> {
        let events = self.ledger.tables().events.into_iter().filter(|event| event.run == run);
        events.map(|event| event.routing_key).collect()
    }

    async fn resource(&self, name: &ResourceName) -> ResourceSeen {
        let resource = self.ledger.tables().resources.remove(name).unwrap();
        ResourceSeen { secret: resource.secret.expose().to_owned(), memory: resource.memory.as_json() }
    }

    async fn is_busy(&self, resource: &ResourceName) -> bool {
        let resource = self.ledger.tables().resources.remove(resource).unwrap();
        resource.busy_until.is_some_and(|until| until > self.now())
    }

    async fn rows(&self) -> String {
        let mut tables = self.ledger.tables();
        tables.heartbeats.clear();
        // What prints as `***` beside them.
        let memories: Vec<_> = tables.resources.values().map(|resource| resource.memory.as_json()).collect();
        format!("{tables:#?}\n{memories:#?}")
    }

    async fn violations(&self) -> Vec<String> {
        self.ledger.check_invariants()
    }

    async fn advance(&self, by: Duration) {
        self.microseconds.fetch_add(by.as_micros().try_into().unwrap(), Ordering::Relaxed);
    }

    async fn sign_up(&self, user: UserId) {
        self.ledger.sign_up(user);
    }

    async fn leave(&self, user: UserId) {
        self.ledger.leave(user);
    }

    async fn ask_again(&self, user: UserId, budget: Budget) {
        match budget {
            Budget::Kept => self.ledger.ask_again(user),
            Budget::Fresh => self.ledger.ask_again_with_a_fresh_budget(user),
        }
    }

    async fn queue_row(&self, user: UserId) -> RowSeen {
        let row = self.ledger.queue_row(user).unwrap();
        let status = match row.status {
            QueueStatus::Pending => "pending",
            QueueStatus::Processing => "processing",
            QueueStatus::Completed => "completed",
            QueueStatus::Failed => "failed",
        };
        RowSeen { status: status.to_owned(), retry_count: row.retry_count, error: row.error_message }
    }
}
