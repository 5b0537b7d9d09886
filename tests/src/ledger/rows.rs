//! The tables of the model ledger, one struct a row, named as in the migrations. Moments count from
//! the start of the caller's clock. The two indexes repeat what Postgres' partial indexes hold; the
//! invariants are checked without them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use sluice::ledger::{AttemptSpan, settlement};
use workflows::{
    breaker::Breaker,
    definition::Registry,
    ids::{ResourceName, RunId, StepName, Subject, Token, WorkflowName},
    outcome::{Class, Memory},
    secret::Secret,
    state::{DeathReason, RunState, Spent, StepState},
    whatsapp::names::UserId,
};

pub use super::closed_time::{Behind, ClosedTime};
pub use sluice::ledger::Scope;

/// Everything that the ledger holds.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// What every build that came by has registered.
    pub registered: Registry,
    pub runs: BTreeMap<RunId, Run>,
    pub steps: BTreeMap<(RunId, i16), Step>,
    /// In the order in which they ended.
    pub attempts: Vec<Attempt>,
    pub dead_letters: Vec<DeadLetter>,
    pub events: Vec<Event>,
    pub resources: BTreeMap<ResourceName, Resource>,
    pub gates: BTreeMap<(Scope, String), Gate>,
    /// Time that does not count towards the deadlines of runs.
    pub closed_times: Vec<ClosedTime>,
    pub heartbeats: BTreeMap<String, Heartbeat>,
    pub queue: BTreeMap<UserId, QueueRow>,
    /// The active or dead run of each workflow and subject.
    pub(super) unfinished: BTreeMap<(WorkflowName, Subject), RunId>,
    /// The active runs, oldest first.
    pub(super) active: BTreeSet<RunId>,
}

/// When a worker last renewed, and what is known of its session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heartbeat {
    pub beat_at: Duration,
    pub session_ended: bool,
    /// Since when that is known.
    pub gone_at: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub id: RunId,
    pub workflow: WorkflowName,
    pub version: i16,
    pub subject: Subject,
    pub resource: ResourceName,
    pub input: Value,
    pub state: RunState,
    pub traceparent: Option<String>,
    pub asked_traceparent: Option<String>,
    pub linked_traceparent: Option<String>,
    pub deadline_at: Duration,
    /// Up to when the time that a gate held the run is in `deadline_at` already.
    pub deadline_from: Duration,
    pub cancel_by: Option<String>,
    pub cancel_reason: Option<String>,
    /// Started by the ledger for itself: nobody is told of its success.
    pub internal: bool,
    /// It waits for its turn on the resource.
    pub waits: bool,
    /// When somebody asked for it; a repeated request counts from its start.
    pub requested_at: Duration,
    pub created_at: Duration,
    pub revived_at: Option<Duration>,
    pub ended_at: Option<Duration>,
    /// A person ended it, and nobody has told of its span yet.
    pub span_waits: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub name: StepName,
    pub state: StepState,
    pub priority: i16,
    /// Which time it is due: a hint of an earlier one claims nothing.
    pub generation: i32,
    pub token: Option<Token>,
    /// `None` in state `due`: it waits for an earlier step, or for its run's turn on the resource.
    pub due_at: Option<Duration>,
    pub started_at: Option<Duration>,
    pub lease_until: Option<Duration>,
    pub worker: Option<String>,
    /// Of the attempt that runs.
    pub span: Option<AttemptSpan>,
    pub spent: Spent,
    /// How often it was claimed.
    pub attempts: u32,
    /// The run's end was asked for while this step ran.
    pub cancel_asked: bool,
    /// How many of its attempts had ended when it last got a fresh budget.
    pub budget_from: usize,
    pub output: Option<Value>,
    pub error: Option<String>,
    /// Why it waits, where a host's breaker is open.
    pub held_by: Option<String>,
}

impl Step {
    pub(super) fn new(name: StepName, priority: i16, due_at: Option<Duration>) -> Self {
        Self {
            name,
            state: StepState::Due,
            priority,
            generation: 1,
            token: None,
            due_at,
            started_at: None,
            lease_until: None,
            worker: None,
            span: None,
            spent: Spent::default(),
            attempts: 0,
            cancel_asked: false,
            budget_from: 0,
            output: None,
            error: None,
            held_by: None,
        }
    }

    /// Due once more, from `due_at` on.
    pub(super) fn become_due(&mut self, due_at: Option<Duration>) {
        self.enter(StepState::Due);
        self.generation += 1;
        self.due_at = due_at;
    }

    /// Change the state, and keep of the rest only what that state may have.
    pub(super) fn enter(&mut self, state: StepState) {
        self.state = state;
        if state != StepState::Running {
            self.token = None;
            self.lease_until = None;
            self.worker = None;
            self.span = None;
            self.cancel_asked = false;
        }
        if state != StepState::Due {
            self.due_at = None;
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub run: RunId,
    pub position: i16,
    pub step: StepName,
    pub token: Token,
    pub worker: String,
    pub started_at: Duration,
    pub ended_at: Duration,
    pub ended: settlement::Attempt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub run: RunId,
    pub position: i16,
    pub step: StepName,
    pub reason: DeathReason,
    pub class: Option<Class>,
    pub error: Option<String>,
    pub died_at: Duration,
    pub resolved: Option<Resolution>,
}

/// What a person did about a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// `revived` or `discarded`.
    pub resolution: &'static str,
    pub at: Duration,
    pub by: String,
    pub note: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub run: RunId,
    pub sequence: u32,
    pub routing_key: String,
    pub payload: Value,
    pub traceparent: Option<String>,
    pub created_at: Duration,
    /// Who has it in hand to publish it, and until when.
    pub claimed: Option<(String, Duration)>,
    pub is_published: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    pub subject: Subject,
    /// The workflow that made it.
    pub workflow: WorkflowName,
    /// The run whose turn it is.
    pub run: Option<RunId>,
    pub busy_until: Option<Duration>,
    /// Until when a call may be under way that was sent as late as one may.
    pub call_until: Option<Duration>,
    pub busy_token: Option<Token>,
    pub doubted_at: Option<Duration>,
    /// The workflow whose call was late.
    pub doubted_workflow: Option<WorkflowName>,
    /// When a step that may create or delete was first claimed.
    pub exclusive_at: Option<Duration>,
    pub secret: Secret,
    pub memory: Memory,
    pub created_at: Duration,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gate {
    pub paused_at: Option<Duration>,
    pub hold_until: Option<Duration>,
    /// Step starts per second.
    pub rate: Option<f64>,
    pub allowance: f64,
    pub refilled_at: Duration,
    pub concurrency: Option<usize>,
    /// A host's. For how long its runs fail is counted from `failing_since`.
    pub breaker: Breaker,
    pub breaker_at: Duration,
    /// What a run says that waits for it.
    pub breaker_reason: Option<String>,
    pub failing_since: Option<Duration>,
    pub probe_at: Duration,
    pub reopened_at: Option<Duration>,
}

/// A row of the public queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRow {
    pub status: QueueStatus,
    pub retry_count: u32,
    pub error_message: Option<String>,
    pub created_at: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueStatus {
    Pending,
    Processing,
    Completed,
    Failed,
}
