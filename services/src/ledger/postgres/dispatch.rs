//! From `due` to `dispatched`, and back where a push failed or Redis lost what it held.

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    breaker::{BETWEEN_RUNS, PREFER_UNTRIED, slow_start},
    ids::{RunId, StepName, Token},
};

use super::{Dispatched, Key, Postgres, Result, Tx, claim::parse, columns, limit, seconds};

#[derive(FromRow)]
struct GateRow {
    closed: bool,
    /// One run at a time is let through.
    half_open: bool,
    /// The runs that a half-open breaker lets through last.
    shunned: Vec<Uuid>,
    rate: Option<f64>,
    allowance: f64,
    idle: f64,
    open_for: Option<f64>,
    concurrency: Option<i32>,
}

impl GateRow {
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

/// The gate row of the queue is the lock: one relay at a time dispatches it, the others go on to the next queue.
pub(super) async fn dispatch(
    ledger: &Postgres,
    queue: &StepName,
    host: Option<&str>,
    tokens: &[Token],
) -> Result<Vec<Dispatched>> {
    let mut tx = ledger.begin().await?;
    let Some(gate) = lock_step_gate(&mut tx, queue).await? else {
        return Ok(Vec::new());
    };
    let host_gate = lock_host_gate(&mut tx, host).await?;
    let mut room = tokens.len().min(room_behind(&mut tx, &gate, Some(queue)).await?);
    if let Some(host_gate) = host_gate.as_ref().filter(|_| room > 0) {
        room = room.min(room_behind(&mut tx, host_gate, None).await?);
    }
    if room == 0 {
        return Ok(Vec::new());
    }
    let shunned = host_gate.as_ref().map(|gate| gate.shunned.as_slice()).unwrap_or_default();
    let dispatched = take_due(&mut tx, queue, &tokens[..room], shunned).await?;
    spend(&mut tx, "step", queue.as_str(), &gate, dispatched.len()).await?;
    if let (Some(host), Some(gate)) = (host, &host_gate) {
        spend(&mut tx, "host", host, gate, dispatched.len()).await?;
        if let (true, Some(first)) = (gate.half_open, dispatched.first()) {
            let_through(&mut tx, host, first).await?;
        }
    }
    tx.commit().await?;
    Ok(dispatched)
}

/// The gate of a queue, locked; none where another relay holds it.
async fn lock_step_gate(tx: &mut Tx, queue: &StepName) -> Result<Option<GateRow>> {
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
async fn lock_host_gate(tx: &mut Tx, host: Option<&str>) -> Result<Option<GateRow>> {
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
async fn room_behind(tx: &mut Tx, gate: &GateRow, queue: Option<&StepName>) -> Result<usize> {
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
async fn let_through(tx: &mut Tx, host: &str, dispatched: &Dispatched) -> Result<()> {
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

#[derive(FromRow)]
struct DispatchedRow {
    run_id: Uuid,
    position: i16,
    token: i64,
    traceparent: Option<String>,
}

/// Give the first due steps a token each. A paused or held workflow's steps stay, and those of `shunned` runs.
async fn take_due(tx: &mut Tx, queue: &StepName, tokens: &[Token], shunned: &[Uuid]) -> Result<Vec<Dispatched>> {
    let tokens: Vec<i64> = tokens.iter().map(|token| token.bits()).collect();
    let rows: Vec<DispatchedRow> = tx
        .query_as(
            "with picked as (
               select run_id, position
               from sluice.step
               where name = $1
                 and state = 'due'
                 and due_at <= now()
                 and run_id <> all($3::uuid[])
                 and not exists (
                   select from sluice.run
                   join sluice.gate
                     on gate.scope = 'workflow' and gate.name = run.workflow
                   where run.id = step.run_id
                     and (gate.paused_at is not null or gate.hold_until > now())
                 )
               order by priority, due_at
               limit cardinality($2::bigint[])
               for no key update skip locked
             ),
             numbered as (
               select run_id, position, ($2::bigint[])[row_number() over ()] as token
               from picked
             )
             update sluice.step as step
             set state = 'dispatched', token = numbered.token, dispatched_at = now(), worker = null
             from numbered
             join sluice.run on run.id = numbered.run_id
             where step.run_id = numbered.run_id
               and step.position = numbered.position
               and step.state = 'due'
             returning step.run_id, step.position, step.token, run.traceparent",
        )
        .bind(queue.as_str())
        .bind(&tokens)
        .bind(shunned.to_vec())
        .fetch_all(tx.connection())
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| Dispatched {
            key: Key { run: RunId::new(row.run_id), position: row.position, token: Token::new(row.token) },
            traceparent: row.traceparent,
        })
        .collect())
}

async fn spend(tx: &mut Tx, scope: &str, name: &str, gate: &GateRow, spent: usize) -> Result<()> {
    if gate.rate.is_none() || spent == 0 {
        return Ok(());
    }
    tx.query("update sluice.gate set allowance = $3, refilled_at = now() where scope = $1 and name = $2")
        .bind(scope.to_owned())
        .bind(name.to_owned())
        .bind(gate.allowance - spent as f64)
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// Asked at every tick: one probe of the index per queue.
pub(super) async fn due(ledger: &Postgres) -> Result<Vec<StepName>> {
    let queues: Vec<String> = ledger.setup.registry.queues().iter().map(ToString::to_string).collect();
    let mut tx = ledger.begin().await?;
    let rows: Vec<(String,)> = tx
        .query_as(
            "select queue.name
             from unnest($1::text[]) as queue (name)
             where exists (
               select from sluice.step
               where step.name = queue.name
                 and step.state = 'due'
                 and step.due_at <= now()
             )",
        )
        .bind(&queues)
        .fetch_all(tx.connection())
        .await?;
    tx.commit().await?;
    rows.into_iter().map(|(name,)| parse(&name)).collect()
}

pub(super) async fn put_back(ledger: &Postgres, keys: &[Key]) -> Result<usize> {
    let mut tx = ledger.begin().await?;
    let (runs, positions, tokens) = columns(keys);
    let done = tx
        .query(
            "update sluice.step as step
             set state = 'due', token = null, due_at = now()
             from unnest($1::uuid[], $2::smallint[], $3::bigint[]) as held (run_id, position, token)
             where step.run_id = held.run_id
               and step.position = held.position
               and step.token = held.token
               and step.state = 'dispatched'",
        )
        .bind(&runs)
        .bind(&positions)
        .bind(&tokens)
        .execute(tx.connection())
        .await?;
    tx.commit().await?;
    Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
}

/// Steps that are locked are being claimed this very moment: those are not lost.
pub(super) async fn lose_older(ledger: &Postgres, after: Duration) -> Result<usize> {
    let mut tx = ledger.begin().await?;
    let done = tx
        .query(
            "with lost as (
               select run_id, position
               from sluice.step
               where state = 'dispatched'
                 and dispatched_at <= now() - make_interval(secs => $1)
               order by run_id, position
               limit $2
               for no key update skip locked
             )
             update sluice.step as step
             set state = 'due', token = null, due_at = now()
             from lost
             where step.run_id = lost.run_id
               and step.position = lost.position
               and step.state = 'dispatched'",
        )
        .bind(seconds(after))
        .bind(limit(10_000))
        .execute(tx.connection())
        .await?;
    tx.commit().await?;
    Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
}
