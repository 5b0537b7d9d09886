//! Connections: each is set as our statements rely on, leads to a server that takes writes, rests
//! between two statements without a word, and goes back to the server when nobody needs it.
//!
//! Over deadpool and not sqlx's own pool, which asks each connection that comes back for a sign of
//! life: a second round trip for each statement, and one without a limit of time.

use std::time::Duration;

use deadpool::{
    Runtime, Status,
    managed::{self, Manager, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult, RetainResult},
};
use parking_lot::Mutex;
use sqlx::{
    ConnectOptions, Connection, PgConnection, Row,
    error::DatabaseError,
    postgres::{PgConnectOptions, PgDatabaseError, PgSeverity},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{Database, Pooling, code, settings};

/// How long a caller waits for a connection of the pool, and how long for a new one to be made:
/// longer waits hide that there are too few.
const ACQUIRE: Duration = Duration::from_secs(5);
/// A connection that rested for so long is asked whether its server takes writes before it is used.
const RESTED: Duration = Duration::from_secs(10);
/// So long after a server said that it takes no writes, each connection is asked before it is used.
const WARY: Duration = Duration::from_secs(30);
const ANSWERS: Duration = Duration::from_secs(2);
/// The first pause before a refused connection is tried again, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// Of a server, that it takes no writes.
const READ_ONLY_SQL_TRANSACTION: &str = "25006";
/// What a standby answers to `begin read write`.
const FEATURE_NOT_SUPPORTED: &str = "0A000";
/// Of a prepared statement that the server no longer knows; one whose rows have another form than
/// when it was prepared is `FEATURE_NOT_SUPPORTED` too.
const INVALID_SQL_STATEMENT_NAME: &str = "26000";
/// What a server answers to a new connection that it may take a moment later.
const NOT_NOW: [&str; 2] = ["53300", "57P03"];

/// Where connections lead, and what their users have noticed of it.
///
/// Asking each connection before each use would cost a round trip: one that died is noticed by
/// whoever uses it, who tries again, and those that rested at that moment are asked; one that leads
/// to a demoted server is closed at the next use after it refused a write.
pub(super) struct Server {
    options: PgConnectOptions,
    pooling: Pooling,
    /// When it last said that it takes no writes.
    read_only_at: Mutex<Option<Instant>>,
    /// When a connection to it was last lost.
    lost_at: Mutex<Option<Instant>>,
    /// Somebody has waited for a connection in vain.
    starved: Notify,
}

pub(super) struct Link {
    connection: PgConnection,
    /// A statement is under way, or a transaction open.
    busy: bool,
    rests_since: Instant,
}

/// A connection in use. Where it is dropped in the middle, nobody knows what its server still does
/// with it: it is closed at once, and takes no time and no place of the pool's.
pub(crate) struct Lent(Option<Object<Server>>);

impl Database {
    /// With at most so many connections; opens none yet.
    pub fn open(options: PgConnectOptions, pooling: Pooling, connections: u32) -> Self {
        let (read_only_at, lost_at, starved) = Default::default();
        // The last one that came is the first one to be used, so that the others rest.
        let pool = managed::Pool::builder(Server { options, pooling, read_only_at, lost_at, starved })
            .max_size(connections as usize)
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(ACQUIRE))
            .create_timeout(Some(ACQUIRE))
            .recycle_timeout(Some(ANSWERS))
            .build();
        Self(pool.expect("a runtime is given"))
    }

    /// How a connection of its own would be made.
    pub fn options(&self) -> &PgConnectOptions {
        &self.0.manager().options
    }

    /// Whether a connection has a session of its own, which ends with it.
    pub fn has_sessions(&self) -> bool {
        self.0.manager().pooling == Pooling::Session
    }

    /// How many connections there are, may be, and rest.
    pub fn status(&self) -> Status {
        self.0.status()
    }

    pub(super) async fn lend(&self) -> sqlx::Result<Lent> {
        let lent = self.0.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Closed => sqlx::Error::PoolClosed,
            _ => sqlx::Error::PoolTimedOut,
        });
        Ok(Lent(Some(lent?)))
    }

    /// Takes note of what a statement failed with: after a write that a demoted server refused, no
    /// connection to it is used.
    pub fn judge(&self, error: &sqlx::Error) {
        let server = self.0.manager();
        if is_read_only(error) {
            *server.read_only_at.lock() = Some(Instant::now());
        }
        if matches!(error, sqlx::Error::PoolTimedOut) {
            server.starved.notify_one();
        }
    }

    /// Until a statement that `judge` heard of got no connection in time.
    pub async fn starved(&self) {
        self.0.manager().starved.notified().await;
    }

    /// Gives back to the server, once in each `window`, the connections that were idle all through
    /// it, but for one. Never returns.
    pub async fn give_back(&self, window: Duration) {
        loop {
            sleep(window).await;
            let mut spare = self.status().size.saturating_sub(1);
            // From the one that rests longest on.
            let RetainResult { removed, .. } = self.0.retain(|link, _| {
                let goes = spare > 0 && link.rests_since.elapsed() >= window;
                spare -= usize::from(goes);
                !goes
            });
            for link in removed {
                let _ = timeout(ANSWERS, link.connection.close()).await;
            }
        }
    }
}

