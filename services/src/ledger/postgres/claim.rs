//! From `dispatched` to `running`: the token, an open gate, the resource's turn and quiet, then the lease.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use serde_json::Value;
use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    definition::{Reach, Step},
    ids::{InstanceName, RunId, StepName, Token, WorkflowName},
    outcome::Given,
    secret::Secret,
    state::Spent,
};

use super::{Claimed, Key, Postgres, Result, Tx, Worker, columns, seconds};
use crate::ledger::{
    Claim, Error, PutBack,
    admission::{Asked, admit},
};

pub(super) async fn claim(ledger: &Postgres, worker: &Worker, keys: &[Key]) -> Result<Vec<Claimed>> {
    let mut tx = ledger.begin().await?;
    let rows = read_and_lock(&mut tx, worker, keys).await?;
    let mut admitted: Vec<(Claim, Step)> = Vec::new();
    let mut refused: Vec<(Key, PutBack)> = Vec::new();
    for row in rows.into_values() {
        let key = row.key();
        // A row that cannot be read harms only itself.
        let Ok(asked) = row.asked() else {
            refused.push((key, PutBack::UnknownDefinition));
            continue;
        };
        match (admit(&asked, &ledger.setup.registry), row.claim()) {
            (Ok((_, step)), Ok(claim)) => admitted.push((claim, step.clone())),
            (Ok(_), Err(_)) => refused.push((key, PutBack::UnknownDefinition)),
            (Err(put_back), _) => refused.push((key, put_back)),
        }
    }
    let taken = take(&mut tx, worker, &admitted).await?;
    let went_back = put_back(&mut tx, &refused).await?;
    tx.commit().await?;

    let mut answers: HashMap<Key, Claimed> = refused
        .into_iter()
        .filter(|(key, _)| went_back.contains(key))
        .map(|(key, why)| (key, Claimed::PutBack(why)))
        .collect();
    for (mut claim, _) in admitted {
        if let Some(attempt) = taken.get(&claim.key) {
            claim.attempt = *attempt;
            answers.insert(claim.key, Claimed::Yes(Box::new(claim)));
        }
    }
    Ok(keys.iter().map(|key| answers.remove(key).unwrap_or(Claimed::Stale)).collect())
}

/// All that a claim must know. Also what `expired` reads, so that a rescue settles like a worker does.
#[derive(FromRow)]
pub(super) struct ClaimRow {
    run_id: Uuid,
    position: i16,
    token: i64,
    step: String,
    workflow: String,
    version: i16,
    subject: String,
    traceparent: Option<String>,
    age: f64,
    input: Value,
    failures: i32,
    crashes: i32,
    send_backs: i32,
    defers: i32,
    attempts: i32,
    earlier_send_backs: Vec<i32>,
    instance: String,
    instance_token: String,
    created_before: bool,
    paired_before: bool,
    imported: bool,
    turn: Option<Uuid>,
    resource_busy: bool,
    gate_closed: bool,
}

impl ClaimRow {
    pub(super) fn key(&self) -> Key {
        Key { run: RunId::new(self.run_id), position: self.position, token: Token::new(self.token) }
    }

    fn asked(&self) -> Result<Asked> {
        Ok(Asked {
            run: RunId::new(self.run_id),
            workflow: parse(&self.workflow)?,
            version: self.version,
            step: parse(&self.step)?,
            position: self.position,
            gate_closed: self.gate_closed,
            turn: self.turn.map(RunId::new),
            resource_busy: self.resource_busy,
        })
    }

