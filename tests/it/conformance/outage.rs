//! Postgres itself was away: nobody could renew a lease meanwhile.

use std::time::Duration;

use sluice::ledger::RelayLedger;
use tests::servers::{Postgres, postgres::Options, until};

use super::{
    bench::{Bench, CREATE, LEASE, PROVISION, user},
    postgres::InPostgres,
    world::World,
};

pub async fn an_outage_of_postgres_is_no_crash_of_its_clients(bench: &Bench<InPostgres>) {
    let mut server = Postgres::start(Options::default()).await.unwrap();
    let bench = bench.world.on(&server).await;
    let run = bench.start(PROVISION, user()).await;
    bench.take(run, CREATE).await;
    bench.world.advance(LEASE * 2).await;
    server.restart().await.unwrap();

    // Its connections died with the server: whoever asks, asks again.
    let expired = async || bench.ledger().expired(10).await.ok().filter(|expired| !expired.is_empty());
    let expired = until(Duration::from_secs(60), expired).await.expect("the lease ends at last");

    let up = "select extract(epoch from now() - pg_postmaster_start_time())::float8";
    let up: f64 = sqlx::query_scalar(up).fetch_one(bench.world.pool()).await.unwrap();
    assert_eq!(expired[0].key.run, run);
    assert!(up > LEASE.as_secs_f64(), "rescued {up} s after the server's start");
}
