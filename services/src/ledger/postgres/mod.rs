//! The ledger in Postgres. Every statement of the engine is in this folder, one verb a file; every verb is one short
//! transaction, whose locks are taken in one order: gate, run, step, instance, resource, public rows, each in key order. Only a
//! claim takes resources before steps: a cancellation of that very step may meet it, and one of the two has to try again.
//!
//! Statements work through a transaction pooler too: always inside an explicit transaction and, where `Pooling` says so,
//! without a name.

mod breaker;
mod claim;
mod command;
mod dispatch;
mod doubt;
mod gate;
mod intake;
mod lease;
mod pooling;
mod prune;
pub mod read;
mod redis_mark;
mod rescue;
mod room;
mod run_end;
mod safeguard;
mod settle;
mod start;

use std::time::Duration;

use sqlx::{
    Connection, PgPool, Postgres as Driver, Transaction,
    postgres::PgArguments,
    query::{Query, QueryAs},
};
use tokio::time::Instant;
use workflows::{
    breaker::{Probed, Rules, Signal},
    definition::Registry,
    ids::{RunId, StepName, Token},
};

pub use self::pooling::{Pooling, is_by_transaction};
use super::{
    By, Changed, Claimed, Dispatched, Error, Expired, HostGate, Intake, Key, Lease, Ledger, NewRun, Probe, Result,
    Scope, Settled, Settlement, Setup, Started, Worker,
};
#[cfg(feature = "mutants")]
pub use safeguard::Removed;

use crate::supabase::{Projection, sign_ups};
use safeguard::Guards;

/// The ledger that ships.
#[derive(Clone)]
pub struct Postgres {
    pool: PgPool,
    pooling: Pooling,
    setup: Setup,
    projection: Projection,
    guards: Guards,
}