    pub(super) fn claim(self) -> Result<Claim> {
        let key = self.key();
        let count = |number: i32| u32::try_from(number).unwrap_or_default();
        Ok(Claim {
            key,
            workflow: parse::<WorkflowName>(&self.workflow)?,
            version: self.version,
            step: parse::<StepName>(&self.step)?,
            spent: Spent {
                failures: count(self.failures),
                crashes: count(self.crashes),
                send_backs: count(self.send_backs),
                defers: count(self.defers),
            },
            send_backs: self.earlier_send_backs.into_iter().map(count).collect(),
            attempt: count(self.attempts),
            given: Given {
                subject: parse(&self.subject)?,
                instance: parse::<InstanceName>(&self.instance)?,
                token: Secret::new(self.instance_token),
                created_before: self.created_before,
                paired_before: self.paired_before,
                imported: self.imported,
                input: self.input,
            },
            traceparent: self.traceparent,
            age: Duration::try_from_secs_f64(self.age).unwrap_or_default(),
        })
    }
}

pub(super) fn parse<T: std::str::FromStr<Err = workflows::ids::Invalid>>(text: &str) -> Result<T> {
    text.parse().map_err(|error: workflows::ids::Invalid| Error::Unreadable(error.to_string()))
}

/// The rows whose token matches, with their resources locked in key order.
async fn read_and_lock(tx: &mut Tx, worker: &Worker, keys: &[Key]) -> Result<BTreeMap<Key, ClaimRow>> {
    let (runs, positions, tokens) = columns(keys);
    let rows: Vec<ClaimRow> = tx
        .query_as(
            "select
               step.run_id, step.position, step.token, step.name as step, step.attempts,
               step.failures, step.crashes, step.send_backs, step.defers,
               run.workflow, run.version, run.subject, run.traceparent,
               extract(epoch from now() - run.requested_at)::float8 as age,
               case when step.position = 0 then run.input else coalesce(previous.output, 'null') end as input,
               array(
                 select earlier.send_backs
                 from sluice.step as earlier
                 where earlier.run_id = step.run_id
                   and earlier.position < step.position
                 order by earlier.position
               ) as earlier_send_backs,
               instance.name as instance, instance.token as instance_token,
               instance.create_claimed_at is not null as created_before,
               instance.paired_at is not null as paired_before,
               instance.imported_at is not null as imported,
               resource.run_id as turn,
               coalesce(resource.busy_until > now(), false) as resource_busy,
               exists (
                 select from sluice.gate
                 where (scope, name) in (('workflow', run.workflow), ('step', step.name), ('host', $4::text))
                   and (paused_at is not null or hold_until > now() or breaker = 'open'
                     or (breaker = 'half_open' and probe_run is distinct from run.id))
               ) as gate_closed
             from unnest($1::uuid[], $2::smallint[], $3::bigint[]) as asked (run_id, position, token)
             join sluice.step as step
               on step.run_id = asked.run_id
               and step.position = asked.position
               and step.token = asked.token
               and step.state = 'dispatched'
             join sluice.run as run on run.id = step.run_id
             join sluice.instance as instance on instance.subject = run.subject
             join sluice.resource as resource on resource.name = run.resource
             left join sluice.step as previous
               on previous.run_id = step.run_id
               and previous.position = step.position - 1
             order by resource.name
             for no key update of resource",
        )
        .bind(&runs)
        .bind(&positions)
        .bind(&tokens)
        .bind(worker.host.as_deref().map(str::to_owned))
        .fetch_all(tx.connection())
        .await?;
    Ok(rows.into_iter().map(|row| (row.key(), row)).collect())
}

