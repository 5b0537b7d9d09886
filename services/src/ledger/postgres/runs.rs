//! The way of a run: intake, what of it waits, and what a person does to it. One statement each.

use std::collections::BTreeMap;

use sqlx::FromRow;
use uuid::Uuid;
use workflows::ids::RunId;

use super::{By, Changed, DueKey, Intake, Postgres, Result, Traced, Waiting, duration, label, limit, parse};
use crate::ledger::{Due, TakenIn};

/// A row of `sluice.taken`.
#[derive(FromRow)]
pub(super) struct TakenRow {
    pub outcome: String,
    pub run_id: Option<Uuid>,
    pub workflow: String,
    pub subject: String,
    pub traceparent: Option<String>,
    pub linked: Option<String>,
    pub age: Option<f64>,
    pub step: Option<String>,
    pub step_position: Option<i16>,
    pub generation: Option<i32>,
}

pub(super) async fn intake(ledger: &Postgres, most: usize) -> Result<Intake> {
    let rows: Vec<TakenRow> =
        ledger.database.ask("select * from sluice.intake($1)", |intake| intake.bind(limit(most))).await?;
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

/// A row that cannot be read harms only itself: it is said and passed over.
pub(super) async fn waiting(ledger: &Postgres, most: usize) -> Result<Vec<Waiting>> {
    let sql = "select * from sluice.waiting($1, $2, $3)";
    let ask = ledger.database.ask(sql, |ask| ask.bind(ledger.queues.to_vec()).bind(limit(most)).bind(ledger.traced));
    let rows: Vec<WaitingRow> = ask.await?;
    let mut queues: BTreeMap<String, Waiting> = BTreeMap::new();
    for row in rows {
        let run = RunId::new(row.run_id);
        let workflow = match parse(&row.workflow) {
            Ok(workflow) => workflow,
            Err(error) => {
                tracing::error!(%run, position = row.step_position, %error, "cannot push this step: mend its row");
                continue;
            }
        };
        let queue = parse(&row.queue)?;
        let waiting = queues.entry(row.queue).or_insert_with(|| Waiting {
            queue,
            due: Vec::new(),
            most: row.capacity.map(|capacity| usize::try_from(capacity).unwrap_or_default()),
        });
        waiting.due.push(Due {
            key: DueKey { run, position: row.step_position, generation: row.generation },
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
pub(super) async fn keep_traces(ledger: &Postgres, contexts: &[Traced]) -> Result<Vec<bool>> {
    let runs: Vec<Uuid> = contexts.iter().map(|traced| traced.run.uuid()).collect();
    let (asked, was): (Vec<Uuid>, Vec<_>) = (runs.clone(), contexts.iter().map(|traced| traced.was.clone()).collect());
    let now: Vec<_> = contexts.iter().map(|traced| traced.now.clone()).collect();
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
    let keep = ledger.database.ask(sql, |keep| keep.bind(asked).bind::<Vec<Option<String>>>(was).bind(now));
    let kept: Vec<(Uuid,)> = keep.await?;
    Ok(runs.iter().map(|run| kept.iter().any(|(id,)| id == run)).collect())
}

pub(super) async fn revive(ledger: &Postgres, run: RunId, by: &By) -> Result<Changed> {
    let By { actor, note } = by.clone();
    let sql = "select sluice.revive($1, $2, $3)";
    let revive = ledger.database.ask_one(sql, |revive| revive.bind(run.uuid()).bind(actor).bind(note));
    let (before,): (Option<String>,) = revive.await?;
    Ok(match before.as_deref() {
        None => Changed::Missing,
        Some("dead") => Changed::Yes,
        Some(state) => Changed::No(label(state)?),
    })
}

/// Which runs a person may end.
#[derive(PartialEq)]
pub(super) enum Which {
    ActiveOrDead,
    Dead,
}

pub(super) async fn end(ledger: &Postgres, run: RunId, by: &By, which: Which) -> Result<Changed> {
    let By { actor, note } = by.clone();
    let (sql, only_dead) = ("select sluice.cancel($1, $2, $3, $4)", which == Which::Dead);
    let end = ledger.database.ask_one(sql, |end| end.bind(run.uuid()).bind(actor).bind(note).bind(only_dead));
    let (answer,): (Option<String>,) = end.await?;
    Ok(match answer.as_deref() {
        None => Changed::Missing,
        Some("yes") => Changed::Yes,
        Some("at_settle") => Changed::AtSettle,
        Some(state) => Changed::No(label(state)?),
    })
}
