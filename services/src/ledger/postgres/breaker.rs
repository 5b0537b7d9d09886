//! The breaker of an API host, in its gate row. What follows from a report or a probe is decided by `workflows::breaker`,
//! under the row's lock; the write is guarded by what was read. Every moment is the database's own.

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    breaker::{Breaker, Cause, Probed, Rules, Signal, State},
    ids::RunId,
};

use super::{HostGate, Postgres, Probe, Result, Scope, gate, seconds};
use crate::{database::Tx, ledger::Error};

pub(super) async fn report(
    ledger: &Postgres,
    host: &str,
    signals: &[Signal],
    rules: &Rules,
    jitter: f64,
) -> Result<HostGate> {
    let mut tx = ledger.database.begin().await?;
    let before = lock(&mut tx, host).await?;
    let after = before.clone().hear(signals, rules);
    if after != before {
        write(&mut tx, host, &before, &after, rules.pause(&after, jitter), rules.key_advice).await?;
    }
    let asked = signals.iter().filter_map(|signal| match signal {
        Signal::Hold(duration) => Some(*duration),
        _ => None,
    });
    if let Some(longest) = asked.max() {
        let reason = "the API asked to be left alone for so long (Retry-After)";
        gate::hold_in(&mut tx, Scope::Host, host, longest, reason).await?;
    }
    let seen = read(&mut tx, host).await?;
    tx.commit().await?;
    Ok(seen)
}

pub(super) async fn host_gate(ledger: &Postgres, host: &str) -> Result<HostGate> {
    let mut tx = ledger.database.begin().await?;
    let seen = read(&mut tx, host).await?;
    tx.commit().await?;
    Ok(seen)
}

/// Whoever moves `probe_at` on has the right until then; `probes` fences it.
pub(super) async fn probe(ledger: &Postgres, host: &str, lease: Duration) -> Result<Option<Probe>> {
    let mut tx = ledger.database.begin().await?;
    let row: Option<(i32,)> = tx
        .query_as(
            "update sluice.gate
             set probes = probes + 1, probe_at = now() + make_interval(secs => $2)
             where scope = 'host'
               and name = $1
               and breaker = 'open'
               and coalesce(probe_at, now()) <= now()
             returning probes",
        )
        .bind(host.to_owned())
        .bind(seconds(lease))
        .fetch_optional(tx.connection())
        .await?;
    tx.commit().await?;
    Ok(row.map(|(number,)| Probe { number: u32::try_from(number).unwrap_or_default() }))
}

pub(super) async fn probed(
    ledger: &Postgres,
    host: &str,
    probe: Probe,
    found: Probed,
    rules: &Rules,
    jitter: f64,
) -> Result<HostGate> {
    let mut tx = ledger.database.begin().await?;
    let before = lock(&mut tx, host).await?;
    if before.state == State::Open && before.probes == probe.number {
        let after = before.clone().probed(found);
        let pause = if after.state == State::HalfOpen { Duration::ZERO } else { rules.pause(&after, jitter) };
        write(&mut tx, host, &before, &after, pause, rules.key_advice).await?;
    }
    let seen = read(&mut tx, host).await?;
    tx.commit().await?;
    Ok(seen)
}

#[derive(FromRow)]
struct BreakerRow {
    breaker: String,
    breaker_cause: Option<String>,
    failing_runs: Vec<Uuid>,
    failing_for: f64,
    probes: i32,
    probe_run: Option<Uuid>,
}

/// The host's breaker, its row locked.
async fn lock(tx: &mut Tx, host: &str) -> Result<Breaker> {
    gate::ensure(tx, Scope::Host, host).await?;
    let row: BreakerRow = tx
        .query_as(
            "select breaker, breaker_cause, failing_runs,
               coalesce(extract(epoch from now() - failing_since), 0)::float8 as failing_for, probes, probe_run
             from sluice.gate
             where scope = 'host'
               and name = $1
             for no key update",
        )
        .bind(host.to_owned())
        .fetch_one(tx.connection())
        .await?;
    let unreadable = |error: workflows::breaker::Unknown| Error::Unreadable(error.to_string());
    Ok(Breaker {
        state: row.breaker.parse().map_err(unreadable)?,
        cause: row.breaker_cause.map(|cause| cause.parse::<Cause>()).transpose().map_err(unreadable)?,
        failing: row.failing_runs.into_iter().map(RunId::new).collect(),
        failing_for: Duration::try_from_secs_f64(row.failing_for).unwrap_or_default(),
        probes: u32::try_from(row.probes).unwrap_or_default(),
        probe_run: row.probe_run.map(RunId::new),
    })
}

/// The one transition of a breaker, guarded by what it was.
async fn write(
    tx: &mut Tx,
    host: &str,
    before: &Breaker,
    after: &Breaker,
    pause: Duration,
    advice: &str,
) -> Result<()> {
    let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let failing: Vec<Uuid> = after.failing.iter().map(|run| run.uuid()).collect();
    tx.query(
        "update sluice.gate
         set breaker = $4, breaker_cause = $5, breaker_reason = $6, failing_runs = $7,
           failing_since = case when cardinality($7) > 0 then now() - make_interval(secs => $8) end,
           probes = $9, probe_run = $10,
           probe_at = case when $4 = 'closed' then null else now() + make_interval(secs => $11) end,
           breaker_at = case when breaker = $4 then breaker_at else now() end,
           reopened_at = case when $4 = 'closed' and breaker <> 'closed' then now() else reopened_at end,
           updated_at = now()
         where scope = 'host'
           and name = $1
           and breaker = $2
           and probes = $3",
    )
    .bind(host.to_owned())
    .bind(before.state.as_str())
    .bind(number(before.probes))
    .bind(after.state.as_str())
    .bind(after.cause.map(Cause::as_str))
    .bind(after.cause.map(|cause| cause.reason(host, advice)))
    .bind(failing)
    .bind(seconds(after.failing_for))
    .bind(number(after.probes))
    .bind(after.probe_run.map(RunId::uuid))
    .bind(seconds(pause))
    .execute(tx.connection())
    .await?;
    Ok(())
}

async fn read(tx: &mut Tx, host: &str) -> Result<HostGate> {
    let row: Option<(String, bool, bool, Option<f64>)> = tx
        .query_as(
            "select breaker, cardinality(failing_runs) > 0, breaker = 'open' and coalesce(probe_at, now()) <= now(),
               extract(epoch from now() - reopened_at)::float8
             from sluice.gate
             where scope = 'host'
               and name = $1",
        )
        .bind(host.to_owned())
        .fetch_optional(tx.connection())
        .await?;
    let Some((breaker, failing, probe_due, closed_for)) = row else { return Ok(HostGate::default()) };
    let breaker = breaker.parse().map_err(|error: workflows::breaker::Unknown| Error::Unreadable(error.to_string()))?;
    let closed_for = closed_for.map(|ago| Duration::try_from_secs_f64(ago).unwrap_or_default());
    Ok(HostGate { breaker, failing, probe_due, closed_for })
}
