//! From `due` to `running`: claims, and the leases that they give. A refused claim writes nothing.

use std::time::Duration;

use sluice::ledger::{Ask, AttemptSpan, By, Claim, Claimed, DueKey, Key, Lease, Refusal, Worker};
use workflows::{
    definition::{CALLED_WITHIN, EXCLUSIVE_CALL, Reach, Step as Definition},
    ids::RunId,
    outcome::StepInput,
    state::{Move, StepState},
    whatsapp::names::UserId,
};

use super::{Resource, Safeguard, Step, Tx, rows::Heartbeat};

/// How long a step waits that this build does not know: 5 s, doubling to 60.
const UNKNOWN_FIRST: Duration = Duration::from_secs(5);
const UNKNOWN_LONGEST: Duration = Duration::from_secs(60);

impl Tx<'_> {
    /// In key order, as every caller takes rows.
    pub(super) fn claim_all(&mut self, worker: &Worker, asked: &[Ask]) -> Vec<Claimed> {
        let mut sorted: Vec<(&Ask, usize)> = asked.iter().zip(0..).collect();
        sorted.sort_unstable_by_key(|(ask, at)| (ask.key, *at));
        let mut claimed: Vec<_> = sorted.into_iter().map(|(ask, at)| (at, self.claim(worker, ask))).collect();
        claimed.sort_by_key(|(at, _)| *at);
        claimed.into_iter().map(|(_, claimed)| claimed).collect()
    }

    fn claim(&mut self, worker: &Worker, ask: &Ask) -> Claimed {
        let key = ask.key;
        self.end_gone(key);
        let Some(due_at) = self.due_since(key) else { return Claimed::Stale };
        let Some(definition) = self.known(key) else {
            self.postpone(key);
            return Claimed::Refused(Refusal::UnknownDefinition);
        };
        if self.guards(Safeguard::SingleFlight) && self.is_busy(key) {
            return Claimed::Refused(Refusal::ResourceBusy);
        }
        if self.guards(Safeguard::GateAtClaim) && !self.may_start(key, due_at) {
            return Claimed::Refused(Refusal::GateClosed);
        }
        let span = ask.span.clone();
        self.take_in_hand(worker, key, span, &definition).map_or(Claimed::Stale, |claim| Claimed::Yes(Box::new(claim)))
    }

    /// Cancels the run where its subject is gone before the first step makes anything for it.
    fn end_gone(&mut self, key: DueKey) {
        if key.position == 0 && self.due_since(key).is_some() && self.is_gone(key.run) {
            self.cancel(key.run, &By { actor: "sluice".to_owned(), note: Some("its subject is gone".to_owned()) });
        }
    }

    /// A user's queue row goes with the user.
    fn is_gone(&self, run: RunId) -> bool {
        let asks = self.definition(run).is_some_and(|definition| {
            definition.gone.is_some() && definition.step(0).is_some_and(|step| step.reach == Reach::Exclusive)
        });
        let user = self.tables.runs.get(&run).and_then(|run| UserId::of(&run.subject));
        asks && user.is_some_and(|user| !self.tables.queue.contains_key(&user))
    }

    /// Since when the step has been due, where it is due now and this is a hint of this time.
    fn due_since(&self, key: DueKey) -> Option<Duration> {
        let fenced = self.guards(Safeguard::Fencing);
        let step = self.tables.steps.get(&(key.run, key.position))?;
        let is_due = step.state == StepState::Due && (step.generation == key.generation || !fenced);
        step.due_at.filter(|at| is_due && *at <= self.now)
    }

    /// The step's definition, where this build knows it.
    fn known(&self, key: DueKey) -> Option<Definition> {
        let run = self.tables.runs.get(&key.run)?;
        self.setup.registry.find(&run.workflow, run.version)?;
        let registered = self.definition(key.run)?.step(key.position)?;
        let step = self.tables.steps.get(&(key.run, key.position))?;
        (registered.name == step.name).then(|| registered.clone())
    }

    fn is_busy(&self, key: DueKey) -> bool {
        let run = self.tables.runs.get(&key.run);
        let resource = run.and_then(|run| self.tables.resources.get(&run.resource));
        resource.and_then(|resource| resource.busy_until).is_some_and(|until| until > self.now)
    }

    /// Whether its gates let the step start, which is charged to them.
    fn may_start(&mut self, key: DueKey, due_at: Duration) -> bool {
        let Some(before) = self.before(key.run, key.position) else { return false };
        if !self.admit(&before, key.run) {
            return false;
        }
        if due_at + Duration::from_secs(1) < self.now && self.gate_state(&before).limited {
            self.note_wait(key.run, due_at);
        }
        true
    }

    /// As after a defer, the number only makes the delay grow.
    fn postpone(&mut self, key: DueKey) {
        let now = self.now;
        if let Some(step) = self.tables.steps.get_mut(&(key.run, key.position)) {
            let delay = UNKNOWN_FIRST * 2u32.pow(step.spent.defers.min(4));
            step.spent.defers = step.spent.defers.saturating_add(1);
            step.become_due(Some(now + delay.min(UNKNOWN_LONGEST)));
        }
    }

    fn take_in_hand(
        &mut self,
        worker: &Worker,
        key: DueKey,
        span: Option<AttemptSpan>,
        definition: &Definition,
    ) -> Option<Claim> {
        self.make(key.run, key.position, Move::Claim)?;
        let key = Key { run: key.run, position: key.position, token: (self.setup.draw_token)() };
        let (now, lease_until) = (self.now, self.now + definition.lease);
        let step = self.tables.steps.get_mut(&(key.run, key.position))?;
        step.token = Some(key.token);
        step.lease_until = Some(lease_until);
        step.started_at = Some(now);
        step.worker = Some(worker.name.clone());
        step.span = span;
        step.attempts += 1;
        let claim = self.claim_of(key)?;
        if definition.reach == Reach::Exclusive {
            let resource = self.resource_of(&key)?;
            resource.exclusive_at.get_or_insert(now);
            resource.busy_until = Some(lease_until);
            resource.call_until = Some(now + CALLED_WITHIN + EXCLUSIVE_CALL);
            resource.busy_token = Some(key.token);
        }
        Some(claim)
    }

    /// What a worker that holds this step is given.
    fn claim_of(&self, key: Key) -> Option<Claim> {
        let run = self.tables.runs.get(&key.run)?;
        let resource = self.tables.resources.get(&run.resource)?;
        let step = self.tables.steps.get(&(key.run, key.position))?;
        let earlier: Vec<_> = self.tables.steps.range((key.run, 0)..(key.run, key.position)).map(|(_, s)| s).collect();
        let input = earlier.last().map_or_else(|| run.input.clone(), |step| step.output.clone().unwrap_or_default());
        Some(Claim {
            key,
            workflow: run.workflow.clone(),
            version: run.version,
            step: step.name.clone(),
            spent: step.spent,
            send_backs: earlier.iter().map(|step| step.spent.send_backs).collect(),
            attempt: step.attempts,
            input: StepInput {
                subject: run.subject.clone(),
                resource: run.resource.clone(),
                secret: resource.secret.clone(),
                memory: resource.memory.clone(),
                exclusive_before: self.guards(Safeguard::ReadBack) && resource.exclusive_at.is_some(),
                input,
            },
            traceparent: run.traceparent.clone(),
            age: self.now.saturating_sub(run.requested_at),
            waited: None,
        })
    }

    pub(super) fn renew_all(&mut self, worker: &Worker, leases: &[Lease]) -> Vec<Option<bool>> {
        let beat = Heartbeat { beat_at: self.now, ..Heartbeat::default() };
        self.tables.heartbeats.insert(worker.name.clone(), beat);
        leases.iter().map(|lease| Some(self.renew(lease))).collect()
    }

    /// Whether the lease is still the token's.
    fn renew(&mut self, lease: &Lease) -> bool {
        let (now, until) = (self.now, self.now + lease.length);
        let Some(step) = self.held(&lease.key) else { return false };
        let longest = now + 2 * lease.length;
        let until = step.lease_until.min(Some(longest)).max(Some(until));
        step.lease_until = until;
        let token = Some(lease.key.token);
        if let Some(resource) = self.resource_of(&lease.key).filter(|resource| resource.busy_token == token) {
            (resource.busy_until, resource.call_until) = (until, until);
        }
        true
    }

    /// The step that runs under this token.
    pub(super) fn held(&mut self, key: &Key) -> Option<&mut Step> {
        let fenced = self.guards(Safeguard::Fencing);
        let step = self.tables.steps.get_mut(&(key.run, key.position))?;
        (step.state == StepState::Running && (step.token == Some(key.token) || !fenced)).then_some(step)
    }

    pub(super) fn resource_of(&mut self, key: &Key) -> Option<&mut Resource> {
        let name = &self.tables.runs.get(&key.run)?.resource;
        self.tables.resources.get_mut(name)
    }
}