impl Postgres {
    pub fn new(pool: PgPool, pooling: Pooling, setup: Setup) -> Self {
        let projection = Projection::new(setup.on_sign_up.clone());
        Self { pool, pooling, setup, projection, guards: Guards::default() }
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Asks for a sign of life: for readiness.
    pub async fn ping(&self) -> Result<()> {
        Ok(self.pool.acquire().await?.ping().await?)
    }

    /// Give each lost sign-up since the adoption, no older than `since`, a queue row. How many there were. A transaction
    /// each, so that no row of the app's is locked while another is waited for; and for a while only.
    pub async fn queue_lost_sign_ups(&self, since: Duration) -> Result<u64> {
        let began = Instant::now();
        let lost = within(async { sign_ups::lost(&mut self.begin().await?, since).await }).await?;
        let mut queued = 0;
        for user in lost {
            if began.elapsed() > FINDS_FOR {
                break;
            }
            let queue = async {
                let mut tx = self.begin().await?;
                let queued = sign_ups::queue(&mut tx, user).await?;
                tx.commit().await?;
                Ok(queued)
            };
            match within(queue).await {
                Ok(rows) => queued += rows,
                Err(Error::Database(sqlx::Error::Database(error))) => {
                    tracing::warn!(%user, error = error.message(), "a lost sign-up's queue row cannot be made now");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(queued)
    }

    /// How many users from before the adoption have nothing of ours.
    pub async fn count_older_sign_ups(&self) -> Result<i64> {
        within(async { sign_ups::count_older(&mut self.begin().await?).await }).await
    }

    /// End a dead run for good. `No`: it is not dead, so that a run which somebody revived meanwhile goes on.
    pub async fn discard(&self, run: RunId, by: &By) -> Result<Changed> {
        within(command::discard(self, run, by)).await
    }

    /// Make the gate rows that a relay locks: one per queue, one per API host. Safe to repeat.
    pub async fn ensure_gates(&self, registry: &Registry, host: Option<&str>) -> Result<()> {
        within(gate::ensure_all(self, registry, host)).await
    }

    /// A transaction that nobody waits for long: not its own locks, not an idle client.
    pub(crate) async fn begin(&self) -> Result<Tx> {
        let begin = "begin; \
            set local lock_timeout = '5s'; \
            set local statement_timeout = '15s'; \
            set local idle_in_transaction_session_timeout = '10s'; \
            set local sluice.projecting = 'on'";
        let inner = self.pool.begin_with(begin).await?;
        Ok(Tx { inner, pooling: self.pooling, guards: self.guards.clone() })
    }
}

/// One transaction, and how its statements must be sent.
pub(crate) struct Tx {
    inner: Transaction<'static, Driver>,
    pooling: Pooling,
    guards: Guards,
}

impl Tx {
    pub(crate) fn query(&self, sql: &'static str) -> Query<'static, Driver, PgArguments> {
        sqlx::query(self.guards.statement(sql)).persistent(self.pooling == Pooling::Session)
    }

    pub(crate) fn query_as<T>(&self, sql: &'static str) -> QueryAs<'static, Driver, T, PgArguments>
    where
        T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
    {
        sqlx::query_as(self.guards.statement(sql)).persistent(self.pooling == Pooling::Session)
    }

    pub(crate) fn connection(&mut self) -> &mut sqlx::PgConnection {
        &mut self.inner
    }

    pub(crate) async fn commit(self) -> Result<()> {
        Ok(self.inner.commit().await?)
    }
}

/// No verb waits for ever: a connection that died without a word would otherwise hold its caller for good. Longer than the
/// server's own `statement_timeout`, which ends whatever merely takes long.
async fn within<T>(verb: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, verb).await.unwrap_or(Err(Error::Late(PATIENCE)))
}

/// How long one round looks for lost sign-ups: the loop that does it has others to live up to.
const FINDS_FOR: Duration = Duration::from_secs(5);

const PATIENCE: Duration = Duration::from_secs(20);

impl Ledger for Postgres {
    async fn start(&self, runs: &[NewRun]) -> Result<Vec<Started>> {
        within(start::start(self, runs)).await
    }

    async fn intake(&self, limit: usize) -> Result<Intake> {
        within(intake::intake(self, limit)).await
    }

    async fn dispatch(&self, queue: &StepName, host: Option<&str>, tokens: &[Token]) -> Result<Vec<Dispatched>> {
        within(dispatch::dispatch(self, queue, host, tokens)).await
    }

    fn registry(&self) -> &Registry {
        &self.setup.registry
    }

    async fn due(&self) -> Result<Vec<StepName>> {
        within(dispatch::due(self)).await
    }

    async fn begin_traces(&self, contexts: &[(RunId, String)]) -> Result<Vec<bool>> {
        within(dispatch::begin_traces(self, contexts)).await
    }

    async fn put_back(&self, keys: &[Key]) -> Result<usize> {
        within(dispatch::put_back(self, keys)).await
    }

    async fn lose(&self) -> Result<usize> {
        within(dispatch::lose(self)).await
    }

    async fn unclaimed(&self, after: Duration, most: usize) -> Result<Vec<(StepName, Key)>> {
        within(dispatch::unclaimed(self, after, most)).await
    }

    async fn claim(&self, worker: &Worker, keys: &[Key]) -> Result<Vec<Claimed>> {
        within(claim::claim(self, worker, keys)).await
    }

    async fn renew(&self, worker: &Worker, leases: &[Lease]) -> Result<Vec<bool>> {
        within(lease::renew(self, worker, leases)).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        within(settle::settle(self, settlements)).await
    }

    async fn doubt(&self, run: RunId) -> Result<()> {
        within(doubt::doubt(self, run)).await
    }

    async fn look_again(&self, limit: usize) -> Result<usize> {
        within(doubt::look_again(self, limit)).await
    }

    async fn expired(&self, limit: usize) -> Result<Vec<Expired>> {
        within(rescue::expired(self, limit)).await
    }

    async fn exceed(&self, host: Option<&str>, limit: usize) -> Result<usize> {
        within(rescue::exceed(self, host, limit)).await
    }

    async fn project_pending(&self, most: usize) -> Result<usize> {
        within(async {
            let mut tx = self.begin().await?;
            let pending = self.projection.write_pending(&mut tx, limit(most)).await?;
            tx.commit().await?;
            Ok(usize::try_from(pending).unwrap_or_default())
        })
        .await
    }

    async fn revive(&self, run: RunId, by: &By) -> Result<Changed> {
        within(command::revive(self, run, by)).await
    }

    async fn cancel(&self, run: RunId, by: &By) -> Result<Changed> {
        within(command::cancel(self, run, by)).await
    }

    async fn pause(&self, scope: Scope, name: &str, by: &By) -> Result<bool> {
        within(gate::pause(self, scope, name, by)).await
    }

    async fn resume(&self, scope: Scope, name: &str, by: &By) -> Result<bool> {
        within(gate::resume(self, scope, name, by)).await
    }

    async fn hold(&self, scope: Scope, name: &str, duration: Duration, by: &By) -> Result<bool> {
        within(gate::hold(self, scope, name, duration, by)).await
    }

    async fn set_rate(&self, scope: Scope, name: &str, rate: Option<f64>, by: &By) -> Result<bool> {
        within(gate::set_rate(self, scope, name, rate, by)).await
    }

    async fn set_concurrency(&self, scope: Scope, name: &str, limit: Option<u32>, by: &By) -> Result<bool> {
        within(gate::set_concurrency(self, scope, name, limit, by)).await
    }

    async fn report(&self, host: &str, signals: &[Signal], rules: &Rules, jitter: f64) -> Result<HostGate> {
        within(breaker::report(self, host, signals, rules, jitter)).await
    }

    async fn host_gate(&self, host: &str) -> Result<HostGate> {
        within(breaker::host_gate(self, host)).await
    }

    async fn probe(&self, host: &str, lease: Duration) -> Result<Option<Probe>> {
        within(breaker::probe(self, host, lease)).await
    }

    async fn probed(&self, host: &str, probe: Probe, found: Probed, rules: &Rules, jitter: f64) -> Result<HostGate> {
        within(breaker::probed(self, host, probe, found, rules, jitter)).await
    }

    async fn explain(&self, host: &str, limit: usize) -> Result<usize> {
        within(breaker::explain(self, host, limit)).await
    }
}

/// Whether the database refused what one row holds: then its neighbours are tried without it.
fn is_row_fault(error: &Error) -> bool {
    let Error::Database(sqlx::Error::Database(error)) = error else { return false };
    // 22: data exception, 23: integrity constraint violation.
    error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

/// Keys as the three arrays that `unnest` takes.
fn columns(keys: &[Key]) -> (Vec<uuid::Uuid>, Vec<i16>, Vec<i64>) {
    let runs = keys.iter().map(|key| key.run.uuid()).collect();
    let positions = keys.iter().map(|key| key.position).collect();
    let tokens = keys.iter().map(|key| key.token.bits()).collect();
    (runs, positions, tokens)
}

/// A key as a statement returns it. Its token too: two keys of one step may be in one batch.
fn key((run, position, token): (uuid::Uuid, i16, i64)) -> Key {
    Key { run: RunId::new(run), position, token: Token::new(token) }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
