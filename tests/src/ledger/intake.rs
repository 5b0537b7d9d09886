//! The public queue: what people and the app write there, what intake makes of it, and how its rows
//! follow their runs.

use std::time::Duration;

use serde_json::json;
use sluice::ledger::{By, Intake, TakenIn};
use workflows::{
    ids::{ResourceName, RunId},
    state::{RunState, StepState},
    whatsapp::names::{InstanceName, UserId},
};

use super::{ModelLedger, NewRun, QueueRow, QueueStatus, Resource, Started, Tables, Tx, start::Wanted};

impl ModelLedger {
    /// A user signs up: the trigger writes a pending row, where there is none.
    pub fn sign_up(&self, user: UserId) {
        self.transact(|tx| {
            let row =
                QueueRow { status: QueueStatus::Pending, retry_count: 0, error_message: None, created_at: tx.now };
            tx.tables.queue.entry(user).or_insert(row);
        });
    }

    /// The user is deleted, and the queue row with them.
    pub fn leave(&self, user: UserId) {
        self.transact(|tx| tx.tables.queue.remove(&user));
    }

    /// A person sets the row back to `pending`, as the guide's SQL for stuck rows does.
    pub fn ask_again(&self, user: UserId) {
        self.transact(|tx| {
            if let Some(row) = tx.tables.queue.get_mut(&user) {
                row.status = QueueStatus::Pending;
            }
        });
    }

    /// A person sets the row back to `pending` and its retries to 0, as the guide's SQL for failed
    /// rows does.
    pub fn ask_again_with_a_fresh_budget(&self, user: UserId) {
        self.transact(|tx| {
            if let Some(row) = tx.tables.queue.get_mut(&user) {
                row.status = QueueStatus::Pending;
                row.retry_count = 0;
            }
        });
    }

    /// What the app's front end asks for on the user's behalf.
    pub fn request_of(&self, user: UserId) -> NewRun {
        self.transact(|tx| NewRun { age: Duration::ZERO, ..tx.sign_up_of(user) })
    }
}

pub(super) fn is_idle(tables: &Tables) -> bool {
    tables.active.is_empty()
        && tables.queue.values().all(|row| row.status != QueueStatus::Pending)
        && tables.resources.values().all(|resource| resource.doubted_at.is_none())
}

