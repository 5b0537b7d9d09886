//! The ledger in Postgres. Each transition is one SQL function of `migrations/…09_protocol.sql`,
//! called in one statement that is its own transaction; here are the calls, and what people and
//! breakers do in transactions of several statements.

mod attempts;
mod breaker;
mod events;
mod gate;
pub mod read;
mod register;
mod runs;
mod upkeep;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use uuid::Uuid;
use workflows::{
    breaker::{Answer, Rules, Signal, Word},
    definition::Registry,
    ids::RunId,
};

use super::{
    Ask, By, Changed, Claimed, DueKey, Error, Event, EventLedger, Expired, HostGate, Intake, Lease, OperatorLedger,
    Probe, Pruned, RelayLedger, Result, Scope, Settled, Settlement, Traced, Upkeep, Waiting, WholeRun, Worker,
    WorkerLedger,
};
use crate::database::{Database, PATIENCE, met_a_lock};

/// The ledger that ships.
#[derive(Clone)]
pub struct Postgres {
    database: Database,
    registry: Arc<Registry>,
    /// `workflow:version` of every definition, as the functions ask for them.
    known: Arc<Vec<String>>,
    queues: Arc<Vec<String>>,
    /// Its process begins traces.
    traced: bool,
}

impl Postgres {
    pub fn over(database: Database, registry: Arc<Registry>) -> Self {
        let known = registry.all().map(|known| format!("{}:{}", known.name, known.version)).collect();
        let queues = registry.queues().iter().map(ToString::to_string).collect();
        let (known, queues) = (Arc::new(known), Arc::new(queues));
        Self { database, registry, known, queues, traced: false }
    }

    /// The same ledger for a process that begins traces: it leaves new runs for a moment to whoever
    /// took them in.
    pub fn traced(self) -> Self {
        Self { traced: true, ..self }
    }

    /// What its statements go through: also for the workflows' own tables.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Asks for a sign of life, of a database that takes writes: for readiness.
    pub async fn ping(&self) -> Result<()> {
        if self.database.takes_writes().await? { Ok(()) } else { Err(Error::Standby) }
    }

    /// Tell the database which workflows this build runs, and make the gates of their steps and
    /// hosts. Safe to repeat.
    pub async fn register(&self) -> Result<()> {
        self.within(register::register(self)).await
    }

    /// End a dead run for good. `No`: it is not dead, so that a run which somebody revived
    /// meanwhile goes on.
    pub async fn discard(&self, run: RunId, by: &By) -> Result<Changed> {
        self.within(runs::end(self, run, by, runs::Which::Dead)).await
    }

    /// One verb, which ends within `PATIENCE`. Of a write that was refused as read-only the pool
    /// takes note.
    pub async fn within<T>(&self, verb: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = tokio::time::timeout(PATIENCE, verb).await.unwrap_or(Err(Error::Late(PATIENCE)));
        if let Err(Error::Database(error)) = &answer {
            self.database.judge(error);
        }
        answer
    }

    /// Let these events go out once more, under the same ids. How many were published before.
    pub async fn replay(&self, events: &[Uuid], by: &By) -> Result<u64> {
        self.within(events::replay(self, events, by)).await
    }

    /// Deletes up to `most` of each kind that ended longer than `retention` ago.
    pub async fn prune(&self, retention: Duration, most: usize) -> Result<Pruned> {
        self.within(upkeep::prune(self, retention, most)).await
    }
}

impl RelayLedger for Postgres {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    async fn intake(&self, limit: usize) -> Result<Intake> {
        self.within(runs::intake(self, limit)).await
    }

    async fn waiting(&self, most: usize) -> Result<Vec<Waiting>> {
        self.within(runs::waiting(self, most)).await
    }

    async fn keep_traces(&self, contexts: &[Traced]) -> Result<Vec<bool>> {
        self.within(runs::keep_traces(self, contexts)).await
    }

    async fn upkeep(&self) -> Result<Upkeep> {
        self.within(upkeep::upkeep(self)).await
    }

    async fn end_leases(&self) -> Result<usize> {
        self.within(upkeep::end_leases(self)).await
    }

    async fn expired(&self, limit: usize) -> Result<Vec<Expired>> {
        self.within(upkeep::expired(self, limit)).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        self.within(attempts::settle(self, settlements)).await
    }

    async fn exceed(&self, limit: usize) -> Result<Vec<WholeRun>> {
        self.within(upkeep::exceed(self, limit)).await
    }

