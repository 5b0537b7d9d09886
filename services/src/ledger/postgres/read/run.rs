//! One run with all that happened to it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;
use workflows::ids::RunId;

use super::{
    Held, Letter, LetterId, Postgres, Result, Run, RunFilter, Wait, begin, capped, letters_by_id, runs, waits::waits,
};
use crate::database::Tx;

/// The most attempts that are shown of one run: the last ones.
const ATTEMPTS: usize = 500;

#[derive(Debug, Clone, Serialize)]
pub struct RunDetail {
    pub run: Run,
    pub steps: Vec<Step>,
    /// In the order in which they ended.
    pub attempts: Vec<Attempt>,
    pub events: Vec<Event>,
    /// The youngest.
    pub dead_letter: Option<Letter>,
}

#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Step {
    pub position: i16,
    pub name: String,
    pub state: String,
    pub due_at: Option<DateTime<Utc>>,
    /// Where it is due.
    #[sqlx(skip)]
    pub waits_for: Vec<Wait>,
    pub started_at: Option<DateTime<Utc>>,
    pub lease_until: Option<DateTime<Utc>>,
    pub worker: Option<String>,
    pub failures: i32,
    pub crashes: i32,
    pub send_backs: i32,
    pub defers: i32,
    pub attempts: i32,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Attempt {
    pub position: i16,
    pub step: String,
    pub worker: String,
    pub started_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    pub outcome: String,
    pub class: Option<String>,
    pub http_status: Option<i16>,
    pub error: Option<String>,
    pub note: Option<String>,
    pub trace_id: Option<String>,
}

#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Event {
    pub id: Uuid,
    pub sequence: i32,
    pub r#type: String,
    pub routing_key: String,
    pub created_at: DateTime<Utc>,
    pub published_at: Option<DateTime<Utc>>,
}

/// The run, none where there is no such run.
pub async fn run(ledger: &Postgres, id: RunId) -> Result<Option<RunDetail>> {
    detail(ledger, id, ATTEMPTS).await
}

/// With its last `most` attempts.
pub(super) async fn detail(ledger: &Postgres, id: RunId, most: usize) -> Result<Option<RunDetail>> {
    let mut tx = begin(ledger).await?;
    let only = RunFilter { id: Some(id), ..RunFilter::default() };
    let Some(row) = runs::select(&mut tx, &only, 1).await?.pop() else { return Ok(None) };
    let steps = steps(&mut tx, id, &row).await?;
    let attempts = attempts(&mut tx, id, &row, most).await?;
    let events = events(&mut tx, id).await?;
    tx.commit().await?;
    let dead_letter = letters_by_id(ledger, &[LetterId::Run(id)]).await?.pop();
    Ok(Some(RunDetail { run: row.shown(), steps, attempts, events, dead_letter }))
}

async fn steps(tx: &mut Tx, id: RunId, run: &Held<Run>) -> Result<Vec<Step>> {
    let sql =
        "select position, name, state, due_at, started_at, lease_until, worker, failures, crashes, send_backs, defers,
          attempts, coalesce(held_by, error) as error
        from sluice.step
        where run_id = $1
        order by position";
    let mut steps: Vec<Step> = tx.query_as(sql).bind(id.uuid()).fetch_all(tx.connection()).await?;
    let mut waits = waits(tx, vec![id.uuid()]).await?;
    for step in &mut steps {
        step.error = run.cut(step.error.take());
        step.waits_for = waits.remove(&(id.uuid(), step.position)).unwrap_or_default();
    }
    Ok(steps)
}

async fn attempts(tx: &mut Tx, id: RunId, run: &Held<Run>, most: usize) -> Result<Vec<Attempt>> {
    let sql = "select position, step, worker, started_at, ended_at, outcome, class, http_status, error, note, trace_id
        from sluice.attempt
        where run_id = $1
        order by id desc
        limit $2";
    let ask = tx.query_as(sql).bind(id.uuid()).bind(capped(most));
    let mut attempts: Vec<Attempt> = ask.fetch_all(tx.connection()).await?;
    attempts.reverse();
    for attempt in &mut attempts {
        attempt.error = run.cut(attempt.error.take());
        attempt.note = run.cut(attempt.note.take());
    }
    Ok(attempts)
}

async fn events(tx: &mut Tx, id: RunId) -> Result<Vec<Event>> {
    let sql = "select id, sequence, type, routing_key, created_at, published_at
        from sluice.event
        where run_id = $1
        order by sequence
        limit 100";
    Ok(tx.query_as(sql).bind(id.uuid()).fetch_all(tx.connection()).await?)
}
