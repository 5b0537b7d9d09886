//! The ledger: what is true about every run, step and attempt. Each verb of the four traits does
//! guarded moves and says what came of each; relays, workers, people and publishers of events have
//! a trait each. "Somebody else did it" is an ordinary answer, never an error, and a bad row harms
//! only itself.
//!
//! `postgres` is the ledger that ships; the tests have a model of it in memory, and one conformance
//! suite holds both. The model lacks what only Postgres needs or people read (`register`, `prune`,
//! `discard`, `replay`, `read`). No transaction is open across a network call. The engine's other
//! SQL is about connections (`database`) and LISTEN (`relay/listen.rs`).

pub mod migrations;
pub mod postgres;
pub mod scenario;
pub mod settlement;

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    breaker::{self, Answer, Rules, Signal, Word},
    definition::{Reach, Registry},
    ids::{RunId, StepName, Subject, Token, WorkflowName},
    outcome::{Memory, StepInput},
    state::{DeathReason, RunState, Spent},
};

pub use self::settlement::Settlement;
use crate::database::said;

/// The ledger could not be asked, or answered what it never should. Callers try again later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the ledger's database answered: {}", said(.0))]
    Database(sqlx::Error),
    #[error("the ledger's database takes no writes: it is a standby")]
    Standby,
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

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// An attempt: a step, and the token under which somebody holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub run: RunId,
    pub position: i16,
    pub token: Token,
}

/// A step that became due, and which time that was. A claim of an earlier generation finds nothing
/// to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DueKey {
    pub run: RunId,
    pub position: i16,
    pub generation: i32,
}

/// `run:position:generation`: what a hint of that time is called.
impl fmt::Display for DueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.run, self.position, self.generation)
    }
}

/// A step that a worker asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub key: DueKey,
    /// The span of the attempt that it would be. None where none is recorded.
    pub span: Option<AttemptSpan>,
}

/// A span and its trace, in hexadecimal, as Jaeger shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanIds {
    pub trace: String,
    pub span: String,
}

impl SpanIds {
    /// Of a context in the W3C form that we wrote.
    pub fn of(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-').skip(1).map(str::to_owned);
        Some(Self { trace: parts.next()?, span: parts.next()? })
    }

    /// The context of a recorded span, in the W3C form.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.span)
    }
}

/// The span of an attempt, kept from its claim on: a rescue exports it, for a dead worker cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptSpan {
    pub ids: SpanIds,
    /// The span above it. None where it begins its trace.
    pub parent: Option<String>,
}

/// What the span of a whole run says: whoever ends a run exports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeRun {
    pub run: RunId,
    pub workflow: String,
    pub subject: String,
    pub state: RunState,
    pub reason: Option<DeathReason>,
    /// Of all its steps.
    pub attempts: u32,
    /// From its request, or its revival, to its end; and how long ago that end was.
    pub lasted: Duration,
    pub ended_ago: Duration,
    pub traceparent: Option<String>,
    /// The context that its request gave.
    pub asked_traceparent: Option<String>,
}

/// A due step, and what is needed to push it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub key: DueKey,
    pub step: StepName,
    pub workflow: WorkflowName,
    /// None where the run is in no trace: then it begins one.
    pub traceparent: Option<String>,
    /// The trace that it was in before it was revived.
    pub linked: Option<String>,
}

/// What waits in one queue now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub queue: StepName,
    /// Due, and let through by its gates: the most urgent first, then the one due longest.
    pub due: Vec<Due>,
    /// How many hints of this queue may lie in Redis, where a limit or a half-open breaker stands
    /// before it.
    pub most: Option<usize>,
}

/// A lease that a worker keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub key: Key,
    /// How long it lasts from each renewal on.
    pub length: Duration,
}

/// A run that intake started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenIn {
    pub run: RunId,
    pub workflow: WorkflowName,
    pub subject: Subject,
    /// As the request gave it.
    pub traceparent: Option<String>,
    pub age: Duration,
}

