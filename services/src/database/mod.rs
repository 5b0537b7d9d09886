//! Statements to Postgres, sent so that they work behind every pooler. Below the ledger and the
//! app's tables, and knows neither.
//!
//! A statement alone is its own transaction, and one round trip. Behind a transaction pooler even
//! that needs an explicit transaction, since parse and bind must meet the same backend, and a
//! statement must have no name.

mod pool;
mod pooling;
pub mod settings;

use std::{borrow::Cow, time::Duration};

use deadpool::managed::Pool;
use sqlx::{
    AssertSqlSafe, FromRow, PgConnection, Postgres, SqlSafeStr,
    postgres::{PgArguments, PgRow},
    query::{Query, QueryAs},
};

use self::pool::{Lent, Server, is_answer};
pub use self::{
    pool::takes_writes,
    pooling::{Pooling, is_by_transaction},
};

/// No statement waits for ever: a connection that died without a word would otherwise hold its
/// caller for good. Longer than the server's own `statement_timeout`, which ends whatever merely
/// takes long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What went wrong, in the database's own words where it answered: once, and not with the line of
/// its own source.
pub fn said(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// Whether a lock was not to be had for as long as a statement waits.
pub fn met_a_lock(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("55P03")
}

/// Whether others held locks that a change of the schema needs.
pub(crate) fn is_held_up(error: &sqlx::Error) -> bool {
    const DEADLOCK_DETECTED: &str = "40P01";
    met_a_lock(error) || code(error).as_deref() == Some(DEADLOCK_DETECTED)
}

/// The server's own name for an error.
fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// A statement without its arguments.
pub type Statement = Query<'static, Postgres, PgArguments>;

/// A statement whose rows are read as `T`.
pub type Rows<T> = QueryAs<'static, Postgres, T, PgArguments>;

/// How a statement alone begins where it needs a transaction of its own: what it has locked is free
/// again soon, where whoever asked stands still before the end.
const BEGIN: &str = "\
    begin isolation level read committed read write; \
    set local statement_timeout = '15s'; \
    set local idle_in_transaction_session_timeout = '10s'";

/// A pool of connections to one server (`pool`), and how statements are sent over them.
#[derive(Clone)]
pub struct Database(Pool<Server>);

impl Database {
    /// Whether the server answers and takes writes.
    pub async fn takes_writes(&self) -> sqlx::Result<bool> {
        self.over(async |connection| takes_writes(connection).await).await
    }

    /// Asks over a connection, which rests afterwards. Where this is given up, or fails without an
    /// answer of the server's, the connection is closed.
    pub async fn over<T>(&self, ask: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>) -> sqlx::Result<T> {
        let mut lent = self.lend().await?;
        let answer = ask(lent.connection()).await;
        if is_answer(&answer) {
            lent.rest();
        }
        answer
    }

    /// Sends one statement in a transaction of its own.
    pub async fn ask<T>(&self, sql: &'static str, bind: impl FnOnce(Rows<T>) -> Rows<T>) -> sqlx::Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        if self.has_sessions() {
            let query = bind(sqlx::query_as(sql));
            return self.over(async |connection| query.fetch_all(connection).await).await;
        }
        let mut tx = self.begin_with(BEGIN).await?;
        let rows = bind(tx.query_as(sql)).fetch_all(tx.connection()).await?;
        tx.commit().await?;
        Ok(rows)
    }

    /// As `ask`, of a statement that answers with one row.
    pub async fn ask_one<T>(&self, sql: &'static str, bind: impl FnOnce(Rows<T>) -> Rows<T>) -> sqlx::Result<T>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        self.ask(sql, bind).await?.pop().ok_or(sqlx::Error::RowNotFound)
    }

    /// A transaction that nobody waits for long: not its own locks, not an idle client.
    pub async fn begin(&self) -> sqlx::Result<Tx> {
        self.begin_with(
            "begin isolation level read committed read write; \
             set local lock_timeout = '900ms'; \
             set local statement_timeout = '15s'; \
             set local idle_in_transaction_session_timeout = '10s'",
        )
        .await
    }

    /// A transaction that begins with this, which says its isolation, and whether it writes.
    pub async fn begin_with(&self, begin: &'static str) -> sqlx::Result<Tx> {
        let mut lent = self.lend().await?;
        let has_session = self.has_sessions();
        let begin = match has_session {
            true => begin.into_sql_str(),
            false => AssertSqlSafe(format!("{begin}; {}", settings::TRANSACTION)).into_sql_str(),
        };
        sqlx::raw_sql(begin).execute(lent.connection()).await?;
        Ok(Tx { lent, has_session })
    }
}

/// One transaction, and how its statements must be sent. Dropped without a commit, it is undone by
/// the end of its connection.
pub struct Tx {
    lent: Lent,
    has_session: bool,
}

impl Tx {
    pub fn query(&self, sql: &'static str) -> Statement {
        sqlx::query(sql).persistent(self.has_session)
    }

    pub fn query_as<T>(&self, sql: &'static str) -> Rows<T>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        sqlx::query_as(sql).persistent(self.has_session)
    }

    pub fn connection(&mut self) -> &mut PgConnection {
        self.lent.connection()
    }

    pub async fn commit(mut self) -> sqlx::Result<()> {
        sqlx::raw_sql("commit").execute(self.lent.connection()).await?;
        self.lent.rest();
        Ok(())
    }
}