    async fn spans_that_wait(&self, limit: usize) -> Result<Vec<WholeRun>> {
        self.within(upkeep::spans_that_wait(self, limit)).await
    }

    async fn project_pending(&self, limit: usize) -> Result<usize> {
        self.within(upkeep::counted(self, "select sluice.project_pending($1)", limit)).await
    }

    async fn explain(&self, limit: usize) -> Result<usize> {
        self.within(upkeep::counted(self, "select sluice.explain($1)", limit)).await
    }

    async fn look_again(&self, limit: usize) -> Result<usize> {
        self.within(upkeep::look_again(self, limit)).await
    }
}

impl WorkerLedger for Postgres {
    async fn claim(&self, worker: &Worker, asked: &[Ask]) -> Result<Vec<Claimed>> {
        self.within(attempts::claim(self, worker, asked)).await
    }

    async fn renew(&self, worker: &Worker, leases: &[Lease]) -> Result<Vec<Option<bool>>> {
        self.within(attempts::renew(self, worker, leases)).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        self.within(attempts::settle(self, settlements)).await
    }

    async fn doubt(&self, run: RunId) -> Result<()> {
        self.within(upkeep::doubt(self, run)).await
    }

    async fn report(
        &self,
        host: &str,
        signals: &[Signal],
        word: Option<&Word>,
        rules: &Rules,
        jitter: f64,
    ) -> Result<HostGate> {
        self.within(breaker::report(self, host, signals, word, rules, jitter)).await
    }

    async fn host_gate(&self, host: &str) -> Result<HostGate> {
        self.within(breaker::host_gate(self, host)).await
    }

    async fn probe(&self, host: &str, lease: Duration) -> Result<Option<Probe>> {
        self.within(breaker::probe(self, host, lease)).await
    }

    async fn probed(&self, host: &str, probe: Probe, answer: &Answer, rules: &Rules, jitter: f64) -> Result<HostGate> {
        self.within(breaker::probed(self, host, probe, answer, rules, jitter)).await
    }
}

impl EventLedger for Postgres {
    async fn claim_events(&self, publisher: &str, lease: Duration, most: usize) -> Result<Vec<Event>> {
        self.within(events::claim(self, publisher, lease, most)).await
    }

    async fn publish_events(&self, publisher: &str, confirmed: &[Uuid], unconfirmed: &[Uuid]) -> Result<()> {
        self.within(events::publish(self, publisher, confirmed, unconfirmed)).await
    }
}

impl OperatorLedger for Postgres {
    async fn revive(&self, run: RunId, by: &By) -> Result<Changed> {
        self.within(runs::revive(self, run, by)).await
    }

    async fn cancel(&self, run: RunId, by: &By) -> Result<Changed> {
        self.within(runs::end(self, run, by, runs::Which::ActiveOrDead)).await
    }

    async fn pause(&self, scope: Scope, name: &str, by: &By) -> Result<bool> {
        self.within(gate::pause(self, scope, name, by)).await
    }

    async fn resume(&self, scope: Scope, name: &str, by: &By) -> Result<bool> {
        self.within(gate::resume(self, scope, name, by)).await
    }

    async fn set_rate(&self, scope: Scope, name: &str, rate: Option<f64>, by: &By) -> Result<bool> {
        self.within(gate::set_rate(self, scope, name, rate, by)).await
    }

    async fn set_concurrency(&self, scope: Scope, name: &str, limit: Option<u32>, by: &By) -> Result<bool> {
        self.within(gate::set_concurrency(self, scope, name, limit, by)).await
    }
}

/// Whether the database refused what one row holds: then its neighbours are tried without it.
fn is_row_fault(error: &Error) -> bool {
    let Error::Database(sqlx::Error::Database(error)) = error else { return false };
    // 22: data exception, 23: integrity constraint violation.
    error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

fn is_locked(error: &Error) -> bool {
    matches!(error, Error::Database(error) if met_a_lock(error))
}

fn parse<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T> {
    text.parse().map_err(|error: T::Err| Error::Unreadable(error.to_string()))
}

/// The state, cause or reason of this name.
fn label<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_value(text.into()).map_err(|_| Error::Unreadable(format!("the label {text:?}")))
}

fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// None where the column is null, or the clock was set back.
fn duration(seconds: Option<f64>) -> Duration {
    Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or_default()
}

fn limit(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}
