//! From how an attempt ended to what the ledger writes: the outcome, through `transition` and the
//! policy, to one row's worth of changes. Pure, and the same for both ledgers.

#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use workflows::{
    calls::InFlight,
    definition::{Definition, Reach},
    ids::{StepName, WorkflowName},
    outcome::{Class, Failure, Memory, Outcome},
    state::{DeathReason, Effect, Illegal, Move, RunState, Spent, Standing, StepState, transition},
};

use super::{AttemptSpan, Claim, Expired, Key, SpanIds};

/// Everything that one settle writes. It is fenced by `key` and `fence`; a run that was cancelled
/// meanwhile ends as cancelled instead.
#[derive(Debug, Clone)]
pub struct Settlement {
    pub key: Key,
    pub fence: Fence,
    pub workflow: WorkflowName,
    pub step: StepName,
    pub to: StepState,
    pub spent: Spent,
    /// After how long a step that goes back to `due` may be dispatched. None: when an earlier step
    /// has run again.
    pub due: Option<Duration>,
    pub attempt: Attempt,
    pub output: Option<Value>,
    pub memory: Memory,
    /// What becomes of the rest of the run.
    pub then: Then,
    pub quiet: Quiet,
    /// The step may create or delete: it kept its resource busy.
    pub exclusive: bool,
    /// The worker would go on with the step after this one.
    pub carry_on: Option<CarryOn>,
}

/// What a worker offers in order to go on with the next step without a hint and a claim. Only of a
/// step that creates and deletes nothing. Where a claim would not find all that it needs, the step
/// becomes due as ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarryOn {
    /// How long the step's lease lasts.
    pub lease: Duration,
    /// The attempt's that it would be, where one is recorded.
    pub span: Option<AttemptSpan>,
}

/// Who may settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// Whoever holds the token.
    Token,
    /// Only where the lease has run out as well: a rescue.
    Expiry,
}

/// What the settle does to the run. Serialised as `sluice.settle` reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "then", rename_all = "snake_case")]
pub enum Then {
    Nothing,
    /// The step after this one becomes due.
    Advance {
        next: StepName,
    },
    /// An earlier step becomes due again, and those between wait for it.
    Rerun {
        #[serde(rename = "target")]
        position: i16,
        send_backs: u32,
    },
    Succeed,
    /// Somebody asked for the run's end while the step ran.
    Cancel,
    /// The run needs a person. `position` is the step at which a revival resumes.
    Die {
        #[serde(rename = "target")]
        position: i16,
        #[serde(rename = "target_step")]
        step: StepName,
        reason: DeathReason,
    },
}

/// Whether the API has given its final answer to every call that creates or deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// It has: the resource is free.
    Yes,
    /// Perhaps not: the resource stays busy for as long as the server may need for a call that has
    /// just left, and no shorter than the lease. A rescue, which knows nothing of the worker,
    /// leaves it at the lease.
    Unsure,
}

/// The row that says how the attempt ended. Serialised as `sluice.settle` reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Attempt {
    pub outcome: &'static str,
    pub class: Option<Class>,
    pub http_status: Option<u16>,
    pub error: Option<String>,
    pub note: Option<String>,
    pub trace_id: Option<String>,
    pub span_id: Option<String>,
}

impl From<InFlight> for Quiet {
    fn from(calls: InFlight) -> Self {
        match calls {
            InFlight::Unknown => Self::Unsure,
            InFlight::Never | InFlight::Landed => Self::Yes,
        }
    }
}

impl Settlement {
    /// What the ledger must write for `outcome`. `jitter` is a share between 0 and 1.
    pub fn plan(
        claim: &Claim,
        workflow: &Definition,
        outcome: Outcome,
        quiet: Quiet,
        jitter: f64,
    ) -> Result<Self, Illegal> {
        let mut plan = Plan::new(claim.key, &claim.step, claim.spent, workflow, quiet, jitter);
        match outcome {
            Outcome::Success { output, memory, note } => {
                plan.settlement.output = Some(output);
                plan.settlement.memory = memory;
                plan.settlement.attempt.note = note;
                plan.make(Move::Succeed(workflow.place(claim.key.position)), "succeeded", None)
            }
            Outcome::Retry(failure) => plan.make(Move::Fail, "failed", Some(failure)),
            Outcome::Defer { failure, after } => {
                plan.asked = after;
                plan.make(Move::Defer, "deferred", Some(failure))
            }
            Outcome::SendBack { to, failure } => plan.send_back(&to, &claim.send_backs, failure),
            Outcome::Permanent(failure) => plan.make(Move::Refuse, "refused", Some(failure)),
        }
    }

    /// The attempt was this span.
    pub fn traced(mut self, ids: Option<SpanIds>) -> Self {
        (self.attempt.trace_id, self.attempt.span_id) = ids.map(|ids| (ids.trace, ids.span)).unzip();
        self
    }

