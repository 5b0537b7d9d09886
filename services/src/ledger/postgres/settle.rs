//! How attempts end. One transaction for a batch; where the database refuses what one row holds, each row has its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    definition::EXCLUSIVE_CALL,
    ids::RunId,
    state::{RunState, StepState},
};

use super::{
    Key, Postgres, Result, Settled, Settlement, Tx, columns, is_row_fault, key,
    run_end::{self, Death, Ended},
    seconds,
};
use crate::ledger::settlement::{DueIn, Guard, Quiet, Then};
use crate::supabase::PendingRows;

pub(super) async fn settle(ledger: &Postgres, settlements: &[Settlement]) -> Result<Vec<Settled>> {
    match settle_together(ledger, settlements).await {
        Err(error) if is_row_fault(&error) => {
            let mut settled = Vec::with_capacity(settlements.len());
            for settlement in settlements {
                settled.push(match settle_together(ledger, std::slice::from_ref(settlement)).await {
                    Ok(mut alone) => alone.remove(0),
                    Err(error) if is_row_fault(&error) => Settled::Refused(error.to_string()),
                    Err(error) => return Err(error),
                });
            }
            Ok(settled)
        }
        result => result,
    }
}

async fn settle_together(ledger: &Postgres, settlements: &[Settlement]) -> Result<Vec<Settled>> {
    let mut tx = ledger.begin().await?;
    let runs = lock_runs(&mut tx, settlements).await?;
    let planned: BTreeMap<Key, Settlement> =
        settlements.iter().map(|settlement| (settlement.key, unless_cancelled(settlement, &runs))).collect();
    let won = move_steps(&mut tx, planned.values()).await?;
    let written: Vec<&Settlement> = planned.values().filter(|settlement| won.contains(&settlement.key)).collect();
    if !written.is_empty() {
        record_attempts(&mut tx, &written).await?;
        write_facts(&mut tx, &written, &runs).await?;
        free_resources(&mut tx, &written, &runs).await?;
        advance(&mut tx, &written).await?;
        rerun(&mut tx, &written).await?;
        let ended: Vec<Ended> = written.iter().filter_map(|settlement| ended(settlement)).collect();
        run_end::end(&mut tx, &ended).await?;
        let subjects: BTreeSet<_> =
            written.iter().filter_map(|s| Some(runs.get(&s.key.run)?.subject.clone())).collect();
        ledger.projection.write(&mut tx, &Vec::from_iter(subjects), PendingRows::Keep).await?;
    }
    tx.commit().await?;
    let answer = |key: &Key| match planned.get(key).filter(|_| won.contains(key)) {
        Some(settlement) => Settled::Done(state_after(settlement)),
        None => Settled::Stale,
    };
    Ok(settlements.iter().map(|settlement| answer(&settlement.key)).collect())
}

#[derive(FromRow)]
struct RunRow {
    id: Uuid,
    subject: String,
    resource: String,
    cancelled: bool,
}

/// The runs, locked in key order, so that a cancellation comes either before this settle or after it.
async fn lock_runs(tx: &mut Tx, settlements: &[Settlement]) -> Result<HashMap<RunId, RunRow>> {
    let ids: Vec<Uuid> = settlements.iter().map(|settlement| settlement.key.run.uuid()).collect();
    let rows: Vec<RunRow> = tx
        .query_as(
            "select id, subject, resource, cancel_by is not null as cancelled
             from sluice.run
             where id = any($1)
             order by id
             for no key update",
        )
        .bind(&ids)
        .fetch_all(tx.connection())
        .await?;
    Ok(rows.into_iter().map(|row| (RunId::new(row.id), row)).collect())
}

/// A run whose end was asked for ends now, unless this settle ends it as succeeded. What the attempt learnt is kept.
fn unless_cancelled(settlement: &Settlement, runs: &HashMap<RunId, RunRow>) -> Settlement {
    let mut settlement = settlement.clone();
    let asked = runs.get(&settlement.key.run).is_some_and(|run| run.cancelled);
    if asked && settlement.then != Then::Succeed {
        settlement.to = StepState::Cancelled;
        settlement.then = Then::Cancel;
    }
    settlement
}