/// What one round of intake found among the requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Intake {
    pub started: Vec<TakenIn>,
    pub revived: Vec<RunId>,
    /// Requests whose run was under way: a waiting step became due.
    pub joined: usize,
    /// Requests that could not be taken; what asked says why.
    pub failed: usize,
    /// What became due by it, and may be pushed at once.
    pub due: Vec<Due>,
}

/// Who works.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Worker {
    pub name: String,
}

/// What asking for a step came to.
#[derive(Debug, Clone)]
pub enum Claimed {
    /// It is yours until the lease ends.
    Yes(Box<Claim>),
    /// It stays due, uncounted, and is pushed again later.
    Refused(Refusal),
    /// Somebody else has it, or had it.
    Stale,
}

/// Why a claim was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A pause, a hold, a breaker, a rate or a concurrency stands before it.
    GateClosed,
    /// A call that creates or deletes may still be under way on its resource.
    ResourceBusy,
    /// This build does not know the step: due again in 5 s, doubling to 60.
    UnknownDefinition,
}

impl Refusal {
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
    pub input: StepInput,
    pub traceparent: Option<String>,
    /// How long ago, at the claim, the run was asked for.
    pub age: Duration,
    /// Known of attempts that are recorded in a trace, where there was something to wait for.
    pub waited: Option<Waited>,
}

impl Claim {
    /// The claim of the next step, for the worker that carried the run on. `output` is that of this
    /// step, whose reach is `own`; `later` is how long after this claim the settle was sent.
    pub fn of_next(&self, own: Reach, next: &StepName, output: Value, carried_on: CarriedOn, later: Duration) -> Self {
        let StepInput { subject, resource, secret, exclusive_before, .. } = &self.input;
        Self {
            key: Key { run: self.key.run, position: self.key.position + 1, token: carried_on.token },
            workflow: self.workflow.clone(),
            version: self.version,
            step: next.clone(),
            spent: Spent::default(),
            send_backs: self.send_backs.iter().copied().chain([self.spent.send_backs]).collect(),
            attempt: 1,
            input: StepInput {
                subject: subject.clone(),
                resource: resource.clone(),
                secret: secret.clone(),
                memory: carried_on.memory,
                exclusive_before: *exclusive_before || own == Reach::Exclusive,
                input: output,
            },
            traceparent: self.traceparent.clone(),
            age: self.age + later,
            waited: None,
        }
    }
}

/// What a claimed step has waited for since its run's last attempt, or since the run began: in
/// milliseconds, one after another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Waited {
    /// The policy's own delay.
    pub backoff: Option<i64>,
    /// The delay that the API asked for.
    pub retry_after: Option<i64>,
    /// The run's turn on its resource.
    pub turn: Option<i64>,
    /// Closed gates and limits.
    pub gate: Option<i64>,
    /// Which of them held it longest, and why.
    pub gated_by: Option<String>,
    /// The rest: a hint, a free worker.
    pub queue: Option<i64>,
}

/// What a settle came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It is written. The run's state after it, the step that became due by it and may be pushed at
    /// once, or that the worker has in hand now, and the whole run where it has ended.
    Done { run: RunState, due: Option<Due>, carried_on: Option<CarriedOn>, whole: Option<Box<WholeRun>> },
    /// The token is no longer the step's: nothing was changed.
    Stale,
    /// The database refuses what this settlement holds: nothing was changed, and trying again will
    /// not help.
    Refused(String),
    /// Somebody has its row locked, longer than a statement waits: nothing was changed.
    Locked,
}

/// The step after the one that was settled, in the hands of the same worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedOn {
    pub token: Token,
    /// Of the resource, after the settle.
    pub memory: Memory,
}

