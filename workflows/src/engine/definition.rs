//! A workflow as data: its name, its version, and its steps in order. A run keeps the version that
//! it started with, so a changed list of steps is a new version beside the old one.

use std::{collections::BTreeSet, time::Duration};

use super::{
    ids::{StepName, WorkflowName},
    policy::Retry,
    state::Place,
};

/// A named, versioned list of steps.
#[derive(Debug, Clone)]
pub struct Definition {
    pub name: WorkflowName,
    pub version: i16,
    pub steps: Vec<Step>,
    /// How long a run may take, not counting the time that a gate held it.
    pub deadline: Duration,
    /// Which runs are dispatched first: a smaller number before a larger one.
    pub priority: i16,
    /// The SQL function that writes the app's own tables when its runs change, told of run ids:
    /// `schema.function`.
    pub projection: Option<&'static str>,
    /// The SQL function that turns the app's own rows into runs, beside the inbox:
    /// `schema.function`.
    pub source: Option<&'static str>,
    /// The SQL function that says which subjects are gone: `schema.function`, told of subjects.
    /// Nothing is made for them any more.
    pub gone: Option<&'static str>,
}

/// One step of a workflow. Its queue has its name.
#[derive(Debug, Clone)]
pub struct Step {
    pub name: StepName,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How long a worker may hold the step without renewing. Shorter than three renewals it is
    /// refused.
    pub lease: Duration,
    pub retry: Retry,
    pub reach: Reach,
    /// The API host that it calls, whose gate it stands behind: named as the client names it, with
    /// its port.
    pub host: Option<String>,
}

/// What an attempt may do to the resource at the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It reads and configures: doing it twice at once does no harm.
    Shared,
    /// It may create or delete: nobody else may touch the resource meanwhile.
    Exclusive,
}

/// A lease that survives two renewals that fail.
pub const LEASE: Duration = Duration::from_secs(4);

/// How often a worker looks for leases to renew.
pub const RENEWAL_TICK: Duration = Duration::from_millis(500);

/// How old a lease is when it is renewed: that of a short attempt never is. `RENEWAL_TICK` makes
/// that once a second.
pub const RENEWED_AT: Duration = Duration::from_millis(600);

/// The oldest that a lease is when its renewal is sent. What is left of it is enough for a call
/// that creates or deletes, and for a slow answer: `Registry::faults` sees to that.
pub const BETWEEN_RENEWALS: Duration = RENEWED_AT.saturating_add(RENEWAL_TICK);

/// How long after its claim a call that creates or deletes may be sent. Later, the lease is renewed
/// first: then it may be sent as long as enough of the lease is left for the server to finish it.
pub const CALLED_WITHIN: Duration = Duration::from_millis(200);

/// The time in which a server finishes a call that creates or deletes. Nobody else has the step
/// before so long after the last moment at which one may have been sent.
pub const EXCLUSIVE_CALL: Duration = Duration::from_millis(2500);

impl Definition {
    pub fn step(&self, position: i16) -> Option<&Step> {
        self.steps.get(usize::try_from(position).ok()?)
    }

    pub fn position(&self, name: &StepName) -> Option<i16> {
        self.steps.iter().position(|step| &step.name == name).and_then(|at| i16::try_from(at).ok())
    }

    pub fn place(&self, position: i16) -> Place {
        if usize::try_from(position).is_ok_and(|at| at + 1 == self.steps.len()) { Place::Last } else { Place::Inner }
    }
}

/// Every workflow and version that this build knows.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    workflows: Vec<Definition>,
}

impl Registry {
    pub fn new(workflows: Vec<Definition>) -> Self {
        Self { workflows }
    }

    pub fn all(&self) -> impl Iterator<Item = &Definition> {
        self.workflows.iter()
    }

    pub fn find(&self, name: &WorkflowName, version: i16) -> Option<&Definition> {
        self.workflows.iter().find(|workflow| &workflow.name == name && workflow.version == version)
    }

    /// The newest version of a workflow: what a new run gets.
    pub fn newest(&self, name: &WorkflowName) -> Option<&Definition> {
        self.workflows.iter().filter(|workflow| &workflow.name == name).max_by_key(|workflow| workflow.version)
    }

    /// Every API host that a step calls, once.
    pub fn hosts(&self) -> Vec<String> {
        let hosts: BTreeSet<_> = self.steps().filter_map(|step| step.host.clone()).collect();
        hosts.into_iter().collect()
    }

    /// For so long a step may be in somebody's hand who does not renew any more.
    pub fn longest_lease(&self) -> Duration {
        self.steps().map(|step| step.lease).max().unwrap_or(LEASE)
    }

    /// The name of every step of every workflow, once: the queues that a relay serves.
    pub fn queues(&self) -> Vec<StepName> {
        let names: BTreeSet<_> = self.steps().map(|step| step.name.clone()).collect();
        names.into_iter().collect()
    }

    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.workflows.iter().flat_map(|workflow| &workflow.steps)
    }
}