impl Manager for Server {
    type Type = Link;
    type Error = sqlx::Error;

    /// Ends by the pool's limit.
    async fn create(&self) -> sqlx::Result<Link> {
        let [mut pause, longest] = PAUSES;
        loop {
            match self.connect().await {
                Ok(connection) => return Ok(Link { connection, busy: false, rests_since: Instant::now() }),
                Err(error) if is_passing(&error) => sleep(pause).await,
                Err(error) => return Err(error),
            }
            pause = (pause * 2).min(longest);
        }
    }

    async fn recycle(&self, link: &mut Link, _: &Metrics) -> RecycleResult<sqlx::Error> {
        if self.doubts(link.rests_since) && !takes_writes(&mut link.connection).await? {
            return Err(RecycleError::message("its server takes no writes"));
        }
        Ok(())
    }
}

impl Server {
    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let mut connection = self.options.connect().await?;
        // Behind a pooler by transactions nothing that is set would stay: each transaction sets it.
        if self.pooling == Pooling::Session {
            settings::pin(&mut connection).await?;
        }
        Ok(connection)
    }

    /// Whether to ask a connection that rests since then before it is used.
    fn doubts(&self, rests_since: Instant) -> bool {
        let is_wary = || self.read_only_at.lock().is_some_and(|said| said.elapsed() < WARY);
        let others_were_lost = || self.lost_at.lock().is_some_and(|lost| rests_since <= lost);
        rests_since.elapsed() >= RESTED || is_wary() || others_were_lost()
    }
}

impl Lent {
    /// From now on it is in use.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        let link = self.0.as_mut().expect("it is taken at the end only");
        link.busy = true;
        &mut link.connection
    }

    /// The server has answered everything, and no transaction is open.
    pub(crate) fn rest(mut self) {
        if let Some(link) = &mut self.0 {
            (link.busy, link.rests_since) = (false, Instant::now());
        }
    }
}

/// Others may be lost, too.
impl Drop for Lent {
    fn drop(&mut self) {
        let Some(object) = self.0.take_if(|link| link.busy) else { return };
        if let Some(pool) = Object::pool(&object) {
            *pool.manager().lost_at.lock() = Some(Instant::now());
        }
        drop(Object::take(object));
    }
}

/// Whether the server that a connection leads to takes writes. A standby does not. In the simple
/// protocol, which every pooler can take.
pub async fn takes_writes(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let ask = sqlx::raw_sql("select not pg_catalog.pg_is_in_recovery()").fetch_one(connection);
    timeout(ANSWERS, ask).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?.try_get(0)
}

/// Whether the server has answered, if with an error, and the connection can go on to be used.
pub(super) fn is_answer<T>(answer: &sqlx::Result<T>) -> bool {
    match answer {
        Ok(_) => true,
        Err(sqlx::Error::Database(said)) => {
            let severity = said.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
            severity.is_some_and(|severity| !matches!(severity, PgSeverity::Fatal | PgSeverity::Panic))
                && !is_outdated(&**said)
        }
        Err(_) => false,
    }
}

/// Whether a statement that this connection has prepared cannot be used any more: a migration has
/// changed what it reads. It would fail for as long as the connection lives.
fn is_outdated(said: &dyn DatabaseError) -> bool {
    is(said, INVALID_SQL_STATEMENT_NAME, "cached plan")
}

fn is_read_only(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|said| is(said, READ_ONLY_SQL_TRANSACTION, "read-write mode"))
}

/// By its own code, or by a code that stands for much else and these words.
fn is(said: &dyn DatabaseError, code: &str, words: &str) -> bool {
    match said.code().as_deref() {
        Some(FEATURE_NOT_SUPPORTED) => said.message().contains(words),
        said => said == Some(code),
    }
}

/// A server that starts, or has too few connections for a moment.
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => code(error).is_some_and(|code| NOT_NOW.contains(&&*code)),
    }
}
