//! The checks at the moment of each verb: I9, that a claim is won once, and that nothing starts
//! behind a closed gate.

use sluice::ledger::{Claimed, DueKey, Key, Refusal, Settled, Settlement, settlement};
use tests::ledger::Step;
use workflows::{
    breaker,
    definition::Reach,
    ids::{ResourceName, StepName},
    state::StepState,
    whatsapp::names::InstanceName,
};

use super::Connection;
use crate::stage::Stage;

impl Connection {
    pub(super) fn watch_claim(&self, key: &DueKey, claimed: &Claimed) {
        let log = &self.stage.log;
        log.note(|| {
            let DueKey { run, position, generation } = key;
            format!("{} claims {run} {position} {generation}: {}", self.process.name, said(claimed))
        });
        self.stage.facts().asked_at.insert(*key, log.now());
        match claimed {
            Claimed::Yes(claim) => {
                self.watch_start(key, &claim.step, &claim.input.resource);
                let workflow = self.stage.registry.find(&claim.workflow, claim.version);
                let step = workflow.and_then(|workflow| workflow.step(key.position));
                if step.is_some_and(|step| step.reach == Reach::Exclusive) {
                    let name = InstanceName::from(claim.input.resource.clone());
                    *self.stage.facts().exclusive_claims.entry(name).or_default() += 1;
                }
            }
            Claimed::Refused(Refusal::GateClosed) => log.hit("claim.gate_closed"),
            Claimed::Refused(Refusal::ResourceBusy) => log.hit("claim.resource_busy"),
            Claimed::Refused(Refusal::UnknownDefinition) => log.broken("a step is of no known definition".to_owned()),
            Claimed::Stale => log.hit("claim.stale"),
        }
    }

    /// A step is in somebody's hands.
    fn watch_start(&self, key: &DueKey, step: &StepName, resource: &ResourceName) {
        self.stage.play(&self.process, step, resource);
        let (mut facts, log) = (self.stage.facts(), &self.stage.log);
        if !facts.claims.insert(*key) {
            log.broken(format!("I9: {} at {} was claimed twice at {}", key.run, key.position, key.generation));
        }
        if facts.paused.contains_key(step) {
            log.broken(format!("a claim of {step} went through a closed gate"));
        }
    }

    /// A settle left the step after its own in the worker's hands.
    fn watch_carried_on(&self, settlement: &Settlement) {
        let Key { run, position, .. } = settlement.key;
        let (ledger, key) = (&self.stage.ledger, DueKey { run, position: position + 1, generation: 1 });
        self.stage.log.hit("settle.carried_on");
        if let (Some(step), Some(run)) = (ledger.step(run, key.position), ledger.run(run)) {
            self.watch_start(&key, &step.name, &run.resource);
            let busy_until = ledger.read(|tables| tables.resources.get(&run.resource)?.busy_until);
            if busy_until > Some(self.stage.log.now()) {
                self.stage.log.broken(format!("I3: {} at {} goes on beside a call", key.run, key.position));
            }
        }
    }

    /// I9: who does not hold the step changes nothing.
    pub(super) fn watch_settle(&self, settlement: &Settlement, before: Option<&Step>, settled: &Settled) {
        let (key, log) = (settlement.key, &self.stage.log);
        log.note(|| {
            let (outcome, error) =
                (settlement.attempt.outcome, settlement.attempt.error.as_deref().unwrap_or_default());
            let text = format!("settles {} {} {} as {outcome}: {settled:?}", key.run, key.position, key.token);
            format!("{} {text} {error}", self.process.name)
        });
        let held = before.is_some_and(|step| {
            let over = step.lease_until.is_some_and(|until| until < log.now());
            let guard = settlement.fence == settlement::Fence::Token || over;
            step.state == StepState::Running && step.token == Some(key.token) && guard
        });
        match settled {
            Settled::Done { .. } if !held => {
                log.broken(format!("I9: {} at {} was settled by one who did not hold it", key.run, key.position));
            }
            Settled::Stale => {
                log.hit("settle.stale");
                if before != self.stage.ledger.step(key.run, key.position).as_ref() {
                    log.broken(format!("I9: a stale settle changed {} at {}", key.run, key.position));
                }
            }
            Settled::Done { carried_on, .. } => {
                log.hit(settlement_name(settlement.attempt.outcome));
                if carried_on.is_some() {
                    self.watch_carried_on(settlement);
                }
            }
            Settled::Locked => log.broken("the model locks no row".to_owned()),
            Settled::Refused(reason) => log.broken(format!("the ledger refuses a result: {reason}")),
        }
    }
}

fn said(claimed: &Claimed) -> String {
    match claimed {
        Claimed::Yes(claim) => {
            format!("yes, {}, attempt {} of {}", claim.key.token, claim.attempt, claim.input.resource)
        }
        Claimed::Refused(why) => format!("refused, {why:?}"),
        Claimed::Stale => "stale".to_owned(),
    }
}

fn settlement_name(outcome: &str) -> &'static str {
    match outcome {
        "succeeded" => "settle.succeeded",
        "failed" => "settle.failed",
        "deferred" => "settle.deferred",
        "crashed" => "settle.crashed",
        "sent_back" => "settle.sent_back",
        _ => "settle.refused",
    }
}

impl Stage {
    pub(super) fn saw(&self, before: breaker::State, after: breaker::State) {
        if before != after {
            self.log.note(|| format!("the breaker is {after:?}"));
            self.log.hit(match after {
                breaker::State::Closed => "breaker.closed",
                breaker::State::Open => "breaker.opened",
                breaker::State::HalfOpen => "breaker.half_opened",
            });
        }
    }
}
