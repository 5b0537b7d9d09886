//! What Postgres counts: statements, transactions, WAL records and deadlocks between two moments.

use anyhow::{Context, Result};
use serde::Serialize;
use sqlx::PgConnection;

use super::site::{Database, Site};

/// Between two moments. None: this Postgres does not count it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counted {
    /// Of the services, as they send them: what a function does inside is one.
    pub statements: Option<i64>,
    /// Of everybody in the database but this program.
    pub transactions: i64,
    pub deadlocks: i64,
    /// Of the whole server: the app's own inserts and autovacuum too.
    pub wal_records: Option<i64>,
    pub wal_bytes: i64,
    /// Of these, pages that the WAL holds in full because of a checkpoint before.
    pub wal_full_page_bytes: Option<i64>,
}

pub struct Tally {
    database: String,
    role: String,
    statements: Option<i64>,
    transactions: i64,
    deadlocks: i64,
    position: String,
    /// The app's own transactions so far.
    own: i64,
}

impl Tally {
    /// `own`: how many transactions the caller has made in this database so far.
    pub async fn begin(site: &mut Site, database: &Database, own: i64) -> Result<Self> {
        let (name, role) = (database.name.clone(), site.role().to_owned());
        let desk = &mut site.desk;
        let (transactions, deadlocks) = transactions(desk, &name).await?;
        let statements = statements(desk, &name, &role).await;
        Ok(Self { statements, transactions, deadlocks, position: position(desk).await?, own, database: name, role })
    }

    /// The services must have ended: only then does Postgres know of all their transactions.
    pub async fn end(self, site: &mut Site, own: i64) -> Result<Counted> {
        let desk = &mut site.desk;
        let position = position(desk).await?;
        let statements = statements(desk, &self.database, &self.role).await;
        let (transactions, deadlocks) = transactions(desk, &self.database).await?;
        let wal = records(desk, &self.position, &position).await;
        Ok(Counted {
            statements: statements.zip(self.statements).map(|(now, before)| now - before),
            transactions: transactions - self.transactions - (own - self.own),
            deadlocks: deadlocks - self.deadlocks,
            wal_records: wal.map(|wal| wal.0),
            wal_bytes: bytes(desk, &self.position, &position).await?,
            wal_full_page_bytes: wal.map(|wal| wal.1),
        })
    }
}

/// What is kept by backends that idle comes up to a second late; those that have ended keep
/// nothing.
async fn transactions(desk: &mut PgConnection, database: &str) -> Result<(i64, i64)> {
    sqlx::query_as("select xact_commit + xact_rollback, deadlocks from pg_stat_database where datname = $1")
        .bind(database)
        .fetch_one(desk)
        .await
        .context("count transactions")
}

async fn statements(desk: &mut PgConnection, database: &str, role: &str) -> Option<i64> {
    sqlx::query_scalar(
        "select coalesce(sum(calls), 0)::bigint
         from pg_stat_statements as statement
         join pg_database on pg_database.oid = statement.dbid
         join pg_roles on pg_roles.oid = statement.userid
         where datname = $1
           and rolname = $2",
    )
    .bind(database)
    .bind(role)
    .fetch_one(desk)
    .await
    .ok()
}

async fn position(desk: &mut PgConnection) -> Result<String> {
    let query = sqlx::query_scalar("select pg_current_wal_flush_lsn()::text");
    query.fetch_one(desk).await.context("ask where the WAL ends")
}

async fn bytes(desk: &mut PgConnection, from: &str, to: &str) -> Result<i64> {
    let query = sqlx::query_scalar("select ($2::pg_lsn - $1::pg_lsn)::bigint").bind(from).bind(to);
    query.fetch_one(desk).await.context("measure the WAL")
}

/// Records and the bytes of full pages, read from the WAL itself.
async fn records(desk: &mut PgConnection, from: &str, to: &str) -> Option<(i64, i64)> {
    sqlx::query_as(
        "select sum(count)::bigint, sum(fpi_size)::bigint
         from pg_get_wal_stats($1::pg_lsn, $2::pg_lsn)",
    )
    .bind(from)
    .bind(to)
    .fetch_one(desk)
    .await
    .ok()
}
