//! What waits, and before which gate. The gauges show the same, by the same statements.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, types::Json};

use super::{Postgres, Result, begin, capped};
use crate::{database::Tx, ledger::Scope};

/// The most gates that are shown.
const GATES: usize = 500;

/// Where counting stops: then the number says "at least". So many take some 70 ms.
pub const COUNTED: i32 = 20_001;

/// The live steps of one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, FromRow)]
pub struct Steps {
    pub step: String,
    /// Due now, and no gate is closed before it.
    pub due: i64,
    /// Due now, behind a closed gate.
    pub held: i64,
    /// Due later: a delay after a failure.
    pub scheduled: i64,
    /// For an earlier step, or the run's turn on its resource.
    pub waiting: i64,
    pub running: i64,
    /// There are more than were counted.
    pub capped: bool,
    /// When the oldest step that is due or running, and not held, became due.
    pub oldest_unfinished_at: Option<DateTime<Utc>>,
    /// What of it is due or running, and not held, by workflow: of every workflow that has this
    /// step.
    pub unfinished: Json<Vec<Unfinished>>,
    /// Whether the gates of the step and its host pass.
    pub passes: bool,
    /// Why they do not, or not for everybody.
    pub reason: Option<String>,
}

/// Work of one workflow in one queue that no gate holds back, wherever it waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    pub workflow: String,
    pub count: i64,
    /// When the oldest of it became due.
    pub oldest_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, FromRow)]
pub struct Gate {
    pub scope: String,
    pub name: String,
    pub paused_at: Option<DateTime<Utc>>,
    pub paused_by: Option<String>,
    /// Only where it is not over.
    pub hold_until: Option<DateTime<Utc>>,
    pub hold_reason: Option<String>,
    /// Step starts per second.
    pub rate: Option<f64>,
    pub concurrency: Option<i32>,
    pub breaker: String,
    pub breaker_at: Option<DateTime<Utc>>,
    pub breaker_reason: Option<String>,
    /// Neither paused, nor held, nor is its breaker open. A half-open one lets one run through at a
    /// time.
    pub passes: bool,
}

/// Dead letters that wait for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromRow)]
pub struct OpenLetters {
    pub reason: String,
    pub step: String,
    pub count: i64,
    pub oldest_died_at: DateTime<Utc>,
}

/// Rows of the app that could not be written yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, FromRow)]
pub struct Pending {
    pub count: i64,
    pub oldest_since: Option<DateTime<Utc>>,
}

/// Why the database takes no writes, or is not meant to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadOnly {
    /// It follows another server.
    Standby,
    /// `default_transaction_read_only` is on for the server, the database or the login.
    ByDefault,
}

/// None where it takes writes as any other does.
pub async fn read_only(ledger: &Postgres) -> Result<Option<ReadOnly>> {
    let mut tx = begin(ledger).await?;
    let sql = "select pg_catalog.pg_is_in_recovery(), reset_val = 'on'
        from pg_catalog.pg_settings
        where name = 'default_transaction_read_only'";
    let (standby, by_default): (bool, bool) = tx.query_as(sql).fetch_one(tx.connection()).await?;
    Ok(if standby { Some(ReadOnly::Standby) } else { by_default.then_some(ReadOnly::ByDefault) })
}

/// Reads the indexes of live steps only, and looks at no run where no gate holds a part of a queue.
pub(super) async fn steps(tx: &mut Tx) -> Result<Vec<Steps>> {
    Ok(tx.query_as(STEPS).bind(COUNTED).fetch_all(tx.connection()).await?)
}

