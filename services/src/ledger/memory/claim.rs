//! From `dispatched` to `running`: claims, the put-backs of those that are not admitted, and the leases of the rest.

use std::time::Duration;

use workflows::{
    definition::{Reach, Step as Definition},
    outcome::Given,
    state::{Event, StepState},
};

use super::{Claimed, Key, Lease, Safeguard, Tx, Worker};
use crate::ledger::{
    Claim, PutBack,
    admission::{self, Asked},
};

/// How long a step waits that met a closed gate at its claim.
const AT_A_CLOSED_GATE: Duration = Duration::from_secs(1);

/// How long a step waits that this build does not know: 5 s, doubling to 60.
const UNKNOWN_FIRST: Duration = Duration::from_secs(5);
const UNKNOWN_LONGEST: Duration = Duration::from_secs(60);

impl Tx<'_> {
    pub(super) fn claim(&mut self, worker: &Worker, key: &Key) -> Claimed {
        let Some(asked) = self.asked(worker, key) else { return Claimed::Stale };
        let registry = self.setup.registry.clone();
        match admission::admit(&asked, &registry) {
            Err(why) => {
                self.hand_back(key, why);
                Claimed::PutBack(why)
            }
            Ok((_, definition)) => match self.take_in_hand(worker, key, definition) {
                Some(claim) => Claimed::Yes(Box::new(claim)),
                None => Claimed::Stale,
            },
        }
    }

    fn asked(&mut self, worker: &Worker, key: &Key) -> Option<Asked> {
        let step = self.held(key, StepState::Dispatched)?.name.clone();
        let run = self.tables.runs.get(&key.run)?;
        let resource = self.tables.resources.get(&run.resource);
        Some(Asked {
            run: key.run,
            workflow: run.workflow.clone(),
            version: run.version,
            position: key.position,
            gate_closed: self.guards(Safeguard::GateAtClaim)
                && (self.is_gate_closed(&step, &run.workflow, worker.host.as_deref())
                    || !self.is_let_through(key.run, worker.host.as_deref())),
            turn: resource.and_then(|resource| resource.run),
            resource_busy: self.guards(Safeguard::SingleFlight)
                && resource.and_then(|resource| resource.busy_until).is_some_and(|until| until > self.now),
            step,
        })
    }

    fn hand_back(&mut self, key: &Key, why: PutBack) {
        if self.meet(key.run, key.position, Event::PutBack).is_none() {
            return;
        }
        let now = self.now;
        let busy_until = self.resource_of(key).and_then(|resource| resource.busy_until).filter(|until| *until > now);
        let Some(step) = self.tables.steps.get_mut(&(key.run, key.position)) else { return };
        step.due_at = match why {
            PutBack::GateClosed => Some(now + AT_A_CLOSED_GATE),
            // Without a moment it waits for its turn.
            PutBack::ResourceBusy => busy_until,
            PutBack::UnknownDefinition => {
                // As after a defer, the number only makes the delay grow.
                step.spent.defers = step.spent.defers.saturating_add(1);
                let doublings = (step.spent.defers - 1).min(8);
                Some(now + (UNKNOWN_FIRST * 2u32.pow(doublings)).min(UNKNOWN_LONGEST))
            }
        };
    }

    fn take_in_hand(&mut self, worker: &Worker, key: &Key, definition: &Definition) -> Option<Claim> {
        self.meet(key.run, key.position, Event::Claim)?;
        let lease_until = self.now + definition.lease;
        let now = self.now;
        let step = self.tables.steps.get_mut(&(key.run, key.position))?;
        step.leased_at = Some(now);
        step.lease_until = Some(lease_until);
        step.started_at = Some(now);
        step.worker = Some(worker.name.clone());
        step.attempts += 1;
        let claim = self.claim_of(key)?;
        if definition.reach == Reach::Exclusive {
            let subject = claim.given.subject.clone();
            let instance = self.tables.instances.get_mut(&subject)?;
            instance.create_claimed_at.get_or_insert(now);
            let resource = self.resource_of(key)?;
            resource.busy_until = Some(lease_until);
            resource.busy_token = Some(key.token);
        }
        Some(claim)
    }

    /// What a worker that holds this step is given.
    pub(super) fn claim_of(&self, key: &Key) -> Option<Claim> {
        let run = self.tables.runs.get(&key.run)?;
        let instance = self.tables.instances.get(&run.subject)?;
        let step = self.tables.steps.get(&(key.run, key.position))?;
        let earlier: Vec<_> = self.tables.steps.range((key.run, 0)..(key.run, key.position)).map(|(_, s)| s).collect();
        let input = earlier.last().map_or_else(|| run.input.clone(), |step| step.output.clone().unwrap_or_default());
        Some(Claim {
            key: *key,
            workflow: run.workflow.clone(),
            version: run.version,
            step: step.name.clone(),
            spent: step.spent,
            send_backs: earlier.iter().map(|step| step.spent.send_backs).collect(),
            attempt: step.attempts,
            given: Given {
                subject: run.subject.clone(),
                instance: run.resource.clone(),
                token: instance.token.clone(),
                created_before: self.guards(Safeguard::ReadBack) && instance.create_claimed_at.is_some(),
                paired_before: instance.paired_at.is_some(),
                imported: false,
                input,
            },
            traceparent: run.traceparent.clone(),
            age: self.now.saturating_sub(run.requested_at),
        })
    }

    /// Whether the lease is still the token's.
    pub(super) fn renew(&mut self, lease: &Lease) -> bool {
        let (now, until) = (self.now, self.now + lease.length);
        let Some(step) = self.held(&lease.key, StepState::Running) else { return false };
        step.leased_at = Some(now);
        step.lease_until = Some(until);
        let token = Some(lease.key.token);
        if let Some(resource) = self.resource_of(&lease.key).filter(|resource| resource.busy_token == token) {
            resource.busy_until = Some(until);
        }
        true
    }

    pub(super) fn resource_of(&mut self, key: &Key) -> Option<&mut super::Resource> {
        let name = &self.tables.runs.get(&key.run)?.resource;
        self.tables.resources.get_mut(name)
    }
}
