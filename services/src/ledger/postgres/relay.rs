//! What relays ask. One statement each, but to settle.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    definition::Registry,
    ids::RunId,
    state::{DeathReason, RunState},
};

use super::{
    Postgres, attempts, duration,
    ended::{EndedRow, ExpiredRow},
    limit, parse, seconds,
};
use crate::ledger::{
    Due, DueKey, Expired, Intake, Pruned, RelayLedger, Result, Settled, Settlement, TakenIn, Traced, Upkeep, Waiting,
    WholeRun,
};

/// A row of a step that cannot be read harms only itself: it is said and passed over.
impl RelayLedger for Postgres {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    async fn intake(&self, most: usize) -> Result<Intake> {
        let rows: Vec<TakenRow> =
            self.ask("select * from sluice.intake($1)", |intake| intake.bind(limit(most))).await?;
        let mut intake = Intake::default();
        for row in rows {
            let Some(run) = row.run_id.map(RunId::new) else {
                intake.failed += 1;
                continue;
            };
            intake.due.extend(row.due(run)?);
            match row.outcome.as_str() {
                "started" => intake.started.push(TakenIn {
                    run,
                    workflow: parse(&row.workflow)?,
                    subject: parse(&row.subject)?,
                    traceparent: row.traceparent,
                    age: duration(row.age),
                }),
                "revived" => intake.revived.push(run),
                _ => intake.joined += 1,
            }
        }
        Ok(intake)
    }

    async fn waiting(&self, most: usize) -> Result<Vec<Waiting>> {
        let sql = "select * from sluice.waiting($1, $2, $3)";
        let ask = self.ask(sql, |ask| ask.bind(self.queues.to_vec()).bind(limit(most)).bind(self.traced));
        let rows: Vec<WaitingRow> = ask.await?;
        let mut queues: BTreeMap<String, Waiting> = BTreeMap::new();
        for row in rows {
            let (run, position) = (RunId::new(row.run_id), row.step_position);
            let workflow = parse(&row.workflow).inspect_err(|error| {
                tracing::error!(%run, position, %error, "cannot push this step: mend its row");
            });
            let Ok(workflow) = workflow else { continue };
            let queue = parse(&row.queue)?;
            let waiting = queues.entry(row.queue).or_insert_with(|| Waiting {
                queue,
                due: Vec::new(),
                most: row.capacity.map(|capacity| usize::try_from(capacity).unwrap_or_default()),
            });
            waiting.due.push(Due {
                key: DueKey { run, position, generation: row.generation },
                step: waiting.queue.clone(),
                workflow,
                traceparent: row.traceparent,
                linked: row.linked,
            });
        }
        Ok(queues.into_values().collect())
    }

