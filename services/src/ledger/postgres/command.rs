//! What a person does to a run: give a dead one a fresh budget, end one. Each leaves a row that says who and why.

use workflows::{ids::RunId, state::RunState};

use super::{
    By, Changed, Postgres, Result, Tx,
    run_end::{self, Ended, give_turn},
    seconds,
};
use crate::ledger::Error;
use crate::supabase::PendingRows;

pub(super) async fn revive(ledger: &Postgres, run: RunId, by: &By) -> Result<Changed> {
    let mut tx = ledger.begin().await?;
    let Some((state, subject)) = lock(&mut tx, run).await? else { return Ok(Changed::Missing) };
    if state != RunState::Dead {
        return Ok(Changed::No(state));
    }
    revive_in(ledger, &mut tx, run, by).await?;
    ledger.projection.write(&mut tx, &[subject], PendingRows::Keep).await?;
    tx.commit().await?;
    Ok(Changed::Yes)
}

/// Revive a run that is dead. Its failed step is due again at the run's turn, with a fresh budget and a fresh deadline;
/// finished steps keep their outputs. The public rows are the caller's to write.
pub(super) async fn revive_in(ledger: &Postgres, tx: &mut Tx, run: RunId, by: &By) -> Result<()> {
    let deadlines: Vec<_> = ledger.setup.registry.all().collect();
    let workflows: Vec<_> = deadlines.iter().map(|workflow| workflow.name.as_str()).collect();
    let versions: Vec<_> = deadlines.iter().map(|workflow| workflow.version).collect();
    let lengths: Vec<_> = deadlines.iter().map(|workflow| seconds(workflow.deadline)).collect();
    tx.query(
        "update sluice.run
         set state = 'active', ended_at = null, deadline_from = now(),
           linked_traceparent = coalesce(traceparent, linked_traceparent), traceparent = null,
           deadline_at = now() + coalesce(
             (
               select make_interval(secs => known.deadline)
               from unnest($2::text[], $3::smallint[], $4::float8[]) as known (workflow, version, deadline)
               where known.workflow = run.workflow
                 and known.version = run.version
             ),
             interval '1 day')
         where id = $1
           and state = 'dead'",
    )
    .bind(run.uuid())
    .bind(&workflows)
    .bind(&versions)
    .bind(&lengths)
    .execute(tx.connection())
    .await?;
    tx.query(
        "update sluice.step
         set state = 'due', due_at = null, failures = 0, crashes = 0, send_backs = 0, defers = 0
         where run_id = $1
           and state = 'dead'",
    )
    .bind(run.uuid())
    .execute(tx.connection())
    .await?;
    resolve(tx, run, "revived", by).await?;
    audit(tx, run, "revive", by).await?;
    let names = lock_resource(tx, run).await?;
    give_turn(tx, &names).await
}

pub(super) async fn cancel(ledger: &Postgres, run: RunId, by: &By) -> Result<Changed> {
    end_by_hand(ledger, run, by, &[RunState::Active, RunState::Dead]).await
}

pub(super) async fn discard(ledger: &Postgres, run: RunId, by: &By) -> Result<Changed> {
    end_by_hand(ledger, run, by, &[RunState::Dead]).await
}

async fn end_by_hand(ledger: &Postgres, run: RunId, by: &By, from: &[RunState]) -> Result<Changed> {
    let mut tx = ledger.begin().await?;
    let Some((state, subject)) = lock(&mut tx, run).await? else { return Ok(Changed::Missing) };
    if !from.contains(&state) {
        return Ok(Changed::No(state));
    }
    tx.query("update sluice.run set cancel_by = $2, cancel_reason = $3 where id = $1")
        .bind(run.uuid())
        .bind(by.actor.clone())
        .bind(by.note.clone())
        .execute(tx.connection())
        .await?;
    audit(&mut tx, run, if state == RunState::Dead { "discard" } else { "cancel" }, by).await?;
    // Resource before steps, as a claim locks them.
    lock_resource(&mut tx, run).await?;
    let changed = if state == RunState::Active && is_running(&mut tx, run).await? {
        Changed::AtSettle
    } else {
        end_now(&mut tx, run, by).await?;
        Changed::Yes
    };
    ledger.projection.write(&mut tx, &[subject], PendingRows::Keep).await?;
    tx.commit().await?;
    Ok(changed)
}

async fn end_now(tx: &mut Tx, run: RunId, by: &By) -> Result<()> {
    resolve(tx, run, "discarded", by).await?;
    run_end::end(tx, &[Ended { run, state: RunState::Cancelled, death: None }]).await
}

/// The run, locked: its state cannot change before this transaction ends.
async fn lock(tx: &mut Tx, run: RunId) -> Result<Option<(RunState, String)>> {
    let row: Option<(String, String)> = tx
        .query_as("select state, subject from sluice.run where id = $1 for no key update")
        .bind(run.uuid())
        .fetch_optional(tx.connection())
        .await?;
    let Some((state, subject)) = row else { return Ok(None) };
    let state = state.parse().map_err(|error| Error::Unreadable(format!("{error}")))?;
    Ok(Some((state, subject)))
}

/// Whether a step of the run is running. Its steps are locked first: a claim comes before this or after it.
async fn is_running(tx: &mut Tx, run: RunId) -> Result<bool> {
    let states: Vec<(String,)> = tx
        .query_as("select state from sluice.step where run_id = $1 order by position for no key update")
        .bind(run.uuid())
        .fetch_all(tx.connection())
        .await?;
    Ok(states.iter().any(|(state,)| state == "running"))
}

async fn lock_resource(tx: &mut Tx, run: RunId) -> Result<Vec<String>> {
    let names: Vec<(String,)> = tx
        .query_as(
            "select name
             from sluice.resource
             where name = (select resource from sluice.run where id = $1)
             for no key update",
        )
        .bind(run.uuid())
        .fetch_all(tx.connection())
        .await?;
    Ok(names.into_iter().map(|row| row.0).collect())
}

async fn resolve(tx: &mut Tx, run: RunId, resolution: &'static str, by: &By) -> Result<()> {
    tx.query(
        "update sluice.dead_letter
         set resolved_at = now(), resolution = $2, resolved_by = $3, note = $4
         where run_id = $1
           and resolved_at is null",
    )
    .bind(run.uuid())
    .bind(resolution)
    .bind(by.actor.clone())
    .bind(by.note.clone())
    .execute(tx.connection())
    .await?;
    Ok(())
}

async fn audit(tx: &mut Tx, run: RunId, action: &'static str, by: &By) -> Result<()> {
    tx.query(
        "insert into sluice.audit (actor, action, subject, detail)
         select $2, 'run.' || $3, subject, jsonb_build_object('run', id, 'note', $4::text)
         from sluice.run
         where id = $1",
    )
    .bind(run.uuid())
    .bind(by.actor.clone())
    .bind(action)
    .bind(by.note.clone())
    .execute(tx.connection())
    .await?;
    Ok(())
}
