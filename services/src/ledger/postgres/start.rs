//! Starting runs: the instance row with our own token, the run, its first step, its turn on the resource.

use std::collections::HashMap;

use sqlx::FromRow;
use uuid::Uuid;
use workflows::{ids::RunId, state::RunState};

use super::{NewRun, Postgres, Result, Started, Tx, is_row_fault, seconds};
use crate::ledger::Error;
use crate::supabase::PendingRows;

pub(super) async fn start(ledger: &Postgres, runs: &[NewRun]) -> Result<Vec<Started>> {
    match start_together(ledger, runs).await {
        Err(error) if runs.len() > 1 && is_row_fault(&error) => {
            let mut started = Vec::with_capacity(runs.len());
            for run in runs {
                started.push(start_alone(ledger, run).await?);
            }
            Ok(started)
        }
        result => result,
    }
}

async fn start_alone(ledger: &Postgres, run: &NewRun) -> Result<Started> {
    match start_together(ledger, std::slice::from_ref(run)).await {
        Ok(mut started) => Ok(started.remove(0)),
        Err(error) if is_row_fault(&error) => Ok(Started::Refused(error.to_string())),
        Err(error) => Err(error),
    }
}

async fn start_together(ledger: &Postgres, runs: &[NewRun]) -> Result<Vec<Started>> {
    let mut tx = ledger.begin().await?;
    let started = start_in(ledger, &mut tx, runs).await?;
    let subjects: Vec<_> = runs.iter().map(|run| run.subject.as_str().to_owned()).collect();
    ledger.projection.write(&mut tx, &subjects, PendingRows::Keep).await?;
    tx.commit().await?;
    Ok(started)
}

#[derive(FromRow)]
struct ExistingRow {
    id: Uuid,
    workflow: String,
    subject: String,
    state: String,
}

/// Start runs inside the caller's transaction. The public rows are the caller's to write.
pub(super) async fn start_in(ledger: &Postgres, tx: &mut Tx, runs: &[NewRun]) -> Result<Vec<Started>> {
    lock_unfinished(tx, runs).await?;
    let names = ensure_instances(tx, runs).await?;
    lock_resources(tx, names.values()).await?;
    let inserted = insert_runs(ledger, tx, runs, &names).await?;
    insert_first_steps(ledger, tx, &inserted).await?;
    let existing = unfinished(tx, runs).await?;
    runs.iter().map(|run| answer(ledger, run, &names, &inserted, &existing)).collect()
}

fn answer(
    ledger: &Postgres,
    run: &NewRun,
    names: &HashMap<String, String>,
    inserted: &[Uuid],
    existing: &[ExistingRow],
) -> Result<Started> {
    if ledger.setup.registry.newest(&run.workflow).is_none() {
        return Ok(Started::Refused(format!("no workflow is called {}", run.workflow)));
    }
    if !names.contains_key(run.subject.as_str()) {
        let text = format!("the instance name {} belongs to another subject than {}", run.resource, run.subject);
        return Ok(Started::Refused(text));
    }
    let mine = |row: &&ExistingRow| row.workflow == run.workflow.as_str() && row.subject == run.subject.as_str();
    let Some(row) = existing.iter().find(mine) else {
        return Err(Error::Unreadable(format!("no unfinished run of {} after starting one", run.subject)));
    };
    if inserted.contains(&row.id) && row.id == run.id.uuid() {
        return Ok(Started::New(run.id));
    }
    let state: RunState = row.state.parse().map_err(|error| Error::Unreadable(format!("{error}")))?;
    Ok(Started::Joined(RunId::new(row.id), state))
}