    /// Guarded by the context that was read: of two relays one wins, and the other one's context is
    /// nobody's.
    async fn keep_traces(&self, contexts: &[Traced]) -> Result<Vec<bool>> {
        let runs: Vec<Uuid> = contexts.iter().map(|traced| traced.run.uuid()).collect();
        let was: Vec<Option<String>> = contexts.iter().map(|traced| traced.was.clone()).collect();
        let now: Vec<String> = contexts.iter().map(|traced| traced.now.clone()).collect();
        let sql = "with given as (
              select run.id, given.was, given.now
              from unnest($1::uuid[], $2::text[], $3::text[]) as given (id, was, now)
              join sluice.run on run.id = given.id
              where run.traceparent is not distinct from given.was
              order by run.id
              for no key update of run
            )
            update sluice.run as run
            set traceparent = given.now
            from given
            where run.id = given.id
              and run.traceparent is not distinct from given.was
            returning run.id";
        let kept: Vec<(Uuid,)> = self.ask(sql, |keep| keep.bind(runs.clone()).bind(was).bind(now)).await?;
        Ok(runs.iter().map(|run| kept.iter().any(|(id,)| id == run)).collect())
    }

    async fn upkeep(&self) -> Result<Upkeep> {
        let sql = "select running, gone, expired, late, cancelled, unwritten, untold, doubted from sluice.upkeep()";
        self.ask_one(sql, |ask| ask).await
    }

    async fn end_leases(&self) -> Result<usize> {
        let (count,): (i64,) = self.ask_one("select sluice.end_leases()", |ask| ask).await?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    async fn expired(&self, most: usize) -> Result<Vec<Expired>> {
        let sql = "select * from sluice.expired($1, $2)";
        let rows: Vec<ExpiredRow> = self.ask(sql, |ask| ask.bind(self.known.to_vec()).bind(limit(most))).await?;
        let readable = rows.into_iter().filter_map(|row| {
            let (run, position) = (row.run_id, row.step_position);
            let expired = row.expired().inspect_err(|error| {
                tracing::error!(%run, position, %error, "cannot rescue this step: mend its row");
            });
            expired.ok()
        });
        Ok(readable.collect())
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        self.within(attempts::settle(self, settlements)).await
    }

    async fn exceed(&self, most: usize) -> Result<Vec<WholeRun>> {
        let late = Some(DeathReason::DeadlineExceeded);
        self.ended("select * from sluice.exceed($1)", most, RunState::Dead, late).await
    }

    async fn spans_that_wait(&self, most: usize) -> Result<Vec<WholeRun>> {
        self.ended("select * from sluice.spans_that_wait($1)", most, RunState::Cancelled, None).await
    }

    async fn project_pending(&self, most: usize) -> Result<usize> {
        self.counted("select sluice.project_pending($1)", most).await
    }

    async fn explain(&self, most: usize) -> Result<usize> {
        self.counted("select sluice.explain($1)", most).await
    }

    async fn look_again(&self, most: usize) -> Result<usize> {
        let started: Vec<()> = self.ask("select * from sluice.look_again($1)", |look| look.bind(limit(most))).await?;
        Ok(started.len())
    }
}

impl Postgres {
    /// Deletes up to `most` of each kind that ended longer than `retention` ago.
    pub async fn prune(&self, retention: Duration, most: usize) -> Result<Pruned> {
        let sql = "select removed, unpublished from sluice.prune(make_interval(secs => $1), $2)";
        let prune = self.ask_one(sql, |prune| prune.bind(seconds(retention)).bind(limit(most)));
        let (removed, unpublished): (i64, i64) = prune.await?;
        Ok(Pruned { rows: removed.unsigned_abs(), unpublished: unpublished.unsigned_abs() })
    }

    async fn ended(
        &self,
        sql: &'static str,
        most: usize,
        state: RunState,
        reason: Option<DeathReason>,
    ) -> Result<Vec<WholeRun>> {
        let asked = Instant::now();
        let ended: Vec<Ended> = self.ask(sql, |ask| ask.bind(limit(most))).await?;
        Ok(ended.into_iter().map(|Ended { run_id, row }| row.whole(RunId::new(run_id), state, reason, asked)).collect())
    }

    /// Asks a function that says how many there were.
    async fn counted(&self, sql: &'static str, most: usize) -> Result<usize> {
        let (count,): (i64,) = self.ask_one(sql, |ask| ask.bind(limit(most))).await?;
        Ok(usize::try_from(count).unwrap_or_default())
    }
}

/// A row of `sluice.taken`.
#[derive(FromRow)]
struct TakenRow {
    outcome: String,
    run_id: Option<Uuid>,
    workflow: String,
    subject: String,
    traceparent: Option<String>,
    linked: Option<String>,
    age: Option<f64>,
    step: Option<String>,
    step_position: Option<i16>,
    generation: Option<i32>,
}

impl TakenRow {
    /// The step that is due now, where one is.
    fn due(&self, run: RunId) -> Result<Option<Due>> {
        let (Some(step), Some(position), Some(generation)) = (&self.step, self.step_position, self.generation) else {
            return Ok(None);
        };
        Ok(Some(Due {
            key: DueKey { run, position, generation },
            step: parse(step)?,
            workflow: parse(&self.workflow)?,
            traceparent: self.traceparent.clone(),
            linked: self.linked.clone(),
        }))
    }
}

#[derive(FromRow)]
struct WaitingRow {
    queue: String,
    run_id: Uuid,
    step_position: i16,
    generation: i32,
    workflow: String,
    traceparent: Option<String>,
    linked: Option<String>,
    capacity: Option<i32>,
}

#[derive(FromRow)]
struct Ended {
    run_id: Uuid,
    #[sqlx(flatten)]
    row: EndedRow,
}
