//! What nobody holds any more: leases that ran out, and runs past their deadline.

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    definition::LEASE,
    ids::RunId,
    state::{DeathReason, RunState},
};

use super::{
    Expired, Postgres, Result, Tx,
    claim::ClaimRow,
    limit,
    run_end::{self, Death, Ended},
    seconds,
};
use crate::ledger::Claim;
use crate::supabase::PendingRows;
use crate::telemetry::{spans, trace};

#[derive(FromRow)]
struct ExpiredRow {
    #[sqlx(flatten)]
    claim: ClaimRow,
    /// How many seconds after the lease's end the worker last beat; less than nothing where that was before it.
    beat_after: Option<f64>,
}

/// A row that cannot be read harms only itself: it is said, passed over, and takes no place from one that can be.
pub(super) async fn expired(ledger: &Postgres, most: usize) -> Result<Vec<Expired>> {
    let mut passed_over = 0;
    loop {
        let rows = read_expired(ledger, most, passed_over).await?;
        let (asked, mut expired) = (rows.len(), Vec::with_capacity(rows.len()));
        for row in rows {
            let (key, beat_after) = (row.claim.key(), row.beat_after);
            match row.claim.claim() {
                Ok(claim) => {
                    let worker_lives =
                        beat_after.is_some_and(|after| after > 0.001 - seconds(lease_of(ledger, &claim)));
                    expired.push(Expired { claim, worker_lives });
                }
                Err(error) => {
                    tracing::error!(run = %key.run, position = key.position, %error, "cannot rescue this step: mend its row");
                    passed_over += 1;
                }
            }
        }
        if !expired.is_empty() || asked < most {
            return Ok(expired);
        }
    }
}

/// No lease ends before Postgres has been up for one lease: its own outage is not a crash of its clients. What is of a
/// definition that this build does not know is left to a relay that knows it.
async fn read_expired(ledger: &Postgres, most: usize, passed_over: usize) -> Result<Vec<ExpiredRow>> {
    let (workflows, versions): (Vec<String>, Vec<i16>) =
        ledger.setup.registry.all().map(|known| (known.name.to_string(), known.version)).unzip();
    let mut tx = ledger.begin().await?;
    let rows = tx
        .query_as(
            "select
               step.run_id, step.position, step.token, step.name as step, step.attempts,
               step.failures, step.crashes, step.send_backs, step.defers,
               run.workflow, run.version, run.subject, run.traceparent, run.input,
               extract(epoch from now() - run.requested_at)::float8 as age,
               '{}'::integer[] as earlier_send_backs,
               instance.name as instance, instance.token as instance_token,
               true as created_before, true as paired_before, false as imported,
               run.id as turn, false as resource_busy, false as gate_closed,
               extract(epoch from heartbeat.beat_at - step.lease_until)::float8 as beat_after
             from sluice.step
             join sluice.run on run.id = step.run_id
             join unnest($3::text[], $4::smallint[]) as known (workflow, version)
               on known.workflow = run.workflow
               and known.version = run.version
             join sluice.instance on instance.subject = run.subject
             left join sluice.heartbeat on heartbeat.worker = step.worker
             where step.state = 'running'
               and step.lease_until < now()
               and now() > pg_postmaster_start_time() + make_interval(secs => $2)
             order by step.lease_until, step.run_id
             limit $1
             offset $5",
        )
        .bind(limit(most))
        .bind(seconds(LEASE))
        .bind(&workflows)
        .bind(&versions)
        .bind(limit(passed_over))
        .fetch_all(tx.connection())
        .await?;
    tx.commit().await?;
    Ok(rows)
}

/// A worker that was killed moved all its leases with its last beat; one that beat later than it moved this lease lives.
fn lease_of(ledger: &Postgres, claim: &Claim) -> Duration {
    let workflow = ledger.setup.registry.find(&claim.workflow, claim.version);
    workflow.and_then(|workflow| workflow.step(claim.key.position)).map_or(LEASE, |step| step.lease)
}

#[derive(FromRow)]
struct LateRow {
    id: Uuid,
    workflow: String,
    subject: String,
    traceparent: Option<String>,
    position: i16,
    step: String,
    error: Option<String>,
    held: f64,
}

