//! The public queue in memory: what people and the app write there, what intake makes of it, and how its rows follow
//! their runs.

use std::time::Duration;

use workflows::{
    ids::{RunId, UserId},
    state::{RunState, StepState},
};

use super::{By, Intake, Memory, QueueRow, QueueStatus, Started, Tx};
use crate::ledger::sign_up;

impl Memory {
    /// A user signs up: the trigger writes a pending row, where there is none.
    pub fn sign_up(&self, user: UserId) {
        self.transact(|tx| {
            let row =
                QueueRow { status: QueueStatus::Pending, retry_count: 0, error_message: None, created_at: tx.now };
            tx.tables.queue.entry(user).or_insert(row);
        });
    }

    /// A person sets the row back to `pending`, as the guide's SQL for stuck rows does.
    pub fn ask_again(&self, user: UserId) {
        self.transact(|tx| {
            if let Some(row) = tx.tables.queue.get_mut(&user) {
                row.status = QueueStatus::Pending;
            }
        });
    }

    /// A person sets the row back to `pending` and its retries to 0, as the guide's SQL for failed rows does.
    pub fn ask_again_with_a_fresh_budget(&self, user: UserId) {
        self.transact(|tx| {
            if let Some(row) = tx.tables.queue.get_mut(&user) {
                row.status = QueueStatus::Pending;
                row.retry_count = 0;
            }
        });
    }
}

/// What became of one pending row.
enum Taken {
    Started,
    Revived,
    Joined,
    No,
}

impl Tx<'_> {
    pub(super) fn is_idle(&self) -> bool {
        self.tables.active.is_empty()
            && self.tables.queue.values().all(|row| row.status != QueueStatus::Pending)
            && self.tables.resources.values().all(|resource| resource.doubted_at.is_none())
    }

    pub(super) fn intake(&mut self, limit: usize) -> Intake {
        let mut pending: Vec<_> =
            self.tables.queue.iter().filter(|(_, row)| row.status == QueueStatus::Pending).collect();
        pending.sort_by_key(|(user, row)| (row.created_at, **user));
        let users: Vec<UserId> = pending.into_iter().map(|(user, _)| *user).take(limit).collect();
        let mut intake = Intake::default();
        for user in users {
            match self.take(user) {
                Taken::Started => intake.started += 1,
                Taken::Revived => intake.revived += 1,
                Taken::Joined => intake.joined += 1,
                Taken::No => intake.failed += 1,
            }
        }
        intake
    }

    fn take(&mut self, user: UserId) -> Taken {
        let mut new = sign_up(self.setup, user);
        new.age = self.tables.queue.get(&user).map_or(Duration::ZERO, |row| self.now.saturating_sub(row.created_at));
        let (run, taken) = match self.start(&new) {
            Started::New(run) => (run, Taken::Started),
            Started::Joined(run, RunState::Dead) => {
                let by = By { actor: "sql".to_owned(), note: Some("the queue row was set to pending".to_owned()) };
                self.revive(run, &by);
                (run, Taken::Revived)
            }
            Started::Joined(run, _) => {
                self.hurry(run, user);
                (run, Taken::Joined)
            }
            Started::Refused(text) => {
                if let Some(row) = self.tables.queue.get_mut(&user) {
                    row.status = QueueStatus::Failed;
                    row.error_message = Some(text);
                }
                return Taken::No;
            }
        };
        self.project(run);
        taken
    }

    /// A step that waits out a delay is due now, and where the row's `retry_count` was set to 0 its failures are forgotten.
    /// One that waits for its turn, or for another step, still does.
    fn hurry(&mut self, run: RunId, user: UserId) {
        let now = self.now;
        let reset = self.tables.queue.get(&user).is_some_and(|row| row.retry_count == 0);
        let Some(step) = self.current_step(run).filter(|step| step.state == StepState::Due) else { return };
        let Some(due_at) = step.due_at.as_mut() else { return };
        *due_at = now.min(*due_at);
        if reset {
            step.spent.failures = 0;
        }
    }

    /// Let the user's queue row say what the ledger says about the run that a sign-up started.
    pub(super) fn project(&mut self, id: RunId) {
        let Some(run) = self.tables.runs.get(&id).filter(|run| run.workflow == self.setup.on_sign_up) else { return };
        let (Some(user), state) = (run.subject.user(), run.state) else { return };
        let cancelled_by = run.cancel_by.clone();
        let (failures, error) =
            self.current_step(id).map_or((0, None), |step| (step.spent.failures, step.error.clone()));
        let Some(row) = self.tables.queue.get_mut(&user) else { return };
        row.retry_count = failures;
        (row.status, row.error_message) = match state {
            RunState::Active => (QueueStatus::Processing, error),
            RunState::Succeeded => (QueueStatus::Completed, None),
            RunState::Dead => (QueueStatus::Failed, error),
            RunState::Cancelled => {
                (QueueStatus::Failed, Some(format!("cancelled by {}", cancelled_by.unwrap_or_default())))
            }
        };
    }
}
