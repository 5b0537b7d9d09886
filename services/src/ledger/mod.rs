//! The ledger: what is true about every run, step and attempt. The trait's verbs are the whole protocol; each takes a
//! slice, does one guarded move per row and says for every row what happened. "Somebody else did it" is an ordinary
//! answer, never an error, and a bad row harms only itself.
//!
//! `postgres` is the ledger that ships; `memory` is the same one for the simulator. One conformance suite holds both.
//! No other module but `supabase` holds SQL, and no ledger transaction is open across a network call.

pub mod admission;
pub mod memory;
pub mod migrations;
pub mod postgres;
pub mod scenario;
pub mod settlement;

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use workflows::{
    breaker::{self, Probed, Rules, Signal},
    definition::Registry,
    ids::{InstanceName, RunId, StepName, Subject, Token, UserId, WorkflowName},
    outcome::Given,
    secret::Secret,
    state::{RunState, Spent},
};

pub use self::settlement::Settlement;

/// The ledger could not be asked, or answered what it never should. Callers try again later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the ledger's database answered: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the ledger holds {0}, which this program cannot read: deploy the version that wrote it")]
    Unreadable(String),
    #[error("the ledger's database gave no answer within {0:?}")]
    Late(Duration),
    #[error("the program panicked while it asked: see its log")]
    Panicked,
    /// The fault of a batch that several callers shared.
    #[error(transparent)]
    Batch(Arc<Error>),
}

pub type Result<T> = std::result::Result<T, Error>;

/// A step, and the token under which somebody holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub run: RunId,
    pub position: i16,
    pub token: Token,
}

/// A lease that a worker keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub key: Key,
    /// How long it lasts from each renewal on.
    pub length: Duration,
}

/// A run to start. `id` and `instance_token` are drawn by the caller and unused where a run is there already.
#[derive(Debug, Clone)]
pub struct NewRun {
    pub id: RunId,
    pub workflow: WorkflowName,
    pub subject: Subject,
    pub resource: InstanceName,
    pub instance_token: Secret,
    pub input: Value,
    pub traceparent: Option<String>,
    /// How long ago it was asked for.
    pub age: Duration,
}

/// What starting came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// A new run.
    New(RunId),
    /// The run that was there: starting again joins it, a dead one too.
    Joined(RunId, RunState),
    /// The name belongs to another subject, or the workflow is not one of ours.
    Refused(String),
}

/// What one round of intake found among the `pending` queue rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Intake {
    pub started: usize,
    pub revived: usize,
    /// Runs that were under way: their row got its status back, a waiting step became due.
    pub joined: usize,
    /// Rows that could not be taken this time; they stay `pending`.
    pub failed: usize,
}

impl Intake {
    pub fn total(&self) -> usize {
        self.started + self.revived + self.joined
    }
}

/// A step that was given a token and is now to be pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatched {
    pub key: Key,
    pub workflow: WorkflowName,
    /// None where the run is in no trace: then it begins one.
    pub traceparent: Option<String>,
    /// The trace that it was in before it was revived.
    pub linked: Option<String>,
}

/// Who works, and for which queue it asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Worker {
    pub name: String,
    /// The API host that the steps call: its gate is asked at every claim.
    pub host: Option<String>,
}

/// What asking for a step came to.
#[derive(Debug, Clone)]
pub enum Claimed {
    /// It is yours until the lease ends.
    Yes(Box<Claim>),
    /// A gate is closed, the resource is busy, or this build does not know the step: back to `due`, uncounted.
    PutBack(PutBack),
    /// Somebody else has it, or had it.
    Stale,
}

/// Why a claim put its step back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PutBack {
    GateClosed,
    ResourceBusy,
    UnknownDefinition,
}

impl PutBack {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GateClosed => "gate_closed",
            Self::ResourceBusy => "resource_busy",
            Self::UnknownDefinition => "unknown_definition",
        }
    }
}

/// A step in a worker's hands.
#[derive(Debug, Clone)]
pub struct Claim {
    pub key: Key,
    pub workflow: WorkflowName,
    pub version: i16,
    pub step: StepName,
    pub spent: Spent,
    /// How often each earlier step was sent back to, by position.
    pub send_backs: Vec<u32>,
    /// Which attempt this is, counted from 1 over the step's whole life.
    pub attempt: u32,
    pub given: Given,
    pub traceparent: Option<String>,
    /// How long ago, at the claim, the run was asked for.
    pub age: Duration,
}

/// What a settle came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It is written. The run's state after it.
    Done(RunState),
    /// The token is no longer the step's: nothing was changed.
    Stale,
    /// The database refuses what this settlement holds: nothing was changed, and trying again will not help.
    Refused(String),
}

