//! The ledger in memory as the suite sees it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sluice::ledger::memory::{Memory, QueueStatus};
use workflows::{
    definition::Registry,
    ids::{InstanceName, RunId, Subject, UserId},
    state::{RunState, StepState},
};

use super::{
    bench::{Bench, registry, setup},
    world::{AttemptSeen, Budget, InstanceSeen, LetterSeen, Moment, RowSeen, StepSeen, World},
};

pub struct InMemory {
    ledger: Memory,
    microseconds: Arc<AtomicU64>,
}

pub fn bench() -> Bench<InMemory> {
    let microseconds = Arc::new(AtomicU64::new(0));
    let read = microseconds.clone();
    // As with a real clock, no two moments are the same.
    let clock = Arc::new(move || Duration::from_micros(read.fetch_add(1, Ordering::Relaxed)));
    Bench::new(InMemory { ledger: Memory::new(setup(registry()), clock), microseconds })
}

impl InMemory {
    fn now(&self) -> Duration {
        Duration::from_micros(self.microseconds.load(Ordering::Relaxed))
    }
}

impl World for InMemory {
    type Ledger = Memory;

    fn ledger(&self) -> &Memory {
        &self.ledger
    }

    fn build(&self, registry: Registry) -> Memory {
        self.ledger.with_setup(setup(registry))
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
        Some(StepSeen { state: step.state, spent: step.spent, moment, output: step.output })
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
                resolution: letter.resolved.map(|resolved| resolved.resolution.to_owned()),
            })
            .collect()
    }

    async fn events(&self, run: RunId) -> Vec<String> {
        let events = self.ledger.tables().events.into_iter().filter(|event| event.run == run);
        events.map(|event| event.routing_key).collect()
    }

    async fn instance(&self, subject: &Subject) -> InstanceSeen {
        let instance = self.ledger.tables().instances.remove(subject).unwrap();
        InstanceSeen {
            token: instance.token.expose().to_owned(),
            status: instance.status.as_str().to_owned(),
            webhook_url: instance.webhook_url,
        }
    }

    async fn is_busy(&self, resource: &InstanceName) -> bool {
        let resource = self.ledger.tables().resources.remove(resource).unwrap();
        resource.busy_until.is_some_and(|until| until > self.now())
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
        let has_error = row.error_message.is_some();
        RowSeen { status: status.to_owned(), retry_count: row.retry_count, has_error }
    }
}