/// A step whose lease ran out: what a rescue settles it by.
#[derive(Debug, Clone)]
pub struct Expired {
    pub key: Key,
    pub workflow: WorkflowName,
    pub version: i16,
    pub step: StepName,
    pub spent: Spent,
    pub attempt: u32,
    pub worker: String,
    /// Which time the step was due.
    pub generation: i32,
    /// How long ago, when this was asked, it was claimed.
    pub age: Duration,
    pub span: Option<AttemptSpan>,
    /// The run's.
    pub traceparent: Option<String>,
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
    /// Why it is not closed.
    pub cause: Option<breaker::Cause>,
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

/// What a relay's upkeep has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromRow)]
pub struct Upkeep {
    /// A step, whose lease may end.
    pub running: bool,
    /// For `end_leases`, once it is sure.
    pub gone: bool,
    /// For `expired`.
    pub expired: bool,
    /// For `exceed`, unless gates hold all of it.
    pub late: bool,
    /// For `spans_that_wait`.
    pub cancelled: bool,
    /// For `project_pending`.
    pub unwritten: bool,
    /// For `explain`, unless all of it says what it should already.
    pub untold: bool,
    /// For `look_again`, unless the last runs there are still active.
    pub doubted: bool,
}

/// An answer of the ledger that is still to come.
pub trait Asked<T>: Future<Output = Result<T>> + Send {}

impl<T, F: Future<Output = Result<T>> + Send> Asked<T> for F {}

/// What relays ask of the ledger.
pub trait RelayLedger: Clone + Send + Sync + 'static {
    /// The definitions that this ledger admits claims by.
    fn registry(&self) -> &Registry;

    /// Take up to `limit` requests of each source: start, revive or join their runs, in one
    /// transaction. Two callers never take the same request.
    fn intake(&self, limit: usize) -> impl Asked<Intake>;

    /// What is due now, up to `most` of each queue. Reads only: whoever is told may push it, and
    /// pushing twice is harmless.
    fn waiting(&self, most: usize) -> impl Asked<Vec<Waiting>>;

    /// Give runs the context of their trace, where they still have the one that is named first.
    /// Whether it is theirs now, in order.
    fn keep_traces(&self, contexts: &[Traced]) -> impl Asked<Vec<bool>>;

    /// Which of the duties below would find something: one look for all, which locks nothing.
    fn upkeep(&self) -> impl Asked<Upkeep>;

    /// End the leases of workers whose session has ended, as a killed process' does at once: each
    /// as soon as nothing of its attempt can be under way. How many ended.
    fn end_leases(&self) -> impl Asked<usize>;

    /// Up to `limit` steps whose lease ran out. The caller settles each as a crash, guarded by the
    /// expiry.
    fn expired(&self, limit: usize) -> impl Asked<Vec<Expired>>;

    /// Write how attempts ended: step, attempt, next step or end of the run, memory, event, public
    /// rows; all or nothing per run. One answer per settlement, in order. Workers settle their own
    /// attempts, relays those whose lease ran out.
    fn settle(&self, settlements: &[Settlement]) -> impl Asked<Vec<Settled>>;

    /// Due steps of runs past their deadline die, unless they stand behind a closed gate or wait
    /// for their turn behind a limit; time that either held does not count. The runs that died.
    fn exceed(&self, limit: usize) -> impl Asked<Vec<WholeRun>>;

    /// Up to `limit` runs that have just been cancelled by the ledger alone, so that nobody has
    /// exported their spans. Each is told to one caller.
    fn spans_that_wait(&self, limit: usize) -> impl Asked<Vec<WholeRun>>;

    /// Write up to `limit` public rows again that could not be written. How many still wait.
    fn project_pending(&self, limit: usize) -> impl Asked<usize>;

    /// Up to `limit` due steps behind an open breaker say why they wait, in the public rows too.
    /// Those that said so, and whose breaker is not open any more, say it no longer and are due at
    /// once. How many changed.
    fn explain(&self, limit: usize) -> impl Asked<usize>;

    /// A resource that was doubted longer than a lease ago, so that nothing of it is under way any
    /// more, gets a new run, which reads back what there is and mends it: up to `limit` of those
    /// whose last run has succeeded. A run that is under way is waited for; where the last one is
    /// dead or cancelled a person decides. How many were started.
    fn look_again(&self, limit: usize) -> impl Asked<usize>;
}