impl Tx<'_> {
    pub(super) fn intake(&mut self, limit: usize) -> Intake {
        let mut intake = Intake::default();
        for user in self.pending(limit) {
            self.take(user, &mut intake);
        }
        intake
    }

    /// The oldest first decide who is taken; they are taken in key order.
    fn pending(&self, limit: usize) -> Vec<UserId> {
        let mut pending: Vec<_> =
            self.tables.queue.iter().filter(|(_, row)| row.status == QueueStatus::Pending).collect();
        pending.sort_by_key(|(user, row)| (row.created_at, **user));
        let mut users: Vec<UserId> = pending.into_iter().map(|(user, _)| *user).take(limit).collect();
        users.sort();
        users
    }

    /// One row into a run. A dead run is revived, a waiting step is due now, and of one under way
    /// only the status goes back.
    fn take(&mut self, user: UserId, intake: &mut Intake) {
        let new = self.sign_up_of(user);
        let run = match self.start_run(&new, Wanted::BySomebody) {
            Started::New(run) => {
                intake.started.extend(self.taken_in(run));
                run
            }
            Started::Joined(run, RunState::Dead) => {
                let by = By { actor: "sql".to_owned(), note: Some("the queue row was set to pending".to_owned()) };
                self.revive_run(run, &by);
                intake.revived.push(run);
                run
            }
            Started::Joined(run, _) => {
                self.hurry(run, user);
                intake.joined += 1;
                run
            }
            Started::Refused(text) => {
                intake.failed += 1;
                if let Some(row) = self.tables.queue.get_mut(&user) {
                    row.status = QueueStatus::Failed;
                    row.error_message = Some(text);
                }
                return;
            }
        };
        self.project_taken(run);
        let waiting = self.waiting_step(run);
        intake.due.extend(waiting.and_then(|position| self.due_now(run, position)));
    }

    /// The run that a sign-up asks for: on the resource that the user has, else on the one that is
    /// named after them.
    fn sign_up_of(&self, user: UserId) -> NewRun {
        let subject = user.subject();
        let workflow = &self.setup.on_sign_up;
        let is_own = |resource: &Resource| resource.subject == subject && resource.workflow == *workflow;
        let own = self.tables.resources.iter().filter(|(_, resource)| is_own(resource));
        let own = own.min_by_key(|(_, resource)| resource.created_at).map(|(name, _)| name.clone());
        let asked_at = self.tables.queue.get(&user).map_or(self.now, |row| row.created_at);
        NewRun {
            workflow: self.setup.on_sign_up.clone(),
            subject,
            resource: own.unwrap_or_else(|| named_after(user)),
            input: json!({}),
            traceparent: None,
            age: self.now.saturating_sub(asked_at),
        }
    }

    fn taken_in(&self, run: RunId) -> Option<TakenIn> {
        let run = self.tables.runs.get(&run)?;
        Some(TakenIn {
            run: run.id,
            workflow: run.workflow.clone(),
            subject: run.subject.clone(),
            traceparent: run.traceparent.clone(),
            age: self.now.saturating_sub(run.requested_at),
        })
    }

    /// A step that waits out a delay is due now, and where the row's `retry_count` was set to 0 its
    /// failures are forgotten. One that waits for its turn, or for another step, still does.
    fn hurry(&mut self, run: RunId, user: UserId) {
        let now = self.now;
        let reset = self.tables.queue.get(&user).is_some_and(|row| row.retry_count == 0);
        let Some(position) = self.waiting_step(run) else { return };
        let Some(step) = self.tables.steps.get_mut(&(run, position)) else { return };
        step.due_at = step.due_at.map(|due_at| due_at.min(now));
        if reset {
            step.spent.failures = 0;
        }
    }

    /// The step that is due at some moment.
    fn waiting_step(&self, run: RunId) -> Option<i16> {
        let mut steps = self.tables.steps.range((run, 0)..=(run, i16::MAX));
        let waiting = steps.find(|(_, step)| step.state == StepState::Due && step.due_at.is_some());
        waiting.map(|((_, position), _)| *position)
    }

    /// Lets the user's queue row say what the ledger says about the run that a sign-up started. A
    /// pending row is a command: only intake, which takes it, writes over it.
    pub(super) fn project(&mut self, id: RunId) {
        let user = self.tables.runs.get(&id).and_then(|run| UserId::of(&run.subject));
        let row = user.and_then(|user| self.tables.queue.get(&user));
        if row.is_some_and(|row| row.status != QueueStatus::Pending) {
            self.project_taken(id);
        }
    }

    fn project_taken(&mut self, id: RunId) {
        let Some(run) = self.tables.runs.get(&id).filter(|run| run.workflow == self.setup.on_sign_up) else { return };
        // Nobody asked for an internal run: it shows only where it needs a person.
        if run.internal && run.state != RunState::Dead {
            return;
        }
        let Some(user) = UserId::of(&run.subject) else { return };
        let shown = self.shown(id);
        if let (Some(row), Some((status, retry_count, error_message))) = (self.tables.queue.get_mut(&user), shown) {
            *row = QueueRow { status, retry_count, error_message, created_at: row.created_at };
        }
    }

    fn shown(&self, id: RunId) -> Option<(QueueStatus, u32, Option<String>)> {
        let run = self.tables.runs.get(&id)?;
        let steps = || self.tables.steps.range((id, 0)..=(id, i16::MAX)).map(|(_, step)| step);
        let current = steps().find(|step| step.state != StepState::Succeeded).or_else(|| steps().next_back());
        let with = |said: String, more: Option<&String>| match more {
            Some(more) => format!("{said}: {more}"),
            None => said,
        };
        let (status, error) = match run.state {
            RunState::Active => {
                let waits = current.filter(|step| step.state == StepState::Due).and_then(|step| step.held_by.clone());
                (QueueStatus::Processing, waits.or_else(|| current.and_then(|step| step.error.clone())))
            }
            RunState::Succeeded => (QueueStatus::Completed, None),
            RunState::Dead => {
                let letter = self.open_letter(id);
                let error = letter.map(|letter| with(letter.reason.as_str().to_owned(), letter.error.as_ref()));
                (QueueStatus::Failed, error)
            }
            RunState::Cancelled => {
                let by = run.cancel_by.as_deref().unwrap_or_default();
                (QueueStatus::Failed, Some(with(format!("cancelled by {by}"), run.cancel_reason.as_ref())))
            }
        };
        Some((status, current.map_or(0, |step| step.spent.failures), error))
    }
}

fn named_after(user: UserId) -> ResourceName {
    InstanceName::of_user(user).resource()
}
