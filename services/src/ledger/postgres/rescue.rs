//! What nobody holds any more: leases that ran out, and runs past their deadline.

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    definition::LEASE,
    ids::{RunId, StepName},
    state::{DeathReason, RunState},
};

use super::{
    Expired, Postgres, Result,
    claim::{ClaimRow, parse},
    limit,
    run_end::{self, Death, Ended},
    seconds,
};
use crate::ledger::Claim;

#[derive(FromRow)]
struct ExpiredRow {
    #[sqlx(flatten)]
    claim: ClaimRow,
    /// How many seconds after the lease's end the worker last beat; less than nothing where that was before it.
    beat_after: Option<f64>,
}

/// No lease ends before Postgres has been up for one lease: its own outage is not a crash of its clients.
pub(super) async fn expired(ledger: &Postgres, most: usize) -> Result<Vec<Expired>> {
    let mut tx = ledger.begin().await?;
    let rows: Vec<ExpiredRow> = tx
        .query_as(
            "select
               step.run_id, step.position, step.token, step.name as step, step.attempts,
               step.failures, step.crashes, step.send_backs, step.defers,
               run.workflow, run.version, run.subject, run.traceparent, run.input,
               '{}'::integer[] as earlier_send_backs,
               instance.name as instance, instance.token as instance_token,
               true as created_before, true as paired_before, false as imported,
               run.id as turn, false as resource_busy, false as gate_closed,
               extract(epoch from heartbeat.beat_at - step.lease_until)::float8 as beat_after
             from sluice.step
             join sluice.run on run.id = step.run_id
             join sluice.instance on instance.subject = run.subject
             left join sluice.heartbeat on heartbeat.worker = step.worker
             where step.state = 'running'
               and step.lease_until < now()
               and now() > pg_postmaster_start_time() + make_interval(secs => $2)
             order by step.lease_until
             limit $1",
        )
        .bind(limit(most))
        .bind(seconds(LEASE))
        .fetch_all(tx.connection())
        .await?;
    tx.commit().await?;
    rows.into_iter()
        .map(|row| {
            let (claim, beat_after) = (row.claim.claim()?, row.beat_after);
            let worker_lives = beat_after.is_some_and(|after| after > 0.001 - seconds(lease_of(ledger, &claim)));
            Ok(Expired { claim, worker_lives })
        })
        .collect()
}

/// A worker that was killed moved all its leases with its last beat; one that beat later than it moved this lease lives.
fn lease_of(ledger: &Postgres, claim: &Claim) -> Duration {
    let workflow = ledger.setup.registry.find(&claim.workflow, claim.version);
    workflow.and_then(|workflow| workflow.step(claim.key.position)).map_or(LEASE, |step| step.lease)
}

/// Judged on due steps only, and not behind a closed gate: what is dispatched or running has its chance.
pub(super) async fn exceed(ledger: &Postgres, most: usize) -> Result<usize> {
    let mut tx = ledger.begin().await?;
    let rows: Vec<(Uuid, String, i16, String, Option<String>)> = tx
        .query_as(
            "select run.id, run.subject, step.position, step.name, step.error
             from sluice.run
             join sluice.step on step.run_id = run.id
             where run.state = 'active'
               and run.deadline_at < now()
               and step.state = 'due'
               and step.due_at is not null
               and not exists (
                 select from sluice.gate
                 where (gate.scope, gate.name) in (('workflow', run.workflow), ('step', step.name))
                   and (gate.paused_at is not null or gate.hold_until > now())
               )
             order by run.id
             limit $1
             for no key update of run, step skip locked",
        )
        .bind(limit(most))
        .fetch_all(tx.connection())
        .await?;
    let mut ended = Vec::with_capacity(rows.len());
    let mut subjects = Vec::with_capacity(rows.len());
    for (run, subject, position, step, error) in rows {
        let step = parse::<StepName>(&step)?;
        let death = Death { position, step, reason: DeathReason::DeadlineExceeded, class: None, error };
        ended.push(Ended { run: RunId::new(run), state: RunState::Dead, death: Some(death) });
        subjects.push(subject);
    }
    run_end::end(&mut tx, &ended).await?;
    ledger.projection.write(&mut tx, &subjects).await?;
    tx.commit().await?;
    Ok(ended.len())
}
