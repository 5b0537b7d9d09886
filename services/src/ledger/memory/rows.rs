//! The tables of the ledger in memory, one struct a row, named as in the migrations. Moments count from the start of the
//! caller's clock. The two indexes repeat what Postgres' partial indexes hold; the invariants are checked without them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use workflows::{
    breaker::Breaker,
    ids::{InstanceName, RunId, StepName, Subject, Token, UserId, WorkflowName},
    outcome::{Class, InstanceStatus},
    secret::Secret,
    state::{DeathReason, RunState, Spent, StepState},
};

use super::RedisMark;
pub use crate::ledger::Scope;
use crate::ledger::settlement;

/// Everything that the ledger holds.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub runs: BTreeMap<RunId, Run>,
    pub steps: BTreeMap<(RunId, i16), Step>,
    /// In the order in which they ended.
    pub attempts: Vec<Attempt>,
    pub dead_letters: Vec<DeadLetter>,
    pub events: Vec<Event>,
    pub resources: BTreeMap<InstanceName, Resource>,
    pub instances: BTreeMap<Subject, Instance>,
    pub gates: BTreeMap<(Scope, String), Gate>,
    /// When gates were closed: that time does not count towards the deadlines of the runs behind them.
    pub closures: Vec<Closure>,
    /// When each worker last renewed.
    pub heartbeats: BTreeMap<String, Duration>,
    pub queue: BTreeMap<UserId, QueueRow>,
    pub redis_mark: RedisMark,
    /// The active or dead run of each workflow and subject.
    pub(super) unfinished: BTreeMap<(WorkflowName, Subject), RunId>,
    /// The active runs, oldest first.
    pub(super) active: BTreeSet<(Duration, RunId)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub id: RunId,
    pub workflow: WorkflowName,
    pub version: i16,
    pub subject: Subject,
    pub resource: InstanceName,
    pub input: Value,
    pub state: RunState,
    pub priority: i16,
    pub traceparent: Option<String>,
    pub linked_traceparent: Option<String>,
    pub deadline_at: Duration,
    /// Up to when the time that a gate held the run is in `deadline_at` already.
    pub deadline_from: Duration,
    pub cancel_by: Option<String>,
    pub cancel_reason: Option<String>,
    /// When somebody asked for it; a repeated request counts from its start.
    pub requested_at: Duration,
    pub created_at: Duration,
    pub ended_at: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub name: StepName,
    pub state: StepState,
    pub priority: i16,
    pub token: Option<Token>,
    /// `None` in state `due`: it waits for an earlier step, or for its run's turn on the resource.
    pub due_at: Option<Duration>,
    /// When it waited for its turn behind a limit.
    pub waits: Vec<(Duration, Duration)>,
    pub dispatched_at: Option<Duration>,
    pub started_at: Option<Duration>,
    /// When the lease was given or last renewed.
    pub leased_at: Option<Duration>,
    pub lease_until: Option<Duration>,
    pub worker: Option<String>,
    /// The API host that it was last dispatched for.
    pub host: Option<String>,
    pub spent: Spent,
    /// How often it was claimed.
    pub attempts: u32,
    /// How many of its attempts had ended when it last got a fresh budget.
    pub budget_from: usize,
    pub output: Option<Value>,
    pub error: Option<String>,
}

impl Step {
    pub(super) fn new(name: StepName, priority: i16, due_at: Option<Duration>) -> Self {
        Self {
            name,
            state: StepState::Due,
            priority,
            token: None,
            due_at,
            waits: Vec::new(),
            dispatched_at: None,
            started_at: None,
            leased_at: None,
            lease_until: None,
            worker: None,
            host: None,
            spent: Spent::default(),
            attempts: 0,
            budget_from: 0,
            output: None,
            error: None,
        }
    }

    pub(super) fn note_wait(&mut self, until: Duration) {
        self.waits.extend(self.due_at.map(|since| (since, until)));
    }

    /// Change the state, and keep of the rest only what that state may have.
    pub(super) fn enter(&mut self, state: StepState) {
        self.state = state;
        if !matches!(state, StepState::Dispatched | StepState::Running) {
            self.token = None;
        }
        if state != StepState::Running {
            self.lease_until = None;
            self.worker = None;
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
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    /// The run whose turn it is.
    pub run: Option<RunId>,
    pub busy_until: Option<Duration>,
    pub busy_token: Option<Token>,
    pub doubted_at: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    pub name: InstanceName,
    pub token: Secret,
    pub status: InstanceStatus,
    pub webhook_url: Option<String>,
    pub qr_code: Option<Secret>,
    pub qr_at: Option<Duration>,
    pub paired_at: Option<Duration>,
    pub create_claimed_at: Option<Duration>,
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
    pub failing_since: Option<Duration>,
    pub probe_at: Duration,
    pub reopened_at: Option<Duration>,
}

pub use super::closure::Closure;

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