/// The guarded move of every step. The keys that still held.
async fn move_steps(tx: &mut Tx, settlements: impl Iterator<Item = &Settlement> + Clone) -> Result<HashSet<Key>> {
    let keys: Vec<Key> = settlements.clone().map(|settlement| settlement.key).collect();
    let (runs, positions, tokens) = columns(&keys);
    let each = settlements;
    let expiry: Vec<_> = each.clone().map(|settlement| settlement.guard == Guard::Expiry).collect();
    let to: Vec<_> = each.clone().map(|settlement| settlement.to.as_str()).collect();
    let due: Vec<Option<f64>> = each.clone().map(due_seconds).collect();
    let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let failures: Vec<_> = each.clone().map(|settlement| number(settlement.spent.failures)).collect();
    let crashes: Vec<_> = each.clone().map(|settlement| number(settlement.spent.crashes)).collect();
    let defers: Vec<_> = each.clone().map(|settlement| number(settlement.spent.defers)).collect();
    let outputs: Vec<_> = each.clone().map(|settlement| settlement.output.clone()).collect();
    let errors: Vec<_> = each.clone().map(|settlement| settlement.attempt.error.clone()).collect();
    let rows: Vec<(Uuid, i16, i64)> = tx
        .query_as(
            "update sluice.step as step
             set state = ended.to_state, token = null, lease_until = null,
               due_at = case when ended.to_state = 'due' then now() + make_interval(secs => ended.due) end,
               failures = ended.failures, crashes = ended.crashes, defers = ended.defers,
               output = coalesce(ended.output, step.output), error = ended.error
             from unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::boolean[], $5::text[], $6::float8[],
                 $7::integer[], $8::integer[], $9::integer[], $10::jsonb[], $11::text[])
               as ended (run_id, position, token, expiry, to_state, due, failures, crashes, defers, output, error)
             where step.run_id = ended.run_id
               and step.position = ended.position
               and step.token = ended.token
               and step.state = 'running'
               and (not ended.expiry or step.lease_until < now())
             returning step.run_id, step.position, ended.token",
        )
        .bind(&runs)
        .bind(&positions)
        .bind(&tokens)
        .bind(&expiry)
        .bind(&to)
        .bind(&due)
        .bind(&failures)
        .bind(&crashes)
        .bind(&defers)
        .bind(&outputs)
        .bind(&errors)
        .fetch_all(tx.connection())
        .await?;
    Ok(rows.into_iter().map(key).collect())
}

fn due_seconds(settlement: &Settlement) -> Option<f64> {
    match settlement.due {
        DueIn::After(delay) => Some(seconds(delay)),
        DueIn::Waiting => None,
    }
}

async fn record_attempts(tx: &mut Tx, written: &[&Settlement]) -> Result<()> {
    let keys: Vec<Key> = written.iter().map(|settlement| settlement.key).collect();
    let (runs, positions, tokens) = columns(&keys);
    let each = || written.iter().map(|settlement| &settlement.attempt);
    let outcomes: Vec<_> = each().map(|attempt| attempt.outcome).collect();
    let classes: Vec<_> = each().map(|attempt| attempt.class.map(|class| class.as_str())).collect();
    let statuses: Vec<_> = each().map(|attempt| attempt.http_status.and_then(|s| i16::try_from(s).ok())).collect();
    let errors: Vec<_> = each().map(|attempt| attempt.error.as_deref()).collect();
    let notes: Vec<_> = each().map(|attempt| attempt.note.as_deref()).collect();
    let traces: Vec<_> = each().map(|attempt| attempt.trace_id.as_deref()).collect();
    let spans: Vec<_> = each().map(|attempt| attempt.span_id.as_deref()).collect();
    tx.query(
        "insert into sluice.attempt
           (run_id, position, step, token, worker, started_at, outcome, class, http_status, error, note, trace_id, span_id)
         select step.run_id, step.position, step.name, ended.token, step.worker, step.started_at,
           ended.outcome, ended.class, ended.http_status, ended.error, ended.note, ended.trace_id, ended.span_id
         from unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::text[], $5::text[], $6::smallint[], $7::text[],
             $8::text[], $9::text[], $10::text[])
           as ended (run_id, position, token, outcome, class, http_status, error, note, trace_id, span_id)
         join sluice.step as step
           on step.run_id = ended.run_id
           and step.position = ended.position",
    )
    .bind(&runs)
    .bind(&positions)
    .bind(&tokens)
    .bind(&outcomes)
    .bind(&classes)
    .bind(&statuses)
    .bind(&errors)
    .bind(&notes)
    .bind(&traces)
    .bind(&spans)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// What the attempts learnt about the instances. A column that nothing was learnt about stays.