/// Judged on due steps only: what is dispatched or running has its chance, and what stands behind a closed gate is not late,
/// nor what waits for its turn behind a limit: it has its chance as soon as there is room.
/// The time that gates held a run is added to its deadline here, once the deadline is reached: opening a gate writes no runs.
pub(super) async fn exceed(ledger: &Postgres, host: Option<&str>, most: usize) -> Result<usize> {
    let mut tx = ledger.begin().await?;
    let (held, late): (Vec<_>, Vec<_>) =
        late(&mut tx, host, most).await?.into_iter().partition(|row: &LateRow| row.held > 0.0);
    give_back(&mut tx, &held).await?;
    let mut ended = Vec::with_capacity(late.len());
    let mut subjects = Vec::with_capacity(late.len());
    let mut spans = Vec::with_capacity(late.len());
    for row in late {
        let LateRow { id, workflow, subject, traceparent, position, step, error, .. } = row;
        spans.push((id, spans::exceed(&workflow, id, traceparent.as_deref())));
        let death = Death { position, step, reason: DeathReason::DeadlineExceeded, class: None, error };
        ended.push(Ended { run: RunId::new(id), state: RunState::Dead, death: Some(death) });
        subjects.push(subject);
    }
    run_end::end(&mut tx, &ended).await?;
    ledger.projection.write(&mut tx, &subjects, PendingRows::Keep).await?;
    tx.commit().await?;
    for (run, span) in &spans {
        trace::keep(span);
        tracing::warn!(%run, trace_id = trace::id(span), "run died of its deadline: it needs a person");
    }
    Ok(ended.len())
}

/// The runs whose deadline has come, locked, and for how many seconds a gate before any of their steps was closed, or a limit
/// let one of them wait, since that was last accounted for. What overlaps counts once.
async fn late(tx: &mut Tx, host: Option<&str>, most: usize) -> Result<Vec<LateRow>> {
    let rows = tx
        .query_as(
            "select run.id, run.workflow, run.subject, run.traceparent, step.position, step.name as step, step.error,
               coalesce((
                 select extract(epoch from sum(upper(span) - lower(span)))::float8
                 from (
                   select unnest(range_agg(tstzrange(
                     greatest(shut.since, run.deadline_from), least(shut.until, now())))) as span
                   from (
                     select closure.closed_at, closure.opened_at
                     from sluice.closure
                     where (closure.scope, closure.name) in (('workflow', run.workflow), ('host', $2::text))
                       or (closure.scope = 'step'
                         and closure.name in (select own.name from sluice.step as own where own.run_id = run.id))
                     union all
                     select wait.due_at, wait.waited_until
                     from sluice.wait
                     where wait.run_id = run.id
                   ) as shut (since, until)
                   where greatest(shut.since, run.deadline_from) < least(shut.until, now())
                 ) as spans
               ), 0) as held
             from sluice.run
             join sluice.step on step.run_id = run.id
             where run.state = 'active'
               and run.deadline_at < now()
               and step.state = 'due'
               and step.due_at is not null
               and not exists (
                 select from sluice.gate
                 where (gate.scope, gate.name) in (('workflow', run.workflow), ('step', step.name), ('host', $2::text))
                   and (gate.paused_at is not null or gate.hold_until > now() or gate.breaker <> 'closed'
                     or (step.due_at <= now() and (gate.rate is not null or gate.concurrency is not null)))
               )
             order by run.id
             limit $1
             for no key update of run, step skip locked",
        )
        .bind(limit(most))
        .bind(host.map(str::to_owned))
        .fetch_all(tx.connection())
        .await?;
    Ok(rows)
}

/// Move the deadlines on by the time that was held.
async fn give_back(tx: &mut Tx, held: &[LateRow]) -> Result<()> {
    if held.is_empty() {
        return Ok(());
    }
    let runs: Vec<Uuid> = held.iter().map(|row| row.id).collect();
    let times: Vec<f64> = held.iter().map(|row| row.held).collect();
    tx.query(
        "update sluice.run as run
         set deadline_at = run.deadline_at + make_interval(secs => held.time), deadline_from = now()
         from unnest($1::uuid[], $2::float8[]) as held (id, time)
         where run.id = held.id",
    )
    .bind(&runs)
    .bind(&times)
    .execute(tx.connection())
    .await?;
    Ok(())
}