    /// What the ledger must write for a lease that ran out. A worker that lives on has lost its
    /// lease, not crashed.
    pub fn rescue(expired: &Expired, workflow: &Definition, jitter: f64) -> Result<Self, Illegal> {
        let mut plan = Plan::new(expired.key, &expired.step, expired.spent, workflow, Quiet::Unsure, jitter);
        plan.settlement.fence = Fence::Expiry;
        if expired.worker_lives {
            let failure =
                Failure::new(Class::WorkerLost, "the lease ran out while the worker lived on: it was not renewed");
            plan.asked = Some(Duration::ZERO);
            plan.make(Move::Defer, "deferred", Some(failure))
        } else {
            let failure = Failure::new(Class::WorkerLost, "the lease ran out: the worker is gone");
            plan.make(Move::Expire, "crashed", Some(failure))
        }
    }
}

/// A settlement in the making.
struct Plan<'a> {
    workflow: &'a Definition,
    jitter: f64,
    asked: Option<Duration>,
    settlement: Settlement,
}

impl<'a> Plan<'a> {
    /// Of the attempt of this step, which had spent so much before.
    fn new(key: Key, step: &StepName, spent: Spent, workflow: &'a Definition, quiet: Quiet, jitter: f64) -> Self {
        let settlement = Settlement {
            key,
            fence: Fence::Token,
            workflow: workflow.name.clone(),
            step: step.clone(),
            to: StepState::Running,
            spent,
            due: Some(Duration::ZERO),
            attempt: Attempt::default(),
            output: None,
            memory: Memory::default(),
            then: Then::Nothing,
            quiet,
            exclusive: workflow.step(key.position).is_some_and(|step| step.reach == Reach::Exclusive),
            carry_on: None,
        };
        Self { workflow, jitter, asked: None, settlement }
    }

    fn make(mut self, wanted: Move, outcome: &'static str, failure: Option<Failure>) -> Result<Settlement, Illegal> {
        let retry = self.workflow.step(self.settlement.key.position).map(|step| step.retry).unwrap_or_default();
        let running = Standing { state: StepState::Running, spent: self.settlement.spent };
        let (step, effects) = transition(running, wanted, &retry.limits)?;
        self.settlement.to = step.state;
        self.settlement.spent = step.spent;
        self.settlement.due = match wanted {
            Move::Fail => Some(retry.after_failure(step.spent, self.jitter)),
            Move::Expire => Some(retry.after_crash(step.spent, self.jitter)),
            Move::Defer => Some(retry.after_defer(step.spent, self.asked, self.jitter)),
            Move::SendBack => None,
            _ => Some(Duration::ZERO),
        };
        self.settlement.attempt.outcome = outcome;
        if let Some(failure) = failure {
            self.settlement.attempt.class = Some(failure.class);
            self.settlement.attempt.http_status = failure.http_status;
            self.settlement.attempt.error = Some(failure.message);
            self.settlement.memory = failure.memory;
        }
        for effect in effects {
            self.bring(effect);
        }
        Ok(self.settlement)
    }

    fn bring(&mut self, effect: Effect) {
        let position = self.settlement.key.position;
        match effect {
            Effect::Advance => {
                if let Some(next) = self.workflow.step(position + 1) {
                    self.settlement.then = Then::Advance { next: next.name.clone() };
                }
            }
            Effect::EndRun(RunState::Succeeded) => self.settlement.then = Then::Succeed,
            Effect::Bury(reason) => {
                self.settlement.then = Then::Die { position, step: self.settlement.step.clone(), reason };
            }
            Effect::RecordAttempt | Effect::EndRun(_) | Effect::ReviveRun => {}
        }
    }

    /// Send the run back to `to`, or let it die there where it was sent back too often.
    fn send_back(self, to: &StepName, send_backs: &[u32], failure: Failure) -> Result<Settlement, Illegal> {
        let target = self.workflow.position(to).filter(|&target| target < self.settlement.key.position);
        let Some(target) = target else {
            return self.make(Move::Refuse, "refused", Some(failure));
        };
        let limits = self.workflow.step(target).map(|step| step.retry).unwrap_or_default().limits;
        let send_backs = usize::try_from(target).ok().and_then(|at| send_backs.get(at)).copied();
        let spent = Spent { send_backs: send_backs.unwrap_or_default(), ..Spent::default() };
        let (step, _) = transition(Standing { state: StepState::Succeeded, spent }, Move::Rerun, &limits)?;
        let mut settlement = self.make(Move::SendBack, "sent_back", Some(failure))?;
        settlement.then = if step.state == StepState::Dead {
            Then::Die { position: target, step: to.clone(), reason: DeathReason::AttemptsExhausted }
        } else {
            Then::Rerun { position: target, send_backs: step.spent.send_backs }
        };
        Ok(settlement)
    }
}