/// A step whose lease ran out.
#[derive(Debug, Clone)]
pub struct Expired {
    pub claim: Claim,
    /// Whether its worker still beats: then it lost its lease, and did not crash.
    pub worker_lives: bool,
}

/// Who does something by hand, and why.
#[derive(Debug, Clone)]
pub struct By {
    pub actor: String,
    pub note: Option<String>,
}

/// What a change by hand came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    Yes,
    /// It takes effect when the step that is running now settles.
    AtSettle,
    /// The run is not in a state in which this can be done; the state it is in.
    No(RunState),
    /// There is no such run.
    Missing,
}

/// What a gate stands before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    Workflow,
    Step,
    /// The API's host, named as the client names it: with its port where the URL has one.
    Host,
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workflow => "workflow",
            Self::Step => "step",
            Self::Host => "host",
        }
    }
}

/// What a worker must know of its host's gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostGate {
    pub breaker: breaker::State,
    /// Runs have failed since the last good answer: the next good one is news.
    pub failing: bool,
    /// It is open, and somebody should ask the host now.
    pub probe_due: bool,
    /// How long ago its breaker closed, or a person resumed it, if ever.
    pub closed_for: Option<Duration>,
}

/// The right to probe a host, which one process of the fleet has at a time. Its number fences it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pub number: u32,
}

