//! Pools: their connections are set as our statements rely on, lead to a server that takes writes,
//! and go back to the server when nobody needs them.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use sqlx::{
    PgConnection, PgPool, Row,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{Database, Pooling, settings};

/// How long a caller waits for a connection: longer waits hide that there are too few.
const ACQUIRE: Duration = Duration::from_secs(5);
/// A connection that was idle for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A connection that rested for so long is asked whether its server takes writes before it is used.
const RESTED: Duration = Duration::from_secs(10);
/// So long after a server said that it takes no writes, each connection is asked before it is used.
const WARY: Duration = Duration::from_secs(30);
const ANSWERS: Duration = Duration::from_secs(2);

/// Of a server, that it takes no writes.
const READ_ONLY_SQL_TRANSACTION: &str = "25006";
/// What a standby answers to `begin read write`.
const FEATURE_NOT_SUPPORTED: &str = "0A000";

/// What the users of a pool have noticed of its server.
#[derive(Clone, Default)]
pub(super) struct Noticed {
    /// When it last said that it takes no writes.
    read_only_at: Arc<Mutex<Option<Instant>>>,
    /// When a connection to it was last lost.
    lost_at: Arc<Mutex<Option<Instant>>>,
    /// Somebody has waited for a connection in vain.
    starved: Arc<Notify>,
}

impl Noticed {
    /// Takes note of an error that says so.
    pub(super) fn judge(&self, error: &sqlx::Error) {
        if is_read_only(error) {
            *self.read_only_at.lock() = Some(Instant::now());
        }
        if matches!(error, sqlx::Error::PoolTimedOut) {
            self.starved.notify_one();
        }
    }

    pub(super) async fn starved(&self) {
        self.starved.notified().await;
    }

    /// Takes note of a connection that was lost: others may be lost too.
    pub(super) fn lost_one(&self) {
        *self.lost_at.lock() = Some(Instant::now());
    }

    /// Whether to ask a connection that nobody has used for so long before it is used.
    pub(super) fn doubts(&self, unused: Duration) -> bool {
        let lost_since = || self.lost_at.lock().is_some_and(|lost| lost.elapsed() <= unused);
        unused >= RESTED || self.is_wary() || lost_since()
    }

    fn is_wary(&self) -> bool {
        let read_only_at = self.read_only_at.lock();
        read_only_at.is_some_and(|said| said.elapsed() < WARY)
    }
}

/// Opens no connection yet. Asking each connection before each use would cost a round trip: one
/// that died is noticed by whoever uses it, who tries again, and those that rested at that moment
/// are asked; one that leads to a demoted server is closed at the next use after it refused a write.
pub(super) fn open(options: PgConnectOptions, pooling: Pooling, connections: u32, noticed: Noticed) -> PgPool {
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        .idle_timeout(IDLE)
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let ask = noticed.doubts(meta.idle_for);
            Box::pin(async move { if ask { takes_writes(connection).await } else { Ok(true) } })
        });
    let pool = match pooling {
        Pooling::Session => pool.after_connect(|connection, _| Box::pin(settings::pin(connection))),
        // Nothing that is set would stay: each transaction sets it.
        Pooling::Transaction => pool,
    };
    pool.connect_lazy_with(options)
}

/// Whether the server that a connection leads to takes writes. A standby does not. In the simple
/// protocol, which every pooler can take.
pub async fn takes_writes(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let ask = sqlx::raw_sql("select not pg_catalog.pg_is_in_recovery()").fetch_one(connection);
    timeout(ANSWERS, ask).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?.try_get(0)
}

fn is_read_only(error: &sqlx::Error) -> bool {
    let Some(said) = error.as_database_error() else { return false };
    match said.code().as_deref() {
        Some(READ_ONLY_SQL_TRANSACTION) => true,
        Some(FEATURE_NOT_SUPPORTED) => said.message().contains("read-write mode"),
        _ => false,
    }
}

/// Gives back to the server, once in each `window`, the connections that were idle all through it,
/// but for one. Never returns.
pub async fn give_back(database: &Database, window: Duration) {
    const LOOKS: u32 = 20;
    loop {
        let mut spare = usize::MAX;
        for _ in 0..LOOKS {
            sleep(window / LOOKS).await;
            database.resting.let_go(window);
            spare = spare.min(database.pool.num_idle());
        }
        let keeps = usize::from(database.resting.len() == 0);
        for _ in keeps..spare {
            let Some(connection) = database.pool.try_acquire() else { break };
            let _ = timeout(ANSWERS, connection.close()).await;
        }
    }
}
