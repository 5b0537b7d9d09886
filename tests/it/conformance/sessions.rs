//! Workers whose session has ended: a killed process' does at once, long before its leases.

use std::time::Duration;

use sluice::{
    database::Pooling,
    ledger::{Claim, Lease, RelayLedger, Upkeep, WorkerLedger, postgres::Postgres},
};
use tests::servers::until;
use workflows::{
    definition::{CALLED_WITHIN, EXCLUSIVE_CALL},
    ids::RunId,
    state::StepState,
};

use super::{
    bench::{Bench, CONFIGURE, CREATE, LEASE, PROVISION, RECONFIGURE, user, worker},
    postgres::InPostgres,
    world::{Moment, World},
};

const WITHIN: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_millis(100);
/// So long after its connection was cut a worker has beaten again.
const CUT_OFF: Duration = Duration::from_millis(2200);

/// A worker in whose hand a step is, with a session of its own.
struct Holder {
    connection: Postgres,
    claim: Claim,
    run: RunId,
}

impl Holder {
    /// It has renewed no lease yet, and has beaten.
    async fn of(bench: &Bench<InPostgres>, workflow: &str, step: &str) -> Self {
        let run = bench.start(workflow, user()).await;
        let claim = bench.take_as("holder", run, step).await;
        let connection = bench.world.widely(1);
        connection.renew(&worker("holder"), &[]).await.unwrap();
        Self { connection, claim, run }
    }

    /// Over whatever connection it has now.
    async fn renew(&self) {
        let lease = Lease { key: self.claim.key, length: LEASE };
        let renewed = async || self.connection.renew(&worker("holder"), &[lease]).await.ok();
        assert_eq!(until(WITHIN, renewed).await.expect("it renews"), [Some(true)]);
    }

    /// Its process dies, or its connection is cut: Postgres cannot tell.
    async fn lose_session(&self, bench: &Bench<InPostgres>) {
        let held = "select pid from pg_locks where locktype = 'advisory' and classid = 7319
              and database = (select oid from pg_database where datname = current_database())";
        let end = format!("select count(pg_terminate_backend(pid)) from ({held}) as session");
        let ended: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(end)).fetch_one(bench.world.pool()).await.unwrap();
        assert_eq!(ended, 1);
        let is_free = async || {
            let holders: Vec<i32> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(held)).fetch_all(bench.world.pool()).await.unwrap();
            holders.is_empty().then_some(())
        };
        until(WITHIN, is_free).await.expect("its lock is free");
    }
}

async fn is_gone(bench: &Bench<InPostgres>) -> bool {
    let Upkeep { running, gone, .. } = bench.ledger().upkeep().await.unwrap();
    assert!(running);
    gone
}

async fn end_leases(bench: &Bench<InPostgres>) -> usize {
    bench.ledger().end_leases().await.unwrap()
}

pub async fn a_worker_whose_session_has_ended_loses_its_steps_before_their_leases_end(bench: &Bench<InPostgres>) {
    let holder = Holder::of(bench, RECONFIGURE, CONFIGURE).await;
    assert!(!is_gone(bench).await);
    holder.lose_session(bench).await;

    assert!(is_gone(bench).await);
    assert_eq!(end_leases(bench).await, 0, "it may have been cut off");
    bench.world.advance(CUT_OFF + MOMENT).await;
    assert_eq!((end_leases(bench).await, end_leases(bench).await), (1, 0));
    assert_eq!(bench.rescue().await, 1);

    let step = bench.step(holder.run, 0).await;
    assert_eq!((step.moment, step.spent.crashes), (Moment::Now, 1), "a crash like another");
    assert_eq!(bench.outcomes(holder.run).await, ["crashed"]);
}

pub async fn a_call_that_creates_has_its_time_though_its_session_has_ended(bench: &Bench<InPostgres>) {
    let holder = Holder::of(bench, PROVISION, CREATE).await;
    let resource = &holder.claim.input.resource;
    holder.lose_session(bench).await;
    assert_eq!(end_leases(bench).await, 0);

    bench.world.advance(CUT_OFF + MOMENT).await;
    assert_eq!(end_leases(bench).await, 0);
    assert!(bench.world.is_busy(resource).await);
    bench.world.advance(CALLED_WITHIN + EXCLUSIVE_CALL - CUT_OFF).await;
    assert_eq!(end_leases(bench).await, 1);
    assert!(!bench.world.is_busy(resource).await);
    assert_eq!(bench.rescue().await, 1);

    assert_eq!(bench.step(holder.run, 0).await.moment, Moment::Now);
    bench.take(holder.run, CREATE).await;
}

/// After a renewal a call may leave as long as enough of the lease is left.
pub async fn a_call_that_creates_has_its_time_after_a_renewal_too(bench: &Bench<InPostgres>) {
    let holder = Holder::of(bench, PROVISION, CREATE).await;
    holder.renew().await;
    holder.lose_session(bench).await;
    assert_eq!(end_leases(bench).await, 0);

    bench.world.advance(LEASE - MOMENT * 10).await;
    assert_eq!(end_leases(bench).await, 0);
    assert!(bench.ledger().expired(10).await.unwrap().is_empty());
    bench.world.advance(MOMENT * 10).await;
    assert_eq!(bench.rescue().await, 1);
}

/// Its connection for leases may be refused while others work.
pub async fn a_worker_that_claims_lives_though_it_cannot_renew(bench: &Bench<InPostgres>) {
    let holder = Holder::of(bench, RECONFIGURE, CONFIGURE).await;
    holder.lose_session(bench).await;
    assert_eq!(end_leases(bench).await, 0);
    bench.world.advance(CUT_OFF + MOMENT).await;
    let since = bench.start(RECONFIGURE, user()).await;
    bench.take_as("holder", since, CONFIGURE).await;

    assert!(is_gone(bench).await);
    assert_eq!(end_leases(bench).await, 1);
    assert_eq!(bench.rescue().await, 1);
    assert!(!is_gone(bench).await);
    bench.world.advance(CUT_OFF + MOMENT).await;

    assert_eq!(end_leases(bench).await, 0);
    assert_eq!(bench.state(since, 0).await, StepState::Running);
}

pub async fn a_worker_whose_connection_was_cut_keeps_its_steps(bench: &Bench<InPostgres>) {
    let holder = Holder::of(bench, RECONFIGURE, CONFIGURE).await;
    holder.lose_session(bench).await;
    assert_eq!(end_leases(bench).await, 0);
    bench.world.advance(CUT_OFF - MOMENT).await;
    holder.renew().await;
    bench.world.advance(CUT_OFF).await;

    assert!(!is_gone(bench).await);
    assert_eq!(end_leases(bench).await, 0);

    // Nor is the first time counted towards a second one.
    holder.lose_session(bench).await;
    assert_eq!(end_leases(bench).await, 0);
}

/// Behind a transaction pooler a session says nothing of who uses it.
pub async fn a_worker_without_a_session_keeps_its_steps_until_their_leases_end(bench: &Bench<InPostgres>) {
    let run = bench.start(RECONFIGURE, user()).await;
    let claim = bench.take_as("holder", run, CONFIGURE).await;
    let lease = Lease { key: claim.key, length: LEASE };
    bench.world.pooled(Pooling::Transaction).renew(&worker("holder"), &[lease]).await.unwrap();

    assert!(!is_gone(bench).await);
    assert_eq!(end_leases(bench).await, 0);
    bench.world.advance(CUT_OFF * 2).await;
    assert_eq!(end_leases(bench).await, 0);
}