/// The whole protocol. Every verb is safe with any number of callers.
pub trait Ledger: Clone + Send + Sync + 'static {
    /// Start runs, or join those that are there. At most one run per subject and workflow is unfinished afterwards.
    fn start(&self, runs: &[NewRun]) -> impl Future<Output = Result<Vec<Started>>> + Send;

    /// Take up to `limit` pending queue rows: start, revive or join their runs and set the row to `processing`, in one
    /// transaction. Two callers never take the same row.
    fn intake(&self, limit: usize) -> impl Future<Output = Result<Intake>> + Send;

    /// The definitions that this ledger admits claims by.
    fn registry(&self) -> &Registry;

    /// The queues that have a due step now.
    fn due(&self) -> impl Future<Output = Result<Vec<StepName>>> + Send;

    /// Give up to `tokens.len()` due steps of `queue` a token each, as its gates allow; none where another relay is at it.
    /// The caller pushes what comes back, or puts it back.
    fn dispatch(
        &self,
        queue: &StepName,
        host: Option<&str>,
        tokens: &[Token],
    ) -> impl Future<Output = Result<Vec<Dispatched>>> + Send;

    /// Give runs that are in no trace the context of one. Whether it is theirs now, in order: `false` where the run has one.
    fn begin_traces(&self, contexts: &[(RunId, String)]) -> impl Future<Output = Result<Vec<bool>>> + Send;

    /// Dispatched steps become due again, uncounted, where the token still matches. How many did.
    fn put_back(&self, keys: &[Key]) -> impl Future<Output = Result<usize>> + Send;

    /// Every step dispatched before this call becomes due: Redis lost what it held. How many there were.
    fn lose(&self) -> impl Future<Output = Result<usize>> + Send;

    /// Up to `limit` steps that were dispatched longer than `after` ago and not claimed since, the oldest first.
    fn unclaimed(&self, after: Duration, limit: usize) -> impl Future<Output = Result<Vec<(StepName, Key)>>> + Send;

    /// Take dispatched steps in hand. One answer per key, in order.
    fn claim(&self, worker: &Worker, keys: &[Key]) -> impl Future<Output = Result<Vec<Claimed>>> + Send;

    /// Move the leases on, and the quiet time of the resources that they hold. `false`: the lease is lost. Also the
    /// worker's heartbeat.
    fn renew(&self, worker: &Worker, leases: &[Lease]) -> impl Future<Output = Result<Vec<bool>>> + Send;

    /// Write how attempts ended: step, attempt, next step or end of the run, instance, event, public rows; all or nothing
    /// per run. One answer per settlement, in order.
    fn settle(&self, settlements: &[Settlement]) -> impl Future<Output = Result<Vec<Settled>>> + Send;

    /// A call of this run that creates or deletes had left, and somebody else had the step before its attempt settled: it may meet
    /// the call of that one, even after that one has verified. Kept until `look_again`.
    fn doubt(&self, run: RunId) -> impl Future<Output = Result<()>> + Send;

    /// Whose instance was doubted longer than a lease ago, so that nothing of it is under way any more, gets a new run, which
    /// reads back what there is and mends it: up to `limit` of those whose last run was a sign-up's and has succeeded. A run that is
    /// under way is waited for; where the last one is dead or cancelled a person decides, and a run of another workflow has the
    /// last word. How many were started.
    fn look_again(&self, limit: usize) -> impl Future<Output = Result<usize>> + Send;

    /// Up to `limit` steps whose lease ran out. The caller settles each as a crash, guarded by the expiry.
    fn expired(&self, limit: usize) -> impl Future<Output = Result<Vec<Expired>>> + Send;

    /// Due steps of runs past their deadline die, unless they stand behind a closed gate (`host`'s, for all) or wait for their
    /// turn behind a limit; time that either held does not count. How many died.
    fn exceed(&self, host: Option<&str>, limit: usize) -> impl Future<Output = Result<usize>> + Send;

    /// Write up to `limit` public rows again that could not be written. How many still wait.
    fn project_pending(&self, limit: usize) -> impl Future<Output = Result<usize>> + Send;

    /// Give a dead run a fresh budget: its failed step is due again, finished outputs stay.
    fn revive(&self, run: RunId, by: &By) -> impl Future<Output = Result<Changed>> + Send;

    /// End an active run, at once or at its running step's settle; or discard a dead one.
    fn cancel(&self, run: RunId, by: &By) -> impl Future<Output = Result<Changed>> + Send;

    /// Nothing behind the gate is dispatched or claimed until `resume`. `false`: it was paused already.
    fn pause(&self, scope: Scope, name: &str, by: &By) -> impl Future<Output = Result<bool>> + Send;

    /// End a pause and a hold; a breaker opens and closes by itself. `false`: there was neither.
    fn resume(&self, scope: Scope, name: &str, by: &By) -> impl Future<Output = Result<bool>> + Send;

    /// Close the gate for so long. A longer hold that is there stays: `false`.
    fn hold(&self, scope: Scope, name: &str, duration: Duration, by: &By) -> impl Future<Output = Result<bool>> + Send;

    /// Step starts per second; `None` lifts the limit. `false`: a workflow has no rate of its own, or it is none above 0.
    fn set_rate(
        &self,
        scope: Scope,
        name: &str,
        rate: Option<f64>,
        by: &By,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// How many steps may be dispatched or running at once; `None` lifts the limit. `false`: as for a rate.
    fn set_concurrency(
        &self,
        scope: Scope,
        name: &str,
        limit: Option<u32>,
        by: &By,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Tell a host's gate what attempts heard of the host, in order: a batch, never one write per settle. `jitter` is a
    /// share between 0 and 1.
    fn report(
        &self,
        host: &str,
        signals: &[Signal],
        rules: &Rules,
        jitter: f64,
    ) -> impl Future<Output = Result<HostGate>> + Send;

    /// How a host's gate stands: one row, read without a lock.
    fn host_gate(&self, host: &str) -> impl Future<Output = Result<HostGate>> + Send;

    /// Take the right to probe an open host for `lease`. `None`: it is not due, or somebody else has it.
    fn probe(&self, host: &str, lease: Duration) -> impl Future<Output = Result<Option<Probe>>> + Send;

    /// What the probe found. Changes nothing where the right has passed to somebody else meanwhile.
    fn probed(
        &self,
        host: &str,
        probe: Probe,
        found: Probed,
        rules: &Rules,
        jitter: f64,
    ) -> impl Future<Output = Result<HostGate>> + Send;

    /// Up to `limit` due steps behind a host's open breaker say why they wait, in the public rows too. How many learnt it.
    fn explain(&self, host: &str, limit: usize) -> impl Future<Output = Result<usize>> + Send;
}

/// Draws what must be random or fresh.
pub type Draw<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// What both ledgers are built with: the definitions, and where run ids and instance tokens come from.
#[derive(Clone)]
pub struct Setup {
    pub registry: Arc<Registry>,
    pub draw_run: Draw<RunId>,
    pub draw_token: Draw<Secret>,
    /// The workflow that a sign-up starts.
    pub on_sign_up: WorkflowName,
}

/// The run that a user's sign-up starts.
pub fn sign_up(setup: &Setup, user: UserId) -> NewRun {
    provision(setup, user.subject(), InstanceName::of_user(user))
}

/// A run that reads back what an earlier one made, and mends it.
fn second_look(setup: &Setup, subject: Subject, resource: InstanceName) -> NewRun {
    NewRun { input: json!({ "second_look": true }), ..provision(setup, subject, resource) }
}

fn provision(setup: &Setup, subject: Subject, resource: InstanceName) -> NewRun {
    NewRun {
        id: (setup.draw_run)(),
        workflow: setup.on_sign_up.clone(),
        subject,
        resource,
        instance_token: (setup.draw_token)(),
        input: json!({}),
        traceparent: None,
        age: Duration::ZERO,
    }
}
