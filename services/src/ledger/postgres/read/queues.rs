//! What waits, and before which gate.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::FromRow;

use super::{Postgres, Result, begin, capped};

/// The most gates that are shown.
const GATES: usize = 500;

/// The live steps of one queue. Ages are seconds.
#[derive(Debug, Clone, Default, Serialize, FromRow)]
pub struct Steps {
    pub step: String,
    /// To be dispatched now.
    pub due: i64,
    /// Later: a delay after a failure.
    pub delayed: i64,
    /// For an earlier step, or the run's turn on its resource.
    pub waiting: i64,
    pub dispatched: i64,
    pub running: i64,
    pub oldest_due_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Gate {
    pub scope: String,
    pub name: String,
    pub paused_at: Option<DateTime<Utc>>,
    pub paused_by: Option<String>,
    /// Only where it is not over.
    pub hold_until: Option<DateTime<Utc>>,
    pub hold_reason: Option<String>,
    /// Step starts per second.
    pub rate: Option<f64>,
    pub concurrency: Option<i32>,
    pub breaker: String,
    pub breaker_at: Option<DateTime<Utc>>,
    pub breaker_reason: Option<String>,
}

/// Dead letters that wait for a person.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct OpenLetters {
    pub reason: String,
    pub step: String,
    pub count: i64,
    pub oldest_died_at: DateTime<Utc>,
}

/// Public rows that could not be written yet.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Pending {
    pub count: i64,
    pub oldest_since: Option<DateTime<Utc>>,
}

/// Every queue in which a step of an active run is live. Reads the indexes of live steps only.
pub async fn steps(ledger: &Postgres) -> Result<Vec<Steps>> {
    let mut tx = begin(ledger).await?;
    let rows = tx
        .query_as(
            "with live as (
               select run_id, name, state, due_at from sluice.step where state = 'due'
               union all
               select run_id, name, state, null from sluice.step where state = 'dispatched'
               union all
               select run_id, name, state, null from sluice.step where state = 'running'
             )
             select live.name as step,
               count(*) filter (where live.state = 'due' and live.due_at <= now()) as due,
               count(*) filter (where live.state = 'due' and live.due_at > now()) as delayed,
               count(*) filter (where live.state = 'due' and live.due_at is null) as waiting,
               count(*) filter (where live.state = 'dispatched') as dispatched,
               count(*) filter (where live.state = 'running') as running,
               min(live.due_at) filter (where live.due_at <= now()) as oldest_due_at
             from live
             join sluice.run
               on run.id = live.run_id
               and run.state = 'active'
             group by live.name
             order by live.name",
        )
        .fetch_all(tx.connection())
        .await?;
    tx.commit().await?;
    Ok(rows)
}

/// Every gate.
pub async fn gates(ledger: &Postgres) -> Result<Vec<Gate>> {
    let mut tx = begin(ledger).await?;
    let rows = tx
        .query_as(
            "select scope, name, paused_at, paused_by,
               case when hold_until > now() then hold_until end as hold_until,
               case when hold_until > now() then hold_reason end as hold_reason,
               rate, concurrency, breaker, breaker_at,
               case when breaker <> 'closed' then breaker_reason end as breaker_reason
             from sluice.gate
             order by scope, name
             limit $1",
        )
        .bind(capped(GATES))
        .fetch_all(tx.connection())
        .await?;
    tx.commit().await?;
    Ok(rows)
}

/// The open dead letters, by reason and step.
pub async fn open_letters(ledger: &Postgres) -> Result<Vec<OpenLetters>> {
    let mut tx = begin(ledger).await?;
    let rows = tx
        .query_as(
            "select reason, step, count(*) as count, min(died_at) as oldest_died_at
             from sluice.dead_letter
             where resolved_at is null
             group by reason, step
             order by reason, step",
        )
        .fetch_all(tx.connection())
        .await?;
    tx.commit().await?;
    Ok(rows)
}

/// How many users' public rows are behind the ledger.
pub async fn pending_projections(ledger: &Postgres) -> Result<Pending> {
    let mut tx = begin(ledger).await?;
    let row = tx
        .query_as("select count(*) as count, min(since) as oldest_since from sluice.projection_pending")
        .fetch_one(tx.connection())
        .await?;
    tx.commit().await?;
    Ok(row)
}
