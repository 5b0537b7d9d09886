//! How the whole system stands, for the metrics of relays. Taken by one statement, whose every part is a lookup in an index of
//! live rows or stops at `COUNTED` rows, and kept in one row that all relays share: however many relays and scrapers ask, it
//! is taken once in `max_age`.

use std::time::Duration;

use serde::Deserialize;
use sqlx::FromRow;

use super::{Postgres, Result, Tx, seconds};
use crate::ledger::Error;

/// Where counting stops: then the number says "at least". So many take some 70 ms, at most every few seconds.
pub const COUNTED: i32 = 20_001;

/// How the system stands. Ages are seconds.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Gauges {
    /// Of every queue that a relay serves.
    pub steps: Vec<StepGauges>,
    pub letters: Vec<LetterGauges>,
    pub gates: Vec<GateGauges>,
    pub event_lag: f64,
    pub projections_pending: u64,
}

/// The live steps of one queue.
#[derive(Debug, Clone, Deserialize)]
pub struct StepGauges {
    pub step: String,
    pub due: u64,
    /// Due, but behind a closed gate.
    pub held: u64,
    pub scheduled: u64,
    pub dispatched: u64,
    pub running: u64,
    /// How long the oldest step that is due, and not held, has been so; 0 where there is none.
    pub oldest: f64,
}

/// Open dead letters of one reason.
#[derive(Debug, Clone, Deserialize)]
pub struct LetterGauges {
    pub reason: String,
    pub count: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct GateGauges {
    pub scope: String,
    pub name: String,
    pub paused: bool,
    pub held: bool,
    pub breaker: String,
}

/// The gauges, none older than `max_age`, unless another relay is taking them this moment. `host` is the API's, whose gate
/// all steps share.
pub async fn gauges(ledger: &Postgres, host: Option<&str>, max_age: Duration) -> Result<Gauges> {
    let begin = "begin; \
        set local lock_timeout = '1s'; \
        set local statement_timeout = '2s'; \
        set local idle_in_transaction_session_timeout = '10s'";
    let mut tx =
        Tx { inner: ledger.pool.begin_with(begin).await?, pooling: ledger.pooling, guards: ledger.guards.clone() };
    let row = match take(&mut tx, host, max_age).await? {
        Some(fresh) => fresh,
        None => kept(&mut tx).await?,
    };
    tx.commit().await?;
    serde_json::from_value(row.taken).map_err(|error| Error::Unreadable(format!("gauges of another form ({error})")))
}

#[derive(FromRow)]
struct Row {
    taken: serde_json::Value,
}

async fn kept(tx: &mut Tx) -> Result<Row> {
    let row = tx.query_as("select taken from sluice.gauges").fetch_one(tx.connection()).await?;
    Ok(row)
}

/// Takes them where they are too old and nobody else does: whoever finds the row locked reads what is there.
async fn take(tx: &mut Tx, host: Option<&str>, max_age: Duration) -> Result<Option<Row>> {
    let row = tx
        .query_as(TAKE)
        .bind(seconds(max_age))
        .bind(host.map(str::to_owned))
        .bind(COUNTED)
        .fetch_optional(tx.connection())
        .await?;
    Ok(row)
}

/// Public for the test that reads its plan.
pub const TAKE: &str = "
    with mine as (
      select only_row
      from sluice.gauges
      where taken_at < now() - make_interval(secs => $1)
      for no key update skip locked
    ),
    closed as materialized (
      select scope, name
      from sluice.gate
      where paused_at is not null
        or hold_until > now()
        or breaker <> 'closed'
    ),
    queue as materialized (
      select gate.name as step,
        exists (
          select from closed
          where (closed.scope, closed.name) in (('step', gate.name), ('host', $2))
        ) as is_closed
      from sluice.gate
      where gate.scope = 'step'
      order by gate.name
      limit 100
    ),
    waits as (
      select queue.step,
        count(*) filter (where sample.due_at <= now() and not sample.is_held) as due,
        count(*) filter (where sample.due_at <= now() and sample.is_held) as held,
        count(*) filter (where sample.due_at > now()) as scheduled,
        extract(epoch from now() - min(sample.due_at) filter (where sample.due_at <= now() and not sample.is_held))
          as oldest
      from queue
      cross join lateral (
        select first.due_at,
          queue.is_closed or case
            when exists (select from closed where scope = 'workflow') then exists (
              select from sluice.run
              join closed on closed.scope = 'workflow' and closed.name = run.workflow
              where run.id = first.run_id
            )
            else false
          end as is_held
        from (
          select step.run_id, step.due_at
          from sluice.step
          where step.name = queue.step
            and step.state = 'due'
          order by step.priority, step.due_at
          limit $3
        ) as first
      ) as sample
      group by queue.step
    ),
    works as (
      select queue.step,
        count(*) filter (where sample.state = 'dispatched') as dispatched,
        count(*) filter (where sample.state = 'running') as running
      from queue
      cross join lateral (
        select step.state
        from sluice.step
        where step.name = queue.step
          and step.state in ('dispatched', 'running')
        limit $3
      ) as sample
      group by queue.step
    )
    update sluice.gauges as gauges
    set taken_at = now(),
      taken = (
        select jsonb_build_object(
          'steps', coalesce((
            select jsonb_agg(jsonb_build_object(
              'step', queue.step,
              'due', coalesce(waits.due, 0),
              'held', coalesce(waits.held, 0),
              'scheduled', coalesce(waits.scheduled, 0),
              'dispatched', coalesce(works.dispatched, 0),
              'running', coalesce(works.running, 0),
              'oldest', coalesce(waits.oldest, 0)
            ))
            from queue
            left join waits using (step)
            left join works using (step)
          ), '[]'),
          'letters', coalesce((
            select jsonb_agg(jsonb_build_object('reason', reason, 'count', letters))
            from (
              select reason, count(*) as letters
              from (select reason from sluice.dead_letter where resolved_at is null limit $3) as open
              group by reason
            ) as by_reason
          ), '[]'),
          'gates', coalesce((
            select jsonb_agg(jsonb_build_object(
              'scope', scope,
              'name', name,
              'paused', paused_at is not null,
              'held', coalesce(hold_until > now(), false),
              'breaker', breaker
            ))
            from (select * from sluice.gate order by scope, name limit 100) as gate
          ), '[]'),
          'event_lag', coalesce((
            select extract(epoch from now() - min(created_at))
            from sluice.event
            where published_at is null
          ), 0),
          'projections_pending', (
            select count(*)
            from (select from sluice.projection_pending limit $3) as pending
          )
        )
      )
    from mine
    where gauges.only_row = mine.only_row
    returning gauges.taken";
