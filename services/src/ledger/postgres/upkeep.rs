//! What relays do beside moving runs on: leases and deadlines that are over, rows to write again,
//! doubts, retention.

use std::time::{Duration, Instant};

use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    ids::{RunId, Token},
    state::{DeathReason, RunState, Spent},
};

use super::{
    Expired, Postgres, Pruned, Result, Upkeep, WholeRun, count, duration, limit, parse, runs::TakenRow, seconds,
};
use crate::ledger::{AttemptSpan, Key, SpanIds};

#[derive(FromRow)]
struct ExpiredRow {
    run_id: Uuid,
    step_position: i16,
    token: i64,
    workflow: String,
    version: i16,
    step: String,
    failures: i32,
    crashes: i32,
    send_backs: i32,
    defers: i32,
    attempts: i32,
    worker: String,
    traceparent: Option<String>,
    worker_lives: bool,
    generation: i32,
    attempt_traceparent: Option<String>,
    parent_span: Option<String>,
    age: Option<f64>,
}

pub(super) async fn upkeep(ledger: &Postgres) -> Result<Upkeep> {
    let sql = "select running, gone, expired, late, cancelled, unwritten, untold, doubted from sluice.upkeep()";
    let (running, gone, expired, late, cancelled, unwritten, untold, doubted) =
        ledger.database.ask_one(sql, |ask| ask).await?;
    Ok(Upkeep { running, gone, expired, late, cancelled, unwritten, untold, doubted })
}

/// A row that cannot be read harms only itself: it is said and passed over.
pub(super) async fn expired(ledger: &Postgres, most: usize) -> Result<Vec<Expired>> {
    let sql = "select * from sluice.expired($1, $2)";
    let ask = ledger.database.ask(sql, |ask| ask.bind(ledger.known.to_vec()).bind(limit(most)));
    let rows: Vec<ExpiredRow> = ask.await?;
    Ok(rows.into_iter().filter_map(ExpiredRow::expired).collect())
}

impl ExpiredRow {
    fn expired(self) -> Option<Expired> {
        let key = Key { run: RunId::new(self.run_id), position: self.step_position, token: Token::new(self.token) };
        let names = parse(&self.workflow).and_then(|workflow| Ok((workflow, parse(&self.step)?)));
        let (workflow, step) = match names {
            Ok(names) => names,
            Err(error) => {
                tracing::error!(run = %key.run, position = key.position, %error, "cannot rescue this step: mend its row");
                return None;
            }
        };
        let ids = self.attempt_traceparent.as_deref().and_then(SpanIds::of);
        Some(Expired {
            key,
            workflow,
            version: self.version,
            step,
            spent: Spent {
                failures: count(self.failures),
                crashes: count(self.crashes),
                send_backs: count(self.send_backs),
                defers: count(self.defers),
            },
            attempt: count(self.attempts),
            worker: self.worker,
            generation: self.generation,
            age: duration(self.age),
            span: ids.map(|ids| AttemptSpan { ids, parent: self.parent_span }),
            traceparent: self.traceparent,
            worker_lives: self.worker_lives,
        })
    }
}

#[derive(FromRow)]
struct Ended {
    run_id: Uuid,
    #[sqlx(flatten)]
    row: EndedRow,
}

/// What the database says of a run that has ended, or may have.
#[derive(FromRow)]
pub(super) struct EndedRow {
    pub workflow: String,
    subject: String,
    pub traceparent: Option<String>,
    asked_traceparent: Option<String>,
    attempts: Option<i32>,
    lasted: Option<f64>,
    #[sqlx(default)]
    ended_ago: Option<f64>,
}

impl EndedRow {
    pub fn whole(self, run: RunId, state: RunState, reason: Option<DeathReason>, asked: Instant) -> WholeRun {
        // Without a moment of its own, it ended while it was asked for.
        let (lasted, ended_ago) = match self.ended_ago {
            Some(ago) => (duration(self.lasted), duration(Some(ago)) + asked.elapsed()),
            None => (duration(self.lasted) + asked.elapsed(), Duration::ZERO),
        };
        WholeRun {
            run,
            workflow: self.workflow,
            subject: self.subject,
            state,
            reason,
            attempts: count(self.attempts.unwrap_or_default()),
            lasted,
            ended_ago,
            traceparent: self.traceparent,
            asked_traceparent: self.asked_traceparent,
        }
    }
}

pub(super) async fn exceed(ledger: &Postgres, most: usize) -> Result<Vec<WholeRun>> {
    let late = Some(DeathReason::DeadlineExceeded);
    ended(ledger, "select * from sluice.exceed($1)", most, RunState::Dead, late).await
}

pub(super) async fn spans_that_wait(ledger: &Postgres, most: usize) -> Result<Vec<WholeRun>> {
    ended(ledger, "select * from sluice.spans_that_wait($1)", most, RunState::Cancelled, None).await
}

async fn ended(
    ledger: &Postgres,
    sql: &'static str,
    most: usize,
    state: RunState,
    reason: Option<DeathReason>,
) -> Result<Vec<WholeRun>> {
    let asked = Instant::now();
    let ended: Vec<Ended> = ledger.database.ask(sql, |ask| ask.bind(limit(most))).await?;
    Ok(ended.into_iter().map(|Ended { run_id, row }| row.whole(RunId::new(run_id), state, reason, asked)).collect())
}

/// Asks a function that says how many there were.
pub(super) async fn counted(ledger: &Postgres, sql: &'static str, most: usize) -> Result<usize> {
    let (count,): (i64,) = ledger.database.ask_one(sql, |ask| ask.bind(limit(most))).await?;
    Ok(usize::try_from(count).unwrap_or_default())
}

pub(super) async fn end_leases(ledger: &Postgres) -> Result<usize> {
    let (count,): (i64,) = ledger.database.ask_one("select sluice.end_leases()", |ask| ask).await?;
    Ok(usize::try_from(count).unwrap_or_default())
}

pub(super) async fn doubt(ledger: &Postgres, run: RunId) -> Result<()> {
    ledger.database.ask_one::<()>("select sluice.doubt($1)", |doubt| doubt.bind(run.uuid())).await?;
    Ok(())
}

pub(super) async fn look_again(ledger: &Postgres, most: usize) -> Result<usize> {
    let started: Vec<TakenRow> =
        ledger.database.ask("select * from sluice.look_again($1)", |look| look.bind(limit(most))).await?;
    Ok(started.len())
}

pub(super) async fn prune(ledger: &Postgres, retention: Duration, most: usize) -> Result<Pruned> {
    let sql = "select removed, unpublished from sluice.prune(make_interval(secs => $1), $2)";
    let prune = ledger.database.ask_one(sql, |prune| prune.bind(seconds(retention)).bind(limit(most)));
    let (removed, unpublished): (i64, i64) = prune.await?;
    Ok(Pruned { rows: removed.unsigned_abs(), unpublished: unpublished.unsigned_abs() })
}
