//! From `running` to wherever the attempt led: the settle, and the leases that ran out.

use serde_json::Value;
use workflows::{
    definition::EXCLUSIVE_CALL,
    ids::RunId,
    outcome::{ERROR_BYTES, Facts, InstanceStatus},
    state::{RunState, Spent, StepState},
};

use super::{Attempt, Expired, Key, Safeguard, Settled, Settlement, Step, Tx};
use crate::ledger::settlement::{DueIn, Guard, Quiet, Then};

impl Tx<'_> {
    pub(super) fn settle(&mut self, settlement: &Settlement) -> Settled {
        if !self.holds(settlement) {
            return Settled::Stale;
        }
        if let Err(refusal) = is_storable(settlement) {
            return Settled::Refused(refusal);
        }
        let run = settlement.key.run;
        let settlement = self.unless_cancelled(settlement);
        self.record(&settlement);
        self.learn(run, &settlement.facts);
        self.quieten(&settlement);
        self.write_step(&settlement);
        self.follow(&settlement);
        self.project(run);
        Settled::Done(self.tables.runs.get(&run).map_or(RunState::Active, |run| run.state))
    }

    /// Whether the guard holds for every step that the settlement moves.
    fn holds(&mut self, settlement: &Settlement) -> bool {
        let (key, now) = (settlement.key, self.now);
        let Some(step) = self.held(&key, StepState::Running) else { return false };
        let over = step.lease_until.is_some_and(|until| until <= now);
        let earlier = match settlement.then {
            Then::Rerun { position, .. } | Then::Die { position, .. } if position != key.position => position,
            _ => return settlement.guard == Guard::Token || over,
        };
        let succeeded = |step: &Step| step.state == StepState::Succeeded;
        self.tables.steps.get(&(key.run, earlier)).is_some_and(succeeded)
    }

    /// A run whose end was asked for ends now, unless this settle ends it as succeeded. What the attempt learnt is kept.
    fn unless_cancelled(&self, settlement: &Settlement) -> Settlement {
        let mut settlement = settlement.clone();
        let asked = self.tables.runs.get(&settlement.key.run).is_some_and(|run| run.cancel_by.is_some());
        if asked && settlement.then != Then::Succeed {
            settlement.to = StepState::Cancelled;
            settlement.then = Then::Cancel;
        }
        settlement
    }

    fn record(&mut self, settlement: &Settlement) {
        let key = settlement.key;
        let Some(step) = self.tables.steps.get(&(key.run, key.position)) else { return };
        self.tables.attempts.push(Attempt {
            run: key.run,
            position: key.position,
            step: step.name.clone(),
            token: key.token,
            worker: step.worker.clone().unwrap_or_default(),
            started_at: step.started_at.unwrap_or(self.now),
            ended_at: self.now,
            ended: settlement.attempt.clone(),
        });
    }

    /// What the attempt learnt about the instance holds, whatever becomes of its run.
    fn learn(&mut self, run: RunId, facts: &Facts) {
        let now = self.now;
        let Some(subject) = self.tables.runs.get(&run).map(|run| run.subject.clone()) else { return };
        let Some(instance) = self.tables.instances.get_mut(&subject) else { return };
        if let Some(token) = &facts.token {
            instance.token = token.clone();
        }
        if let Some(status) = facts.status {
            instance.status = status;
            if status == InstanceStatus::Connected {
                instance.paired_at.get_or_insert(now);
            }
        }
        if let Some(qr_code) = &facts.qr_code {
            instance.qr_code = Some(qr_code.clone());
            instance.qr_at = Some(now);
        }
        if let Some(webhook_url) = &facts.webhook_url {
            instance.webhook_url = Some(webhook_url.clone());
        }
    }

    /// The API gave its final answer: the resource is free, unless somebody else marked it since. Or it did not, and may be at
    /// work for the time of one call from now on.
    fn quieten(&mut self, settlement: &Settlement) {
        let (token, quiet_at) = (Some(settlement.key.token), self.now + EXCLUSIVE_CALL);
        let Some(resource) = self.resource_of(&settlement.key).filter(|resource| resource.busy_token == token) else {
            return;
        };
        match (settlement.quiet, settlement.guard) {
            (Quiet::Yes, _) => (resource.busy_until, resource.busy_token) = (None, None),
            (Quiet::Unsure, Guard::Token) => resource.busy_until = resource.busy_until.max(Some(quiet_at)),
            (Quiet::Unsure, Guard::Expiry) => {}
        }
    }

    fn write_step(&mut self, settlement: &Settlement) {
        let now = self.now;
        let counts = self.guards(Safeguard::CrashCount);
        let Some(step) = self.tables.steps.get_mut(&(settlement.key.run, settlement.key.position)) else { return };
        let crashes = if counts { settlement.spent.crashes } else { step.spent.crashes };
        step.enter(settlement.to);
        step.spent = Spent { crashes, ..settlement.spent };
        step.error = settlement.attempt.error.clone();
        if let Some(output) = &settlement.output {
            step.output = Some(output.clone());
        }
        step.due_at = match settlement.due {
            DueIn::After(delay) => Some(now + delay),
            DueIn::Waiting => None,
        };
    }

    /// What the settle does to the rest of the run.
    fn follow(&mut self, settlement: &Settlement) {
        let Key { run, position, .. } = settlement.key;
        match &settlement.then {
            Then::Nothing => {}
            Then::Advance(next) => {
                let priority = self.tables.runs.get(&run).map_or(0, |run| run.priority);
                let fresh = || Step::new(next.clone(), priority, None);
                self.tables.steps.entry((run, position + 1)).or_insert_with(fresh).due_at = Some(self.now);
            }
            Then::Rerun { position, send_backs } => {
                self.redo_after(run, *position);
                if let Some(target) = self.tables.steps.get_mut(&(run, *position)) {
                    target.enter(StepState::Due);
                    target.spent.send_backs = *send_backs;
                    target.due_at = Some(self.now);
                }
            }
            Then::Succeed => self.end(run, RunState::Succeeded),
            Then::Cancel => self.end(run, RunState::Cancelled),
            Then::Die { position, reason, .. } => {
                if *position != settlement.key.position {
                    self.redo_after(run, *position);
                }
                if let Some(step) = self.tables.steps.get_mut(&(run, *position)) {
                    step.enter(StepState::Dead);
                    step.error = settlement.attempt.error.clone();
                }
                self.bury(run, *position, *reason, settlement.attempt.class);
            }
        }
    }

    /// The steps after `position` wait until it has run again.
    fn redo_after(&mut self, run: RunId, position: i16) {
        for (_, step) in self.tables.steps.range_mut((run, position + 1)..=(run, i16::MAX)) {
            if step.state == StepState::Succeeded {
                step.enter(StepState::Due);
                step.due_at = None;
            }
        }
    }

    pub(super) fn expired(&self, limit: usize) -> Vec<Expired> {
        let mut over: Vec<_> = self
            .tables
            .active
            .iter()
            .flat_map(|(_, id)| self.tables.steps.range((*id, 0)..=(*id, i16::MAX)))
            .filter_map(|((run, position), step)| {
                let until = step.lease_until.filter(|until| *until <= self.now)?;
                Some((until, Key { run: *run, position: *position, token: step.token? }))
            })
            .collect();
        over.sort();
        let expired = |key| Some(Expired { claim: self.claim_of(&key)?, worker_lives: self.worker_lives(&key) });
        over.into_iter().take(limit).filter_map(|(_, key)| expired(key)).collect()
    }

    /// Whether the step's worker has beaten since it last moved this lease: one that was killed moved all that it held
    /// with its last beat.
    fn worker_lives(&self, key: &Key) -> bool {
        let Some(step) = self.tables.steps.get(&(key.run, key.position)) else { return false };
        let beat_at = step.worker.as_ref().and_then(|worker| self.tables.heartbeats.get(worker));
        beat_at.is_some_and(|beat_at| Some(*beat_at) > step.leased_at)
    }
}

/// What Postgres would say to it: no text and no JSON may hold a NUL, and an attempt's error has its limit.
fn is_storable(settlement: &Settlement) -> Result<(), String> {
    let texts = [settlement.attempt.error.as_deref(), settlement.attempt.note.as_deref()];
    let output = settlement.output.as_ref().map(Value::to_string).unwrap_or_default();
    if texts.into_iter().flatten().any(|text| text.contains('\0')) || output.contains("\\u0000") {
        return Err("a text that holds a NUL cannot be stored".to_owned());
    }
    let error = settlement.attempt.error.as_deref().map_or(0, str::len);
    if error > ERROR_BYTES {
        return Err(format!("an error of {error} bytes is too long to store: at most {ERROR_BYTES}"));
    }
    Ok(())
}