async fn write_facts(tx: &mut Tx, written: &[&Settlement], runs: &HashMap<RunId, RunRow>) -> Result<()> {
    let learnt: Vec<_> = written
        .iter()
        .filter(|settlement| settlement.facts != Default::default())
        .filter_map(|settlement| Some((runs.get(&settlement.key.run)?.subject.as_str(), &settlement.facts)))
        .collect();
    if learnt.is_empty() {
        return Ok(());
    }
    let subjects: Vec<_> = learnt.iter().map(|(subject, _)| *subject).collect();
    let tokens: Vec<_> = learnt.iter().map(|(_, facts)| facts.token.as_ref().map(|token| token.expose())).collect();
    let statuses: Vec<_> = learnt.iter().map(|(_, facts)| facts.status.map(|status| status.as_str())).collect();
    let codes: Vec<_> = learnt.iter().map(|(_, facts)| facts.qr_code.as_ref().map(|code| code.expose())).collect();
    let urls: Vec<_> = learnt.iter().map(|(_, facts)| facts.webhook_url.as_deref()).collect();
    tx.query(
        "update sluice.instance as instance
         set token = coalesce(learnt.token, instance.token),
           status = coalesce(learnt.status, instance.status),
           paired_at = case when learnt.status = 'connected' then coalesce(instance.paired_at, now())
             else instance.paired_at end,
           qr_code = coalesce(learnt.qr_code, instance.qr_code),
           qr_at = case when learnt.qr_code is null then instance.qr_at else now() end,
           webhook_url = coalesce(learnt.webhook_url, instance.webhook_url),
           updated_at = now()
         from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
           as learnt (subject, token, status, qr_code, webhook_url)
         where instance.subject = learnt.subject",
    )
    .bind(&subjects)
    .bind(&tokens)
    .bind(&statuses)
    .bind(&codes)
    .bind(&urls)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Where the API has answered, the resource that an attempt kept busy is free. Where it may still be at work, it stays busy for
/// the time of one call from now on: the worker knows only that it had left before.
async fn free_resources(tx: &mut Tx, written: &[&Settlement], runs: &HashMap<RunId, RunRow>) -> Result<()> {
    let mut told: Vec<_> = written
        .iter()
        .filter(|settlement| settlement.quiet == Quiet::Yes || settlement.guard == Guard::Token)
        .filter_map(|settlement| {
            let name = runs.get(&settlement.key.run)?.resource.as_str();
            Some((name, settlement.key.token.bits(), settlement.quiet == Quiet::Yes))
        })
        .collect();
    told.sort_unstable();
    let names: Vec<_> = told.iter().map(|row| row.0).collect();
    let tokens: Vec<_> = told.iter().map(|row| row.1).collect();
    let quiet: Vec<_> = told.iter().map(|row| row.2).collect();
    tx.query(
        "update sluice.resource as resource
         set busy_until = case when not told.quiet
             then greatest(resource.busy_until, now() + make_interval(secs => $4)) end,
           busy_token = case when not told.quiet then resource.busy_token end
         from unnest($1::text[], $2::bigint[], $3::boolean[]) as told (name, token, quiet)
         where resource.name = told.name
           and resource.busy_token = told.token",
    )
    .bind(&names)
    .bind(&tokens)
    .bind(&quiet)
    .bind(seconds(EXCLUSIVE_CALL))
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// The step after each success: new, or one that waited for an earlier step to run again.
async fn advance(tx: &mut Tx, written: &[&Settlement]) -> Result<()> {
    let next: Vec<_> = written
        .iter()
        .filter_map(|settlement| match &settlement.then {
            Then::Advance(step) => Some((settlement.key.run.uuid(), settlement.key.position + 1, step.as_str())),
            _ => None,
        })
        .collect();
    if next.is_empty() {
        return Ok(());
    }
    let runs: Vec<_> = next.iter().map(|row| row.0).collect();
    let positions: Vec<_> = next.iter().map(|row| row.1).collect();
    let names: Vec<_> = next.iter().map(|row| row.2).collect();
    tx.query(
        "insert into sluice.step as step (run_id, position, name, priority, due_at)
         select next.run_id, next.position, next.name, run.priority, now()
         from unnest($1::uuid[], $2::smallint[], $3::text[]) as next (run_id, position, name)
         join sluice.run on run.id = next.run_id
         on conflict (run_id, position) do update
         set due_at = now()
         where step.state = 'due'",
    )
    .bind(&runs)
    .bind(&positions)
    .bind(&names)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// An earlier step is due again, and those between it and the sender wait for it.
async fn rerun(tx: &mut Tx, written: &[&Settlement]) -> Result<()> {
    for settlement in written {
        let Then::Rerun { position, send_backs } = settlement.then else { continue };
        tx.query(
            "update sluice.step
             set state = 'due',
               due_at = case when position = $2 then now() end,
               send_backs = case when position = $2 then $3 else send_backs end
             where run_id = $1
               and position >= $2
               and state = 'succeeded'",
        )
        .bind(settlement.key.run.uuid())
        .bind(position)
        .bind(i32::try_from(send_backs).unwrap_or(i32::MAX))
        .execute(tx.connection())
        .await?;
    }
    Ok(())
}

fn ended(settlement: &Settlement) -> Option<Ended> {
    let death = match &settlement.then {
        Then::Nothing | Then::Advance(_) | Then::Rerun { .. } => return None,
        Then::Succeed | Then::Cancel => None,
        Then::Die { position, step, reason } => Some(Death {
            position: *position,
            step: step.to_string(),
            reason: *reason,
            class: settlement.attempt.class,
            error: settlement.attempt.error.clone(),
        }),
    };
    Some(Ended { run: settlement.key.run, state: state_after(settlement), death })
}

fn state_after(settlement: &Settlement) -> RunState {
    match settlement.then {
        Then::Nothing | Then::Advance(_) | Then::Rerun { .. } => RunState::Active,
        Then::Succeed => RunState::Succeeded,
        Then::Cancel => RunState::Cancelled,
        Then::Die { .. } => RunState::Dead,
    }
}
