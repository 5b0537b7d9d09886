//! Statements to Postgres, sent so that they work behind every pooler. Below the ledger and the app's tables, and knows
//! neither.
//!
//! A statement alone is its own transaction, and one round trip. Behind a transaction pooler even that needs an explicit
//! transaction, since parse and bind must meet the same backend, and a statement must have no name.

mod pooling;

use std::time::Duration;

use sqlx::{
    Connection, FromRow, PgPool, Postgres, Transaction,
    postgres::{PgArguments, PgRow},
    query::{Query, QueryAs},
};

pub use self::pooling::{Pooling, is_by_transaction};

/// No statement waits for ever: a connection that died without a word would otherwise hold its caller for good. Longer than
/// the server's own `statement_timeout`, which ends whatever merely takes long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A statement without its arguments.
pub type Statement = Query<'static, Postgres, PgArguments>;

/// A statement whose rows are read as `T`.
pub type Rows<T> = QueryAs<'static, Postgres, T, PgArguments>;

/// A pool, and what stands between it and Postgres.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    pooling: Pooling,
}

impl Database {
    pub fn new(pool: PgPool, pooling: Pooling) -> Self {
        Self { pool, pooling }
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Asks for a sign of life.
    pub async fn ping(&self) -> sqlx::Result<()> {
        self.pool.acquire().await?.ping().await
    }

    /// Sends one statement in a transaction of its own.
    pub async fn ask<T>(&self, sql: &'static str, bind: impl FnOnce(Rows<T>) -> Rows<T>) -> sqlx::Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        if self.pooling == Pooling::Session {
            return bind(sqlx::query_as(sql)).fetch_all(&self.pool).await;
        }
        let mut tx = self.pool.begin().await?;
        let rows = bind(sqlx::query_as(sql).persistent(false)).fetch_all(&mut *tx).await?;
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
            "begin; \
             set local lock_timeout = '900ms'; \
             set local statement_timeout = '15s'; \
             set local idle_in_transaction_session_timeout = '10s'; \
             set local sluice.projecting = 'on'",
        )
        .await
    }

    /// A transaction that begins with these settings.
    pub async fn begin_with(&self, begin: &'static str) -> sqlx::Result<Tx> {
        Ok(Tx { inner: self.pool.begin_with(begin).await?, pooling: self.pooling })
    }
}

/// One transaction, and how its statements must be sent.
pub struct Tx {
    inner: Transaction<'static, Postgres>,
    pooling: Pooling,
}

impl Tx {
    pub fn query(&self, sql: &'static str) -> Statement {
        sqlx::query(sql).persistent(self.pooling == Pooling::Session)
    }

    pub fn query_as<T>(&self, sql: &'static str) -> Rows<T>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        sqlx::query_as(sql).persistent(self.pooling == Pooling::Session)
    }

    pub fn connection(&mut self) -> &mut sqlx::PgConnection {
        &mut self.inner
    }

    pub async fn commit(self) -> sqlx::Result<()> {
        self.inner.commit().await
    }
}
