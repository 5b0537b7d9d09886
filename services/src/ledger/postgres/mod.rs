//! The ledger in Postgres. Each transition is one SQL function of `migrations/…09_protocol.sql`,
//! called in one statement that is its own transaction; here are the calls, and what people and
//! breakers do in transactions of several statements.

mod attempts;
mod ended;
mod events;
mod operator;
pub mod read;
mod register;
mod relay;
mod worker;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use sqlx::{FromRow, postgres::PgRow};
use workflows::definition::Registry;

use super::{Error, Result};
use crate::database::{Database, PATIENCE, Rows, met_a_lock};

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

    /// One verb, which ends within `PATIENCE`. Of a write that was refused as read-only the pool
    /// takes note.
    pub async fn within<T>(&self, verb: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = tokio::time::timeout(PATIENCE, verb).await.unwrap_or(Err(Error::Late(PATIENCE)));
        if let Err(Error::Database(error)) = &answer {
            self.database.judge(error);
        }
        answer
    }

    /// A verb of one statement.
    async fn ask<T>(&self, sql: &'static str, bind: impl FnOnce(Rows<T>) -> Rows<T>) -> Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        self.within(async { Ok(self.database.ask(sql, bind).await?) }).await
    }

    /// A verb of one statement that answers with one row.
    async fn ask_one<T>(&self, sql: &'static str, bind: impl FnOnce(Rows<T>) -> Rows<T>) -> Result<T>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        self.within(async { Ok(self.database.ask_one(sql, bind).await?) }).await
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

/// Zero where the column is null, or the clock was set back.
fn duration(seconds: Option<f64>) -> Duration {
    Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or_default()
}

fn limit(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}
