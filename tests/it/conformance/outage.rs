//! Postgres itself was away: nobody could renew a lease meanwhile.

use std::time::Duration;

use sluice::ledger::{Lease, RelayLedger, WorkerLedger};
use tests::servers::{Postgres, postgres::Options, until};

use super::{
    bench::{Bench, CREATE, LEASE, PROVISION, user, worker},
    postgres::InPostgres,
    world::World,
};

pub async fn an_outage_of_postgres_is_no_crash_of_its_clients(bench: &Bench<InPostgres>) {
    let mut server = Postgres::start(Options::default()).await.unwrap();
    let bench = bench.world.on(&server).await;
    let run = bench.start(PROVISION, user()).await;
    let key = bench.take(run, CREATE).await.key;
    bench.ledger().renew(&worker("w"), &[Lease { key, length: LEASE }]).await.unwrap();
    server.restart().await.unwrap();

    // All sessions have ended with the server, and nobody holds that against a worker.
    let ended = until(Duration::from_secs(60), async || bench.ledger().end_leases().await.ok()).await;
    assert_eq!(ended.expect("it answers"), 0);
    let gone = "select count(*) from sluice.heartbeat where gone_at is not null";
    let gone: i64 = sqlx::query_scalar(gone).fetch_one(bench.world.pool()).await.unwrap();
    assert_eq!(gone, 0);
    bench.world.advance(LEASE * 2).await;

    // Its connections died with the server: whoever asks, asks again.
    let expired = async || bench.ledger().expired(10).await.ok().filter(|expired| !expired.is_empty());
    let expired = until(Duration::from_secs(60), expired).await.expect("the lease ends at last");

    let up = "select extract(epoch from now() - pg_postmaster_start_time())::float8";
    let up: f64 = sqlx::query_scalar(up).fetch_one(bench.world.pool()).await.unwrap();
    assert_eq!(expired[0].key.run, run);
    assert!(up > LEASE.as_secs_f64(), "rescued {up} s after the server's start");
}
