//! What the first migration found in the database, and a person's word on it. Every decision is one
//! SQL function, which keeps who took it. Through any pooler: each call is one transaction.

use sqlx::{Connection, FromRow, PgConnection};

use crate::database::is_held_up;

/// The most users that one transaction starts.
const BATCH: i32 = 500;

/// Also in a database that is read-only by default.
const BEGIN: &str = "begin isolation level read committed read write";

/// A class of users whom the first migration found, for people and for machines.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, FromRow)]
pub struct Class {
    pub class: String,
    pub users: i64,
    /// Nobody has decided yet.
    pub open: i64,
    pub started: i64,
    pub left_alone: i64,
    /// RFC 3339.
    pub oldest: Option<String>,
    pub newest: Option<String>,
    pub most_retries: Option<i32>,
    pub meaning: String,
    /// What starts, leaves or allows them; none where nothing is to decide.
    pub command: Option<String>,
    /// Of instances that need a word each; a hundred at most.
    pub names: Vec<String>,
}

/// What came of allowing an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    Allowed,
    /// No instance of that name waits for it.
    Unknown,
    /// Its user's row has another name by now.
    Changed,
    /// Another user has an instance of that name, or the API cannot have one.
    Taken,
}

/// One transaction, kept where what was asked in it went well.
async fn kept<T>(
    connection: &mut PgConnection,
    ask: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> sqlx::Result<T> {
    let mut tx = connection.begin_with(BEGIN).await?;
    let answer = ask(&mut tx).await?;
    tx.commit().await?;
    Ok(answer)
}

pub async fn report(connection: &mut PgConnection) -> sqlx::Result<Vec<Class>> {
    let report = sqlx::query_as(
        r#"select class, users, open, started, left_alone,
             to_char(oldest at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as oldest,
             to_char(newest at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as newest,
             most_retries, meaning, command, names
           from sluice.adoption_report"#,
    );
    kept(connection, async |tx| report.persistent(false).fetch_all(tx).await).await
}

/// How many of a class a word started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    pub users: i64,
    /// Who still waits for a word, since somebody has their row locked.
    pub locked: i64,
}

/// Starts everybody of the class who waits for a word and whose row is free.
pub async fn start(connection: &mut PgConnection, class: &str, by: &str, note: Option<&str>) -> sqlx::Result<Started> {
    let mut users = 0;
    loop {
        match start_batch(connection, class, by, note).await {
            Ok(0) => break,
            Ok(batch) => users += batch,
            Err(error) if is_held_up(&error) => break,
            Err(error) => return Err(error),
        }
    }
    let open = "select count(*) from sluice.adoption where class = $1 and decision is null";
    let open = sqlx::query_scalar(open).bind(class).persistent(false);
    Ok(Started { users, locked: kept(connection, async |tx| open.fetch_one(tx).await).await? })
}

async fn start_batch(connection: &mut PgConnection, class: &str, by: &str, note: Option<&str>) -> sqlx::Result<i64> {
    let batch = sqlx::query_scalar("select sluice.adopt_start($1, $2, $3, $4)").bind(class).bind(by).bind(note);
    kept(connection, async |tx| batch.bind(BATCH).persistent(false).fetch_one(tx).await).await
}

/// Leaves everybody of the class alone who waits for a word. How many they were.
pub async fn leave(connection: &mut PgConnection, class: &str, by: &str, note: Option<&str>) -> sqlx::Result<i64> {
    let left = sqlx::query_scalar("select sluice.adopt_leave($1, $2, $3)").bind(class).bind(by).bind(note);
    kept(connection, async |tx| left.persistent(false).fetch_one(tx).await).await
}

/// Takes an instance over whose name is not its user's own.
pub async fn allow(connection: &mut PgConnection, name: &str, by: &str, note: Option<&str>) -> sqlx::Result<Allowed> {
    let allowed = sqlx::query_scalar("select sluice.adopt_allow($1, $2, $3)").bind(name).bind(by).bind(note);
    let allowed: String = kept(connection, async |tx| allowed.persistent(false).fetch_one(tx).await).await?;
    match allowed.as_str() {
        "allowed" => Ok(Allowed::Allowed),
        "unknown" => Ok(Allowed::Unknown),
        "changed" => Ok(Allowed::Changed),
        "taken" => Ok(Allowed::Taken),
        other => Err(sqlx::Error::Protocol(format!("sluice.adopt_allow answered {other}"))),
    }
}