/// Set the steps to running and, where an attempt may create or delete, its resource to busy. The keys that were won, with
/// the number of the attempt.
async fn take(tx: &mut Tx, worker: &Worker, admitted: &[(Claim, Step)]) -> Result<HashMap<Key, u32>> {
    if admitted.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: Vec<Key> = admitted.iter().map(|(claim, _)| claim.key).collect();
    let (runs, positions, tokens) = columns(&keys);
    let leases: Vec<f64> = admitted.iter().map(|(_, step)| seconds(step.lease)).collect();
    let rows: Vec<(Uuid, i16, i64, i32)> = tx
        .query_as(
            "update sluice.step as step
             set state = 'running', worker = $5, started_at = now(), attempts = step.attempts + 1,
               lease_until = now() + make_interval(secs => asked.lease)
             from unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::float8[])
               as asked (run_id, position, token, lease)
             where step.run_id = asked.run_id
               and step.position = asked.position
               and step.token = asked.token
               and step.state = 'dispatched'
             returning step.run_id, step.position, step.token, step.attempts",
        )
        .bind(&runs)
        .bind(&positions)
        .bind(&tokens)
        .bind(&leases)
        .bind(worker.name.clone())
        .fetch_all(tx.connection())
        .await?;
    let taken: HashMap<Key, u32> = rows
        .into_iter()
        .map(|(run, position, token, attempts)| {
            let key = Key { run: RunId::new(run), position, token: Token::new(token) };
            (key, u32::try_from(attempts).unwrap_or_default())
        })
        .collect();
    mark_busy(tx, admitted, &taken).await?;
    Ok(taken)
}

async fn mark_busy(tx: &mut Tx, admitted: &[(Claim, Step)], taken: &HashMap<Key, u32>) -> Result<()> {
    let exclusive: Vec<_> = admitted
        .iter()
        .filter(|(claim, step)| step.reach == Reach::Exclusive && taken.contains_key(&claim.key))
        .collect();
    if exclusive.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = exclusive.iter().map(|(claim, _)| claim.given.instance.as_str()).collect();
    let tokens: Vec<_> = exclusive.iter().map(|(claim, _)| claim.key.token.bits()).collect();
    let leases: Vec<_> = exclusive.iter().map(|(_, step)| seconds(step.lease)).collect();
    tx.query(
        "with busy as (
           update sluice.resource as resource
           set busy_token = held.token, busy_until = now() + make_interval(secs => held.lease)
           from unnest($1::text[], $2::bigint[], $3::float8[]) as held (name, token, lease)
           where resource.name = held.name
         )
         update sluice.instance
         set create_claimed_at = now()
         where name = any($1)
           and create_claimed_at is null",
    )
    .bind(&names)
    .bind(&tokens)
    .bind(&leases)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Back to `due`, uncounted. A busy resource is waited out; a run whose turn it is not waits for it; at a closed gate the
/// steps spread over a second; a definition that this build does not know is asked for again in 5 s, doubling to 60. The
/// keys that still held: a step that another claim won meanwhile is busy with that one.
async fn put_back(tx: &mut Tx, refused: &[(Key, PutBack)]) -> Result<HashSet<Key>> {
    if refused.is_empty() {
        return Ok(HashSet::new());
    }
    let keys: Vec<Key> = refused.iter().map(|(key, _)| *key).collect();
    let (runs, positions, tokens) = columns(&keys);
    let is = |wanted: PutBack| refused.iter().map(|(_, why)| *why == wanted).collect::<Vec<bool>>();
    let rows = tx
        .query_as(
            "update sluice.step as step
         set state = 'due', token = null,
           defers = step.defers + asked.unknown::integer,
           due_at = case
             when asked.unknown then now() + make_interval(secs => least(60, 5 * 2 ^ least(step.defers, 4)))
             when resource.run_id is distinct from run.id then null
             when asked.closed then greatest(now() + make_interval(secs => 0.5 + random()), resource.busy_until)
             else greatest(now(), resource.busy_until)
           end
         from unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::boolean[], $5::boolean[])
             as asked (run_id, position, token, unknown, closed)
         join sluice.run as run on run.id = asked.run_id
         join sluice.resource as resource on resource.name = run.resource
         where step.run_id = asked.run_id
           and step.position = asked.position
           and step.token = asked.token
           and step.state = 'dispatched'
         returning step.run_id, step.position, asked.token",
        )
        .bind(&runs)
        .bind(&positions)
        .bind(&tokens)
        .bind(is(PutBack::UnknownDefinition))
        .bind(is(PutBack::GateClosed))
        .fetch_all(tx.connection())
        .await?;
    Ok(rows.into_iter().map(super::key).collect())
}
