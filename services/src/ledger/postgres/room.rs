//! How many steps the gates before a queue let through now: pause, hold, breaker, rate, concurrency.

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    breaker::{BETWEEN_RUNS, PREFER_UNTRIED, slow_start},
    ids::StepName,
};

use super::{Dispatched, Result, Scope, Tx, seconds};

#[derive(FromRow)]
pub(super) struct GateRow {
    closed: bool,
    /// One run at a time is let through.
    pub half_open: bool,
    /// The runs that a half-open breaker lets through last.
    pub shunned: Vec<Uuid>,
    rate: Option<f64>,
    allowance: f64,
    idle: f64,
    open_for: Option<f64>,
    concurrency: Option<i32>,
}

impl GateRow {
    /// Whether a step may have to wait here for its turn.
    pub fn is_limited(&self) -> bool {
        self.rate.is_some() || self.concurrency.is_some()
    }

    /// The rate that holds now, a host's slow start included, and the allowance by it: at most one second's worth.
    fn refilled(mut self) -> Self {
        let slow =
            self.open_for.and_then(|seconds| slow_start(Duration::try_from_secs_f64(seconds).unwrap_or_default()));
        self.rate = self.rate.into_iter().chain(slow).reduce(f64::min);
        if let Some(rate) = self.rate {
            self.allowance = (self.allowance + rate * self.idle).min(rate.max(1.0));
        }
        self
    }
}

/// The gate of a queue, locked; none where another relay holds it.
pub(super) async fn lock_step_gate(tx: &mut Tx, queue: &StepName) -> Result<Option<GateRow>> {
    let gate: Option<GateRow> = tx
        .query_as(
            "select
               paused_at is not null or coalesce(hold_until > now(), false) as closed,
               false as half_open, '{}'::uuid[] as shunned,
               rate, allowance, extract(epoch from now() - refilled_at)::float8 as idle,
               null::float8 as open_for, concurrency
             from sluice.gate
             where scope = 'step'
               and name = $1
             for no key update skip locked",
        )
        .bind(queue.as_str())
        .fetch_optional(tx.connection())
        .await?;
    Ok(gate.map(GateRow::refilled))
}

/// The gate of the API's host, locked: the queues share its rate, its concurrency and its breaker. A half-open breaker is
/// closed to others while the run that it let through is under way.
pub(super) async fn lock_host_gate(tx: &mut Tx, host: Option<&str>) -> Result<Option<GateRow>> {
    let gate: Option<GateRow> = tx
        .query_as(
            "select
               paused_at is not null or coalesce(hold_until > now(), false) or breaker = 'open'
                 or (breaker = 'half_open' and (probe_at > now() or exists (
                   select from sluice.step
                   where step.run_id = gate.probe_run
                     and step.state in ('dispatched', 'running')
                 ))) as closed,
               breaker = 'half_open' as half_open,
               case when breaker = 'half_open' and breaker_at > now() - make_interval(secs => $2)
                 then failing_runs else '{}' end as shunned,
               rate, allowance, extract(epoch from now() - refilled_at)::float8 as idle,
               extract(epoch from now() - greatest(reopened_at, hold_until))::float8 as open_for,
               concurrency
             from sluice.gate
             where scope = 'host'
               and name = $1
             for no key update of gate",
        )
        .bind(host)
        .bind(seconds(PREFER_UNTRIED))
        .fetch_optional(tx.connection())
        .await?;
    Ok(gate.map(GateRow::refilled))
}

/// How many steps a gate lets through now: a queue's counts its own steps, a host's all.
pub(super) async fn room_behind(tx: &mut Tx, gate: &GateRow, queue: Option<&StepName>) -> Result<usize> {
    let mut room = match (gate.closed, gate.half_open) {
        (true, _) => return Ok(0),
        (false, true) => 1,
        (false, false) => usize::MAX,
    };
    if gate.rate.is_none() && gate.concurrency.is_none() {
        return Ok(room);
    }
    let (dispatched, running) = outstanding(tx, queue).await?;
    if let Some(rate) = gate.rate {
        let second = rate.max(1.0) as usize;
        room = room.min(gate.allowance.max(0.0) as usize).min(second.saturating_sub(dispatched));
    }
    if let Some(concurrency) = gate.concurrency {
        let places = usize::try_from(concurrency).unwrap_or(0);
        room = room.min(places.saturating_sub(dispatched + running));
    }
    Ok(room)
}

async fn outstanding(tx: &mut Tx, queue: Option<&StepName>) -> Result<(usize, usize)> {
    let (dispatched, running): (i64, i64) = tx
        .query_as(
            "select count(*) filter (where state = 'dispatched'), count(*) filter (where state = 'running')
             from sluice.step
             where state in ('dispatched', 'running')
               and ($1::text is null or name = $1)",
        )
        .bind(queue.map(|queue| queue.as_str().to_owned()))
        .fetch_one(tx.connection())
        .await?;
    let count = |count: i64| usize::try_from(count).unwrap_or(0);
    Ok((count(dispatched), count(running)))
}

/// The half-open breaker's one run. The next is let through when this one is no longer under way, and not at once: what it
/// heard is reported meanwhile.
pub(super) async fn let_through(tx: &mut Tx, host: &str, dispatched: &Dispatched) -> Result<()> {
    tx.query(
        "update sluice.gate
         set probe_run = $2, probe_at = now() + make_interval(secs => $3)
         where scope = 'host'
           and name = $1
           and breaker = 'half_open'",
    )
    .bind(host.to_owned())
    .bind(dispatched.key.run.uuid())
    .bind(seconds(BETWEEN_RUNS))
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// What was dispatched is taken from the allowance.
pub(super) async fn spend(tx: &mut Tx, scope: Scope, name: &str, gate: &GateRow, spent: usize) -> Result<()> {
    if gate.rate.is_none() || spent == 0 {
        return Ok(());
    }
    tx.query("update sluice.gate set allowance = $3, refilled_at = now() where scope = $1 and name = $2")
        .bind(scope.as_str())
        .bind(name.to_owned())
        .bind(gate.allowance - spent as f64)
        .execute(tx.connection())
        .await?;
    Ok(())
}