/// Public for the test that reads its plan.
pub const STEPS: &str = "
    with place as materialized (
      select known.step, state.*, known.workflow
      from (
        select distinct on (step, workflow) step, workflow, host
        from sluice.definition
        order by step, workflow, version desc
      ) as known
      cross join lateral sluice.gate_state(known.workflow, known.step, known.host) as state
    ),
    queue as materialized (
      select known.step, state.passes, state.reason,
        gates.all_pass, gates.any_passes, gates.one_at_a_time, gates.probe_run, gates.only_workflow
      from (
        select distinct on (step) step, host
        from sluice.definition
        order by step, version desc, workflow
        limit 100
      ) as known
      cross join lateral sluice.gate_state(null, known.step, known.host) as state
      cross join lateral (
        select bool_and(place.passes and not place.half_open) as all_pass,
          bool_or(place.passes) as any_passes,
          bool_and(not place.passes or place.half_open) as one_at_a_time,
          (array_agg(place.probe_run) filter (where place.half_open))[1] as probe_run,
          case when count(*) = 1 then min(place.workflow) end as only_workflow
        from place
        where place.step = known.step
      ) as gates
    ),
    waits as (
      select queue.step, sample.workflow,
        count(*) filter (where sample.due_at <= now() and not sample.is_held) as due,
        count(*) filter (where sample.due_at <= now() and sample.is_held) as held,
        count(*) filter (where sample.due_at > now()) as scheduled,
        count(*) filter (where sample.is_waiting) as waiting,
        0 as running,
        count(*) as counted,
        min(sample.due_at) filter (where sample.due_at <= now() and not sample.is_held) as oldest
      from queue
      cross join lateral (
        select first.due_at,
          -- Only where several workflows share the step.
          coalesce(queue.only_workflow, (
            select run.workflow
            from sluice.run
            where run.id = first.run_id
          )) as workflow,
          case
            when queue.all_pass or first.due_at is null or first.due_at > now() then false
            when not queue.any_passes then true
            when queue.one_at_a_time then first.run_id is distinct from queue.probe_run
            else coalesce((
              select not place.passes or (place.half_open and place.probe_run is distinct from first.run_id)
              from sluice.run
              join place on place.workflow = run.workflow and place.step = queue.step
              where run.id = first.run_id
            ), not queue.passes)
          end as is_held,
          case when first.due_at is null then (
            select run.state = 'active'
            from sluice.run
            where run.id = first.run_id
          ) end as is_waiting
        from (
          select step.run_id, step.due_at
          from sluice.step
          where step.name = queue.step
            and step.state = 'due'
          order by step.priority, step.due_at
          limit $1
        ) as first
        -- So that each row is judged once, and not in each count.
        offset 0
      ) as sample
      group by queue.step, sample.workflow
    ),
    works as (
      select queue.step, sample.workflow,
        0 as due, 0 as held, 0 as scheduled, 0 as waiting,
        count(*) as running,
        count(*) as counted,
        min(least(sample.due_at, sample.started_at)) as oldest
      from queue
      cross join lateral (
        select first.due_at, first.started_at,
          coalesce(queue.only_workflow, (
            select run.workflow
            from sluice.run
            where run.id = first.run_id
          )) as workflow
        from (
          select step.run_id, step.due_at, step.started_at
          from sluice.step
          where step.name = queue.step
            and step.state = 'running'
          limit $1
        ) as first
        offset 0
      ) as sample
      group by queue.step, sample.workflow
    ),
    share as (
      select step, workflow, sum(due) as due, sum(held) as held, sum(scheduled) as scheduled, sum(waiting) as waiting,
        sum(running) as running, min(oldest) as oldest
      from (table waits union all table works) as both_kinds
      group by step, workflow
    ),
    counted as (
      select step, max(counted) as most
      from (
        select step, sum(counted) as counted from waits group by step
        union all
        select step, sum(counted) from works group by step
      ) as by_kind
      group by step
    )
    select queue.step, queue.passes, queue.reason, of_step.due, of_step.held, of_step.scheduled, of_step.waiting,
      of_step.running, coalesce(counted.most >= $1, false) as capped, of_step.oldest as oldest_unfinished_at,
      of_step.unfinished
    from queue
    cross join lateral (
      select coalesce(sum(share.due), 0)::bigint as due,
        coalesce(sum(share.held), 0)::bigint as held,
        coalesce(sum(share.scheduled), 0)::bigint as scheduled,
        coalesce(sum(share.waiting), 0)::bigint as waiting,
        coalesce(sum(share.running), 0)::bigint as running,
        min(share.oldest) as oldest,
        coalesce(
          jsonb_agg(
            jsonb_build_object(
              'workflow', workflow,
              'count', coalesce(share.due + share.running, 0),
              'oldest_at', share.oldest
            )
            order by workflow
          ) filter (where workflow is not null),
          '[]'
        ) as unfinished
      from (select workflow from place where place.step = queue.step) as known
      -- A workflow that no build has registered under this step has steps of old runs at most.
      full join (select * from share where share.step = queue.step) as share
        using (workflow)
    ) as of_step
    left join counted using (step)
    order by queue.step";

pub(super) async fn gates(tx: &mut Tx) -> Result<Vec<Gate>> {
    let sql = "select gate.scope, gate.name, gate.paused_at, gate.paused_by,
          case when gate.hold_until > now() then gate.hold_until end as hold_until,
          case when gate.hold_until > now() then gate.hold_reason end as hold_reason,
          gate.rate, gate.concurrency, gate.breaker, gate.breaker_at,
          case when gate.breaker <> 'closed' then gate.breaker_reason end as breaker_reason,
          not state.closed as passes
        from sluice.gate
        join sluice.gate_now as state
          using (scope, name)
        -- Of a host that no step calls any more, only what a person set.
        where gate.scope <> 'host'
          or exists (select from sluice.definition where definition.host = gate.name)
          or gate.paused_at is not null
          or gate.rate is not null
          or gate.concurrency is not null
        order by gate.scope, gate.name
        limit $1";
    Ok(tx.query_as(sql).bind(capped(GATES)).fetch_all(tx.connection()).await?)
}

pub(super) async fn open_letters(tx: &mut Tx) -> Result<Vec<OpenLetters>> {
    let sql = "select reason, step, count(*) as count, min(died_at) as oldest_died_at
        from (
          select reason, step, died_at
          from sluice.dead_letter
          where resolved_at is null
          limit $1
        ) as letter
        group by reason, step
        order by reason, step";
    Ok(tx.query_as(sql).bind(COUNTED).fetch_all(tx.connection()).await?)
}

pub(super) async fn pending_projections(tx: &mut Tx) -> Result<Pending> {
    let sql = "select count(*) as count, min(since) as oldest_since
        from (
          select since
          from sluice.projection_pending
          limit $1
        ) as pending";
    Ok(tx.query_as(sql).bind(COUNTED).fetch_one(tx.connection()).await?)
}

/// The names that a gate of this scope may have: what builds have registered, and what somebody has
/// set already.
pub async fn known(ledger: &Postgres, scope: Scope) -> Result<Vec<String>> {
    let mut tx = begin(ledger).await?;
    let sql = "select distinct name
        from (
          select case $1 when 'step' then step when 'workflow' then workflow else host end as name
          from sluice.definition
          union all
          select name
          from sluice.gate
          where scope = $1
        ) as known
        where name is not null
        order by name
        limit $2";
    let ask = tx.query_as(sql).bind(scope.as_str()).bind(capped(GATES));
    let names: Vec<(String,)> = ask.fetch_all(tx.connection()).await?;
    Ok(names.into_iter().map(|(name,)| name).collect())
}