/// What workers ask of the ledger.
pub trait WorkerLedger: Clone + Send + Sync + 'static {
    /// Take due steps in hand, each under a token of its own. One answer per question, in order.
    fn claim(&self, worker: &Worker, asked: &[Ask]) -> impl Asked<Vec<Claimed>>;

    /// Move the leases on, and the quiet time of the resources that they hold. `false`: the lease
    /// is lost. None: somebody has its row locked, and it is as it was. Also the worker's
    /// heartbeat.
    fn renew(&self, worker: &Worker, leases: &[Lease]) -> impl Asked<Vec<Option<bool>>>;

    /// As `RelayLedger::settle`.
    fn settle(&self, settlements: &[Settlement]) -> impl Asked<Vec<Settled>>;

    /// A call of this run that creates or deletes had left, and somebody else had the step before
    /// its attempt settled: it may meet the call of that one, even after that one has verified.
    /// Kept until `look_again`.
    fn doubt(&self, run: RunId) -> impl Asked<()>;

    /// Tell a host's gate what attempts heard of the host, in order: a batch, never one write per
    /// settle. `word` is what the host last said to one that failed. `jitter` is a share between 0
    /// and 1.
    fn report(
        &self,
        host: &str,
        signals: &[Signal],
        word: Option<&Word>,
        rules: &Rules,
        jitter: f64,
    ) -> impl Asked<HostGate>;

    /// How a host's gate stands: one row, read without a lock.
    fn host_gate(&self, host: &str) -> impl Asked<HostGate>;

    /// Take the right to probe an open host for `lease`. `None`: it is not due, or somebody else
    /// has it.
    fn probe(&self, host: &str, lease: Duration) -> impl Asked<Option<Probe>>;

    /// What the probe found. Changes nothing where the right has passed to somebody else meanwhile.
    fn probed(&self, host: &str, probe: Probe, answer: &Answer, rules: &Rules, jitter: f64) -> impl Asked<HostGate>;
}

/// What a person does.
pub trait OperatorLedger: Clone + Send + Sync + 'static {
    /// Give a dead run a fresh budget: its failed step is due again, finished outputs stay.
    fn revive(&self, run: RunId, by: &By) -> impl Asked<Changed>;

    /// End an active run, at once or at its running step's settle; or discard a dead one.
    fn cancel(&self, run: RunId, by: &By) -> impl Asked<Changed>;

    /// Nothing behind the gate is pushed or claimed until `resume`. `false`: it was paused already.
    fn pause(&self, scope: Scope, name: &str, by: &By) -> impl Asked<bool>;

    /// End a pause and a hold; a breaker opens and closes by itself. `false`: there was neither.
    fn resume(&self, scope: Scope, name: &str, by: &By) -> impl Asked<bool>;

    /// Step starts per second; `None` lifts the limit. `false`: a workflow has no rate of its own,
    /// or it is none above 0.
    fn set_rate(&self, scope: Scope, name: &str, rate: Option<f64>, by: &By) -> impl Asked<bool>;

    /// How many steps may be running at once; `None` lifts the limit. `false`: as for a rate.
    fn set_concurrency(&self, scope: Scope, name: &str, limit: Option<u32>, by: &By) -> impl Asked<bool>;
}

/// An announcement to other programs.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Event {
    /// What is published twice has the same.
    pub id: Uuid,
    /// Its place among the events of its run or gate, from 1.
    #[sqlx(try_from = "i32")]
    pub sequence: u32,
    /// What happened, and the version of the payload's schema.
    pub r#type: String,
    pub routing_key: String,
    pub payload: Value,
    pub traceparent: Option<String>,
    pub created_at: DateTime<Utc>,
}

/// What retention deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Rows in all.
    pub rows: u64,
    /// Events among them that nobody had published.
    pub unpublished: u64,
}

/// What publishers of events ask of the ledger.
pub trait EventLedger: Clone + Send + Sync + 'static {
    /// Take up to `most` events in hand for `lease`: of each run the first that is not published,
    /// so that its events go out in order, whatever becomes of a publisher. No two publishers have
    /// an event at once, unless a lease has ended.
    fn claim_events(&self, publisher: &str, lease: Duration, most: usize) -> impl Asked<Vec<Event>>;

    /// The first are with the broker, which has confirmed them; the others are given back.
    fn publish_events(&self, publisher: &str, confirmed: &[Uuid], unconfirmed: &[Uuid]) -> impl Asked<()>;
}

/// The context of a run's trace, and the one that it had when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    pub run: RunId,
    pub was: Option<String>,
    pub now: String,
}
