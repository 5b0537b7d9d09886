//! From `due` to `dispatched`, and back where a push failed or Redis lost what it held.

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;
use workflows::ids::{RunId, StepName, Token};

use super::{
    Dispatched, Key, Postgres, Result, Scope, Tx,
    claim::parse,
    columns, limit,
    room::{GateRow, let_through, lock_host_gate, lock_step_gate, room_behind, spend},
    seconds,
};

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
        // A transaction that is only dropped keeps its gate until the pool comes to it, and the next dispatch passes by.
        tx.commit().await?;
        return Ok(Vec::new());
    }
    let shunned = host_gate.as_ref().map(|gate| gate.shunned.as_slice()).unwrap_or_default();
    let limited = std::iter::once(&gate).chain(&host_gate).any(GateRow::is_limited);
    let dispatched = take_due(&mut tx, queue, &tokens[..room], shunned).await?;
    if limited {
        note_waits(&mut tx, &dispatched).await?;
    }
    spend(&mut tx, Scope::Step, queue.as_str(), &gate, dispatched.len()).await?;
    if let (Some(host), Some(gate)) = (host, &host_gate) {
        spend(&mut tx, Scope::Host, host, gate, dispatched.len()).await?;
        if let (true, Some(first)) = (gate.half_open, dispatched.first()) {
            let_through(&mut tx, host, first).await?;
        }
    }
    tx.commit().await?;
    Ok(dispatched)
}

#[derive(FromRow)]
struct DispatchedRow {
    run_id: Uuid,
    position: i16,
    token: i64,
    workflow: String,
    traceparent: Option<String>,
    linked_traceparent: Option<String>,
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
             returning step.run_id, step.position, step.token, run.workflow, run.traceparent,
               run.linked_traceparent",
        )
        .bind(queue.as_str())
        .bind(&tokens)
        .bind(shunned.to_vec())
        .fetch_all(tx.connection())
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Dispatched {
                key: Key { run: RunId::new(row.run_id), position: row.position, token: Token::new(row.token) },
                workflow: parse(&row.workflow)?,
                traceparent: row.traceparent,
                linked: row.linked_traceparent,
            })
        })
        .collect()
}

/// Keep how long each waited for its turn behind a limit, for the run's deadline. A limit that has room delays nobody for a
/// second. Safe with any number of callers: a step that is dispatched again for the same moment has waited until then.
async fn note_waits(tx: &mut Tx, dispatched: &[Dispatched]) -> Result<()> {
    let (runs, positions): (Vec<Uuid>, Vec<i16>) =
        dispatched.iter().map(|step| (step.key.run.uuid(), step.key.position)).unzip();
    tx.query(
        "insert into sluice.wait (run_id, position, due_at, waited_until)
         select step.run_id, step.position, step.due_at, now()
         from unnest($1::uuid[], $2::smallint[]) as given (run_id, position)
         join sluice.step on step.run_id = given.run_id
           and step.position = given.position
         where step.due_at < now() - interval '1 second'
         on conflict (run_id, position, due_at) do update
         set waited_until = excluded.waited_until",
    )
    .bind(&runs)
    .bind(&positions)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Guarded by there being none: of two relays one wins, and the other one's context is nobody's.
pub(super) async fn begin_traces(ledger: &Postgres, contexts: &[(RunId, String)]) -> Result<Vec<bool>> {
    let (runs, traces): (Vec<Uuid>, Vec<&str>) =
        contexts.iter().map(|(run, context)| (run.uuid(), context.as_str())).unzip();
    let mut tx = ledger.begin().await?;
    let begun: Vec<(Uuid,)> = tx
        .query_as(
            "with begun as (
               select run.id, given.traceparent
               from unnest($1::uuid[], $2::text[]) as given (id, traceparent)
               join sluice.run on run.id = given.id
               where run.traceparent is null
               order by run.id
               for no key update of run
             )
             update sluice.run as run
             set traceparent = begun.traceparent
             from begun
             where run.id = begun.id
               and run.traceparent is null
             returning run.id",
        )
        .bind(&runs)
        .bind(&traces)
        .fetch_all(tx.connection())
        .await?;
    tx.commit().await?;
    Ok(runs.iter().map(|run| begun.iter().any(|(id,)| id == run)).collect())
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
pub(super) async fn lose(ledger: &Postgres) -> Result<usize> {
    let mut tx = ledger.begin().await?;
    let done = tx
        .query(
            "with lost as (
               select run_id, position
               from sluice.step
               where state = 'dispatched'
                 and dispatched_at <= now()
               order by run_id, position
               limit $1
               for no key update skip locked
             )
             update sluice.step as step
             set state = 'due', token = null, due_at = now()
             from lost
             where step.run_id = lost.run_id
               and step.position = lost.position
               and step.state = 'dispatched'",
        )
        .bind(limit(10_000))
        .execute(tx.connection())
        .await?;
    tx.commit().await?;
    Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
}

pub(super) async fn unclaimed(ledger: &Postgres, after: Duration, most: usize) -> Result<Vec<(StepName, Key)>> {
    let queues: Vec<String> = ledger.setup.registry.queues().iter().map(ToString::to_string).collect();
    let mut tx = ledger.begin().await?;
    let rows: Vec<(String, Uuid, i16, i64)> = tx
        .query_as(
            "select name, run_id, position, token
             from sluice.step
             where state = 'dispatched'
               and name = any($3)
               and dispatched_at <= now() - make_interval(secs => $1)
             order by dispatched_at
             limit $2",
        )
        .bind(seconds(after))
        .bind(limit(most))
        .bind(&queues)
        .fetch_all(tx.connection())
        .await?;
    tx.commit().await?;
    rows.into_iter()
        .map(|(name, run, position, token)| {
            Ok((parse(&name)?, Key { run: RunId::new(run), position, token: Token::new(token) }))
        })
        .collect()
}
