//! From `running` to wherever the attempt led: the settle, and the leases that ran out.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use sluice::ledger::{
    CarriedOn, Expired, Key, Settled, Settlement,
    settlement::{CarryOn, Fence, Quiet, Then},
};
use workflows::{
    definition::EXCLUSIVE_CALL,
    ids::RunId,
    outcome::ERROR_BYTES,
    state::{Move, RunState, Spent, StepState},
};

use super::{Attempt, Safeguard, Step, Tx};

/// A worker whose connection was merely cut has beaten again by then.
const CUT_OFF: Duration = Duration::from_millis(2200);

impl Tx<'_> {
    /// In key order, as every caller takes rows.
    pub(super) fn settle_all(&mut self, settlements: &[Settlement]) -> Vec<Settled> {
        let mut sorted: Vec<_> = settlements.iter().zip(0_usize..).collect();
        sorted.sort_by_key(|(settlement, at)| (settlement.key, *at));
        let mut settled: Vec<_> = sorted.into_iter().map(|(settlement, at)| (at, self.settle(settlement))).collect();
        settled.sort_by_key(|(at, _)| *at);
        settled.into_iter().map(|(_, settled)| settled).collect()
    }

    pub(super) fn settle(&mut self, settlement: &Settlement) -> Settled {
        if let Err(refusal) = is_storable(settlement) {
            return Settled::Refused(refusal);
        }
        let Some(asked) = self.may_settle(settlement) else { return Settled::Stale };
        let settlement = if asked { cancelled(settlement) } else { settlement.clone() };
        let Key { run, position, .. } = settlement.key;
        let worker = self.tables.steps.get(&(run, position)).and_then(|step| step.worker.clone());
        self.record(&settlement);
        let free_at = self.keep(&settlement);
        self.write_step(&settlement);
        let carried_on = self.carry_on(&settlement, worker);
        let due = match &settlement.then {
            Then::Nothing => {
                self.wait_for_quiet(run, position, free_at);
                self.due_now(run, position)
            }
            Then::Advance { .. } => self.due_now(run, position + 1),
            Then::Rerun { position, .. } => self.due_now(run, *position),
            Then::Succeed | Then::Cancel | Then::Die { .. } => None,
        };
        self.project(run);
        let whole = self.whole(run).map(Box::new);
        Settled::Done { run: whole.as_ref().map_or(RunState::Active, |whole| whole.state), due, carried_on, whole }
    }

    /// The next step is the worker's at once, where a claim of it would find all that it needs. One
    /// that was there already, since its run was sent back past it, is claimed.
    fn carry_on(&mut self, settlement: &Settlement, worker: Option<String>) -> Option<CarriedOn> {
        let CarryOn { lease, span } = settlement.carry_on.clone()?;
        let Key { run, position, .. } = settlement.key;
        let is_quiet = settlement.quiet == Quiet::Yes || !self.guards(Safeguard::SingleFlight);
        let are_plain = self.all_gates_are_plain() || !self.guards(Safeguard::GateAtClaim);
        let next = self.tables.steps.get(&(run, position + 1))?;
        let is_new = matches!(settlement.then, Then::Advance { .. }) && next.generation == 1;
        if !(is_quiet && are_plain && is_new) {
            return None;
        }
        self.make(run, position + 1, Move::Claim)?;
        let (now, token) = (self.now, (self.setup.draw_token)());
        let next = self.tables.steps.get_mut(&(run, position + 1))?;
        next.token = Some(token);
        next.lease_until = Some(now + lease);
        next.started_at = Some(now);
        next.worker = worker;
        next.span = span;
        next.attempts += 1;
        let memory = self.resource_of(&settlement.key)?.memory.clone();
        Some(CarriedOn { token, memory })
    }

    /// Whether somebody asked for the run's end. None where the guard does not hold.
    fn may_settle(&mut self, settlement: &Settlement) -> Option<bool> {
        let now = self.now;
        let step = self.held(&settlement.key)?;
        let over = step.lease_until.is_some_and(|until| until < now);
        (settlement.fence == Fence::Token || over).then_some(step.cancel_asked)
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

    /// What the attempt learnt is kept, whatever becomes of its run. Where the API gave its final
    /// answer the resource is free, unless somebody else marked it since. Where it did not, it may
    /// be at work for the time of one call from now on; a rescue, which knows nothing of the
    /// worker, leaves it at the lease. When the resource is free, where that was looked at.
    fn keep(&mut self, settlement: &Settlement) -> Option<Duration> {
        let (token, quiet_at) = (Some(settlement.key.token), self.now + EXCLUSIVE_CALL);
        let resource = self.resource_of(&settlement.key)?;
        resource.memory.merge(&settlement.memory);
        if resource.busy_token == token {
            match (settlement.quiet, settlement.fence) {
                (Quiet::Yes, _) => (resource.busy_until, resource.busy_token) = (None, None),
                (Quiet::Unsure, Fence::Token) => resource.busy_until = resource.busy_until.max(Some(quiet_at)),
                (Quiet::Unsure, Fence::Expiry) => {}
            }
        } else if settlement.memory.is_empty() {
            return None;
        }
        resource.busy_until
    }

    /// The step itself, and with it the rest of the run.
    fn write_step(&mut self, settlement: &Settlement) {
        let (now, counts) = (self.now, self.guards(Safeguard::CrashCount));
        let Key { run, position, .. } = settlement.key;
        let Some(step) = self.tables.steps.get_mut(&(run, position)) else { return };
        let crashes = if counts { settlement.spent.crashes } else { step.spent.crashes };
        step.enter(settlement.to);
        step.generation += 1;
        step.spent = Spent { crashes, ..settlement.spent };
        step.error = settlement.attempt.error.clone();
        step.held_by = None;
        if let Some(output) = &settlement.output {
            step.output = Some(output.clone());
        }
        step.due_at = settlement.due.filter(|_| settlement.to == StepState::Due).map(|delay| now + delay);
        self.follow(settlement);
    }

    fn follow(&mut self, settlement: &Settlement) {
        let Key { run, position, .. } = settlement.key;
        let now = Some(self.now);
        match &settlement.then {
            Then::Nothing => {}
            Then::Advance { next } => {
                let priority = self.tables.steps.get(&(run, position)).map_or(0, |step| step.priority);
                match self.tables.steps.get_mut(&(run, position + 1)) {
                    Some(there) if there.state == StepState::Due => there.become_due(now),
                    Some(_) => {}
                    None => {
                        self.tables.steps.insert((run, position + 1), Step::new(next.clone(), priority, now));
                    }
                }
            }
            Then::Rerun { position, send_backs } => {
                self.redo_from(run, *position);
                let target = self.tables.steps.get_mut(&(run, *position));
                if let Some(target) = target.filter(|step| step.state == StepState::Due) {
                    target.spent.send_backs = *send_backs;
                    target.due_at = now;
                }
            }
            Then::Succeed => self.end(run, RunState::Succeeded),
            Then::Cancel => self.end(run, RunState::Cancelled),
            Then::Die { position, reason, .. } => {
                self.redo_from(run, position + 1);
                let dying = self.tables.steps.get_mut(&(run, *position));
                if let Some(step) = dying.filter(|step| matches!(step.state, StepState::Due | StepState::Succeeded)) {
                    step.enter(StepState::Dead);
                }
                self.bury(run, *position, *reason, &settlement.attempt);
            }
        }
    }

    /// What has succeeded from this step on is to run again: each waits for the one before it.
    fn redo_from(&mut self, run: RunId, position: i16) {
        for (_, step) in self.tables.steps.range_mut((run, position)..=(run, i16::MAX)) {
            if step.state == StepState::Succeeded {
                step.become_due(None);
            }
        }
    }

    /// A step that is due again is so only when nothing can be under way on its resource any more.
    fn wait_for_quiet(&mut self, run: RunId, position: i16, free_at: Option<Duration>) {
        if !self.guards(Safeguard::SingleFlight) {
            return;
        }
        if let Some(step) = self.tables.steps.get_mut(&(run, position)) {
            step.due_at = step.due_at.map(|due_at| due_at.max(free_at.unwrap_or_default()));
        }
    }

    pub(super) fn expired(&self, limit: usize) -> Vec<Expired> {
        let mut over: Vec<_> = self
            .tables
            .active
            .iter()
            .flat_map(|id| self.tables.steps.range((*id, 0)..=(*id, i16::MAX)))
            .filter_map(|((run, position), step)| {
                let until = step.lease_until.filter(|until| *until < self.now)?;
                Some((until, Key { run: *run, position: *position, token: step.token? }))
            })
            .collect();
        over.sort();
        over.into_iter().filter_map(|(until, key)| self.expired_one(key, until)).take(limit).collect()
    }

    /// The steps in hand of workers whose session has ended, but for those that claimed one since.
    pub(super) fn held_by_gone(&self) -> Vec<(RunId, i16)> {
        let in_hand = |step: &Step| step.lease_until.is_some_and(|until| until > self.now);
        let mut since = BTreeMap::<&str, Duration>::new();
        for step in self.tables.steps.values().filter(|step| in_hand(step)) {
            let (Some(worker), Some(started_at)) = (&step.worker, step.started_at) else { continue };
            since.entry(worker).and_modify(|since| *since = started_at.min(*since)).or_insert(started_at);
        }
        let is_gone = |worker: &String| {
            let beat = self.tables.heartbeats.get(worker).filter(|beat| beat.session_ended);
            beat.is_some_and(|beat| beat.gone_at.is_none_or(|gone_at| since.get(worker.as_str()) < Some(&gone_at)))
        };
        let held =
            self.tables.steps.iter().filter(|(_, step)| in_hand(step) && step.worker.as_ref().is_some_and(is_gone));
        held.map(|(key, _)| *key).collect()
    }

    pub(super) fn end_leases(&mut self) -> usize {
        let now = self.now;
        let held = self.held_by_gone();
        for worker in held.iter().filter_map(|key| self.tables.steps.get(key)?.worker.clone()) {
            if let Some(beat) = self.tables.heartbeats.get_mut(&worker) {
                beat.gone_at.get_or_insert(now);
            }
        }
        let over: Vec<_> = held.into_iter().filter(|(run, position)| self.is_over(*run, *position)).collect();
        for (run, position) in &over {
            let Some(step) = self.tables.steps.get_mut(&(*run, *position)) else { continue };
            step.lease_until = Some(now);
            let token = step.token;
            let name = self.tables.runs.get(run).map(|run| run.resource.clone());
            let resource = name.and_then(|name| self.tables.resources.get_mut(&name));
            if let Some(resource) = resource.filter(|resource| resource.busy_token == token) {
                resource.busy_until = Some(now);
            }
        }
        over.len()
    }

    /// Whether nothing of the attempt can be under way any more.
    fn is_over(&self, run: RunId, position: i16) -> bool {
        let Some(step) = self.tables.steps.get(&(run, position)) else { return false };
        let beat = step.worker.as_ref().and_then(|worker| self.tables.heartbeats.get(worker));
        let Some(gone_at) = beat.and_then(|beat| beat.gone_at) else { return false };
        let resource = self.tables.runs.get(&run).and_then(|run| self.tables.resources.get(&run.resource));
        let call_until = resource.filter(|held| held.busy_token == step.token).and_then(|held| held.call_until);
        let had_its_time = gone_at + CUT_OFF < self.now && call_until < Some(self.now);
        step.started_at < Some(gone_at) && (had_its_time || !self.guards(Safeguard::CallTime))
    }

    /// None where this build does not know its definition.
    fn expired_one(&self, key: Key, until: Duration) -> Option<Expired> {
        let run = self.tables.runs.get(&key.run)?;
        let step = self.tables.steps.get(&(key.run, key.position))?;
        self.setup.registry.find(&run.workflow, run.version)?;
        let lease = self.definition(key.run)?.step(key.position)?.lease;
        let worker = step.worker.clone().unwrap_or_default();
        // One that was killed moved all with its last beat, but for what was too young.
        let moved_at = until.saturating_sub(lease) + Duration::from_millis(1200);
        let worker_lives = self.tables.heartbeats.get(&worker);
        let worker_lives = worker_lives.is_some_and(|beat| beat.gone_at.is_none() && beat.beat_at > moved_at);
        Some(Expired {
            key,
            workflow: run.workflow.clone(),
            version: run.version,
            step: step.name.clone(),
            spent: step.spent,
            attempt: step.attempts,
            worker,
            generation: step.generation,
            age: self.now.saturating_sub(step.started_at.unwrap_or_default()),
            span: step.span.clone(),
            traceparent: run.traceparent.clone(),
            worker_lives,
        })
    }
}

/// A run whose end was asked for ends now, unless this settle ends it as succeeded.
fn cancelled(settlement: &Settlement) -> Settlement {
    let mut settlement = settlement.clone();
    if settlement.then != Then::Succeed {
        settlement.to = StepState::Cancelled;
        settlement.then = Then::Cancel;
    }
    settlement
}

/// What Postgres would say to it: no text and no JSON may hold a NUL, and an attempt's error has
/// its limit.
fn is_storable(settlement: &Settlement) -> Result<(), String> {
    let texts = [settlement.attempt.error.as_deref(), settlement.attempt.note.as_deref()];
    let output = settlement.output.as_ref().map(Value::to_string).unwrap_or_default();
    let memory = settlement.memory.as_json().to_string();
    let holds_nul = texts.into_iter().flatten().any(|text| text.contains('\0'));
    if holds_nul || output.contains("\\u0000") || memory.contains("\\u0000") {
        return Err("a text that holds a NUL cannot be stored".to_owned());
    }
    let error = settlement.attempt.error.as_deref().map_or(0, str::len);
    if error > ERROR_BYTES {
        return Err(format!("an error of {error} bytes is too long to store: at most {ERROR_BYTES}"));
    }
    Ok(())
}