/// The unfinished runs that may be joined: a settle that is ending one of them locks the run first, and the resource after.
async fn lock_unfinished(tx: &mut Tx, runs: &[NewRun]) -> Result<()> {
    let subjects: Vec<_> = runs.iter().map(|run| run.subject.as_str()).collect();
    tx.query(
        "select id
         from sluice.run
         where subject = any($1)
           and state in ('active', 'dead')
         order by id
         for no key update",
    )
    .bind(&subjects)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Every subject's instance row, made where there is none: subject → name. A name that another subject has is left out.
async fn ensure_instances(tx: &mut Tx, runs: &[NewRun]) -> Result<HashMap<String, String>> {
    let mut wanted: Vec<_> =
        runs.iter().map(|run| (run.subject.as_str(), run.resource.as_str(), run.instance_token.expose())).collect();
    wanted.sort_unstable();
    let subjects: Vec<_> = wanted.iter().map(|row| row.0).collect();
    let names: Vec<_> = wanted.iter().map(|row| row.1).collect();
    let tokens: Vec<_> = wanted.iter().map(|row| row.2).collect();
    tx.query(
        "insert into sluice.instance (subject, name, token)
         select subject, name, token
         from unnest($1::text[], $2::text[], $3::text[]) as wanted (subject, name, token)
         on conflict do nothing",
    )
    .bind(&subjects)
    .bind(&names)
    .bind(&tokens)
    .execute(tx.connection())
    .await?;
    let rows: Vec<(String, String)> = tx
        .query_as("select subject, name from sluice.instance where subject = any($1)")
        .bind(&subjects)
        .fetch_all(tx.connection())
        .await?;
    Ok(rows.into_iter().collect())
}

/// Make the resources' rows where there are none, and lock them: from here on their turn does not change.
async fn lock_resources(tx: &mut Tx, names: impl Iterator<Item = &String>) -> Result<()> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    tx.query(
        "insert into sluice.resource (name)
         select name
         from unnest($1::text[]) as wanted (name)
         on conflict do nothing",
    )
    .bind(&names)
    .execute(tx.connection())
    .await?;
    tx.query("select name from sluice.resource where name = any($1) order by name for update")
        .bind(&names)
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// The ids of the runs that are new. Where one is unfinished already, the partial unique index refuses a second.
async fn insert_runs(
    ledger: &Postgres,
    tx: &mut Tx,
    runs: &[NewRun],
    names: &HashMap<String, String>,
) -> Result<Vec<Uuid>> {
    let mut inserted = Vec::new();
    let known: Vec<_> = runs
        .iter()
        .filter_map(|run| Some((run, ledger.setup.registry.newest(&run.workflow)?, names.get(run.subject.as_str())?)))
        .collect();
    let ids: Vec<_> = known.iter().map(|(run, ..)| run.id.uuid()).collect();
    let workflows: Vec<_> = known.iter().map(|(run, ..)| run.workflow.as_str()).collect();
    let versions: Vec<_> = known.iter().map(|(_, workflow, _)| workflow.version).collect();
    let priorities: Vec<_> = known.iter().map(|(_, workflow, _)| workflow.priority).collect();
    let deadlines: Vec<_> = known.iter().map(|(_, workflow, _)| seconds(workflow.deadline)).collect();
    let subjects: Vec<_> = known.iter().map(|(run, ..)| run.subject.as_str()).collect();
    let resources: Vec<_> = known.iter().map(|(.., name)| name.as_str()).collect();
    let inputs: Vec<_> = known.iter().map(|(run, ..)| run.input.clone()).collect();
    let traces: Vec<_> = known.iter().map(|(run, ..)| run.traceparent.as_deref()).collect();
    let ages: Vec<_> = known.iter().map(|(run, ..)| seconds(run.age)).collect();
    let rows: Vec<(Uuid,)> = tx
        .query_as(
            "insert into sluice.run
               (id, workflow, version, subject, resource, input, priority, traceparent, deadline_at, requested_at)
             select id, workflow, version, subject, resource, input, priority, traceparent,
               now() + make_interval(secs => deadline),
               -- Who asks again, with a row as old as the first request, is served from now on.
               case
                 when exists (
                   select from sluice.run as earlier
                   where earlier.subject = wanted.subject
                     and earlier.workflow = wanted.workflow
                 ) then now()
                 else now() - make_interval(secs => age)
               end
             from unnest($1::uuid[], $2::text[], $3::smallint[], $4::text[], $5::text[], $6::jsonb[], $7::smallint[],
               $8::text[], $9::float8[], $10::float8[])
               as wanted (id, workflow, version, subject, resource, input, priority, traceparent, deadline, age)
             on conflict (workflow, subject) where state in ('active', 'dead') do nothing
             returning id",
        )
        .bind(&ids)
        .bind(&workflows)
        .bind(&versions)
        .bind(&subjects)
        .bind(&resources)
        .bind(&inputs)
        .bind(&priorities)
        .bind(&traces)
        .bind(&deadlines)
        .bind(&ages)
        .fetch_all(tx.connection())
        .await?;
    inserted.extend(rows.into_iter().map(|row| row.0));
    Ok(inserted)
}

/// Give each new run its first step: due now where it is the run's turn on its resource, else waiting for it.
async fn insert_first_steps(ledger: &Postgres, tx: &mut Tx, inserted: &[Uuid]) -> Result<()> {
    tx.query(
        "update sluice.resource as held
         set run_id = first.id
         from (
           select distinct on (resource) resource, id
           from sluice.run
           where id = any($1)
           order by resource, created_at, id
         ) as first
         where held.name = first.resource
           and held.run_id is null",
    )
    .bind(inserted)
    .execute(tx.connection())
    .await?;
    let registry = &ledger.setup.registry;
    let firsts: Vec<_> =
        registry.all().filter_map(|w| Some((w.name.as_str(), w.version, w.step(0)?.name.as_str()))).collect();
    let workflows: Vec<_> = firsts.iter().map(|first| first.0).collect();
    let versions: Vec<_> = firsts.iter().map(|first| first.1).collect();
    let steps: Vec<_> = firsts.iter().map(|first| first.2).collect();
    tx.query(
        "insert into sluice.step (run_id, position, name, priority, due_at)
         select run.id, 0, first.step, run.priority, case when held.run_id = run.id then now() end
         from sluice.run as run
         join unnest($2::text[], $3::smallint[], $4::text[]) as first (workflow, version, step)
           on first.workflow = run.workflow and first.version = run.version
         join sluice.resource as held
           on held.name = run.resource
         where run.id = any($1)",
    )
    .bind(inserted)
    .bind(&workflows)
    .bind(&versions)
    .bind(&steps)
    .execute(tx.connection())
    .await?;
    Ok(())
}

async fn unfinished(tx: &mut Tx, runs: &[NewRun]) -> Result<Vec<ExistingRow>> {
    let subjects: Vec<_> = runs.iter().map(|run| run.subject.as_str()).collect();
    let rows = tx
        .query_as(
            "select id, workflow, subject, state
             from sluice.run
             where subject = any($1)
               and state in ('active', 'dead')",
        )
        .bind(&subjects)
        .fetch_all(tx.connection())
        .await?;
    Ok(rows)
}
