//! Leases: one batched renewal per worker and second, which is also the worker's heartbeat.

use std::collections::HashSet;

use uuid::Uuid;

use super::{Key, Lease, Postgres, Result, Worker, columns, key, seconds};

pub(super) async fn renew(ledger: &Postgres, worker: &Worker, leases: &[Lease]) -> Result<Vec<bool>> {
    let mut tx = ledger.begin().await?;
    tx.query(
        "insert into sluice.heartbeat (worker, role)
         values ($1, 'worker')
         on conflict (worker) do update
         set beat_at = now()",
    )
    .bind(worker.name.clone())
    .execute(tx.connection())
    .await?;
    // A sign of life is one even where a lease cannot be renewed.
    tx.commit().await?;
    let mut tx = ledger.begin().await?;
    let keys: Vec<Key> = leases.iter().map(|lease| lease.key).collect();
    let (runs, positions, tokens) = columns(&keys);
    let lengths: Vec<f64> = leases.iter().map(|lease| seconds(lease.length)).collect();
    let rows: Vec<(Uuid, i16, i64)> = tx
        .query_as(
            "with renewed as (
               update sluice.step as step
               set lease_until = now() + make_interval(secs => held.length)
               from unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::float8[])
                 as held (run_id, position, token, length)
               where step.run_id = held.run_id
                 and step.position = held.position
                 and step.token = held.token
                 and step.state = 'running'
               returning step.run_id, step.position, step.token, step.lease_until
             ),
             busy as (
               update sluice.resource as resource
               set busy_until = renewed.lease_until
               from renewed
               join sluice.run on run.id = renewed.run_id
               where resource.name = run.resource
                 and resource.busy_token = renewed.token
             )
             select run_id, position, token from renewed",
        )
        .bind(&runs)
        .bind(&positions)
        .bind(&tokens)
        .bind(&lengths)
        .fetch_all(tx.connection())
        .await?;
    tx.commit().await?;
    let renewed: HashSet<Key> = rows.into_iter().map(key).collect();
    Ok(keys.iter().map(|key| renewed.contains(key)).collect())
}
