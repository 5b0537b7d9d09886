//! The checks at the moment of each verb: I9, that a claim is won once, and that nothing starts behind a closed gate.

use sluice::ledger::{Claimed, DueKey, Refusal, Settled, Settlement, settlement};
use tests::ledger::Step;
use workflows::{breaker, definition::Reach, state::StepState, whatsapp::names::InstanceName};

use super::Connection;
use crate::stage::Stage;

impl Connection {
    pub(super) fn watch_claim(&self, key: &DueKey, claimed: &Claimed) {
        let log = &self.stage.log;
        log.note(|| {
            let DueKey { run, position, generation } = key;
            format!("{} claims {run} {position} {generation}: {}", self.process.name, said(claimed))
        });
        match claimed {
            Claimed::Yes(claim) => {
                self.stage.play(&self.process, claim);
                let mut facts = self.stage.facts();
                if !facts.claims.insert(*key) {
                    log.broken(format!("I9: {} at {} was claimed twice at {}", key.run, key.position, key.generation));
                }
                if facts.paused.contains_key(&claim.step) {
                    log.broken(format!("a claim of {} went through a closed gate", claim.step));
                }
                let workflow = self.stage.registry.find(&claim.workflow, claim.version);
                let step = workflow.and_then(|workflow| workflow.step(key.position));
                if step.is_some_and(|step| step.reach == Reach::Exclusive) {
                    *facts.exclusive_claims.entry(InstanceName::from(claim.input.resource.clone())).or_default() += 1;
                }
            }
            Claimed::Refused(Refusal::GateClosed) => log.hit("claim.gate_closed"),
            Claimed::Refused(Refusal::ResourceBusy) => log.hit("claim.resource_busy"),
            Claimed::Refused(Refusal::UnknownDefinition) => log.broken("a step is of no known definition".to_owned()),
            Claimed::Stale => log.hit("claim.stale"),
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
            let guard = settlement.guard == settlement::Guard::Token || over;
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
            Settled::Done { .. } => log.hit(settlement_name(settlement.attempt.outcome)),
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
