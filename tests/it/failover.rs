//! The servers change places under processes that work: a standby of Postgres is promoted, a
//! Sentinel promotes a replica of Redis, an address leads to a server that takes no writes. Work
//! goes on within ten seconds of the address' move, and nothing is lost.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tests::{
    evolution::Config,
    fleet::Fleet,
    servers::{Postgres, Proxy, Redis, Sentinel, postgres, redis, until},
};
use uuid::Uuid;

/// How soon work must go on.
const PROMPTLY: Duration = Duration::from_secs(10);
/// Long enough for a loaded machine with two cores.
const PATIENCE: Duration = Duration::from_secs(60);

async fn fleet() -> Fleet {
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    fleet.set("HTTP_LISTEN", "127.0.0.1:0");
    fleet
}

async fn sign_up(session: &mut PgConnection, users: usize) {
    for _ in 0..users {
        sqlx::query("insert into auth.users (email) values ($1)")
            .bind(format!("{}@example.org", Uuid::new_v4()))
            .execute(&mut *session)
            .await
            .unwrap();
    }
}

async fn number(session: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(session).await.unwrap()
}

const COMPLETED: &str = "select count(*) from evolution_instance_creation_queue where status = 'completed'";

async fn until_completed(session: &mut PgConnection, more_than: i64, within: Duration, fleet: &mut Fleet) {
    let done = until(within, async || (number(session, COMPLETED).await > more_than).then_some(())).await;
    if done.is_none() {
        let names = fleet.names();
        let logs: Vec<String> = names.iter().map(|name| fleet.process(name).unwrap().log_tail()).collect();
        panic!("no more than {more_than} completed within {within:?}:\n{}", logs.join("\n\n"));
    }
}

/// Whoever signed up is ready, each with one create, and nothing is counted against a run.
async fn assert_nothing_was_lost(session: &mut PgConnection, fleet: &mut Fleet) {
    let users = number(session, "select count(*) from auth.users").await;
    until_completed(session, users - 1, PATIENCE, fleet).await;
    let (duplicates, overlaps) = fleet.api.with(|world, _| {
        let journal = world.journal();
        (journal.duplicate_creates, journal.overlaps)
    });
    let counted = "select (select count(*) from sluice.dead_letter)
        + (select count(*) from sluice.attempt where outcome = 'failed')
        + (select coalesce(sum(failures), 0) from sluice.step)";
    assert_eq!((duplicates, overlaps, number(session, counted).await), (0, 0, 0));
}

async fn readyz(fleet: &mut Fleet, name: &str) -> Option<String> {
    let process = fleet.process(name).ok()?;
    let log = process.log();
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let line = lines.find(|line| line["message"] == "health and metrics")?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().tls_certs_only([]).timeout(PATIENCE).build().unwrap();
    let response = client.get(format!("http://{}/readyz", line["address"].as_str()?)).send().await.ok()?;
    response.text().await.ok()
}

async fn until_ready_says(fleet: &mut Fleet, names: &[&str], page: &str) {
    let mut last = None;
    for name in names {
        let said = until(PATIENCE, async || {
            last = readyz(fleet, name).await;
            (last.as_deref() == Some(page)).then_some(())
        });
        assert!(said.await.is_some(), "/readyz of {name} says {last:?}, not {page}");
    }
}

/// What a standby refuses, each duty says once: in the database's own words, and without a place in
/// its source.
fn assert_each_refusal_is_said_once_and_shortly(log: &str) {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let said: Vec<String> = lines
        .filter(|line| {
            line["level"] == "WARN" && line["error"].as_str().is_some_and(|error| error.contains("read-only"))
        })
        .map(|line| format!("{}: {}", line["message"], line["error"]))
        .collect();
    let distinct: std::collections::BTreeSet<_> = said.iter().collect();
    assert_eq!(distinct.len(), said.len(), "{said:#?}");
    for line in &said {
        assert!(!line.contains("at line") && line.matches("read-only").count() == 1, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_demoted_or_dies_is_left_for_the_promoted_one_and_nothing_is_lost() {
    const BOTH: [&str; 2] = ["relay-1", "worker-verify-1"];
    let mut fleet = fleet().await;
    let standby = Postgres::standby_of(&fleet.postgres).await.unwrap();
    let address = Proxy::to(fleet.postgres.port()).await.unwrap();
    let direct = fleet.database_url();
    fleet.set("DATABASE_URL", direct.replace(&fleet.postgres.port().to_string(), &address.port().to_string()));
    fleet.start_roles().await.unwrap();
    let mut session = fleet.connect().await.unwrap();
    sign_up(&mut session, 3).await;
    until_completed(&mut session, 2, PATIENCE, &mut fleet).await;

    // The address leads to the standby for a while: connections are made there, stand, and take no
    // writes.
    address.lead_to(standby.port());
    address.close_all();
    until_ready_says(&mut fleet, &BOTH, "not ready: Postgres\n").await;
    sign_up(&mut session, 2).await;
    let stats = fleet.sluice(&["queue", "stats"]).await.unwrap();
    assert!(stats.contains("this database is a standby and takes no writes"), "{stats}");
    address.lead_to(fleet.postgres.port());
    until_completed(&mut session, 4, PROMPTLY, &mut fleet).await;
    until_ready_says(&mut fleet, &BOTH, "ok\n").await;
    assert_each_refusal_is_said_once_and_shortly(&fleet.process("relay-1").unwrap().log());

    // The primary dies with work in hand, and the standby is promoted.
    sign_up(&mut session, 10).await;
    drop(session);
    fleet.parts().postgres.kill().await.unwrap();
    standby.promote().await.unwrap();
    address.lead_to(standby.port());
    let mut session = PgConnection::connect(&standby.url("app")).await.unwrap();
    let before = number(&mut session, COMPLETED).await;
    assert!(before < 15, "all were ready before the failover");
    until_completed(&mut session, before, PROMPTLY, &mut fleet).await;
    sign_up(&mut session, 2).await;
    assert_nothing_was_lost(&mut session, &mut fleet).await;
    session.close().await.unwrap();
}

/// What is put before a Sentinel for clients that do not speak to it: an address that follows its
/// word.
async fn follow(sentinel: Sentinel, address: Proxy) {
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    loop {
        pace.tick().await;
        if let Ok(port) = sentinel.primary().await {
            address.lead_to(port);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_whose_sentinel_promotes_a_replica_is_followed_and_nothing_is_lost() {
    let mut fleet = fleet().await;
    let replica = redis::Options::default().set("replicaof", format!("127.0.0.1 {}", fleet.redis.port()));
    let replica = Redis::start(replica).await.unwrap();
    let sentinel = Sentinel::of(&fleet.redis).await.unwrap();
    let address = Proxy::to(fleet.redis.port()).await.unwrap();
    fleet.set("REDIS_URL", format!("redis://127.0.0.1:{}", address.port()));
    let following = tokio::spawn(follow(sentinel, address));
    fleet.start_roles().await.unwrap();
    let mut session = fleet.connect().await.unwrap();
    sign_up(&mut session, 3).await;
    until_completed(&mut session, 2, PATIENCE, &mut fleet).await;

    fleet.parts().redis.kill().await.unwrap();
    until_ready_says(&mut fleet, &["relay-1", "worker-verify-1"], "not ready: Redis\n").await;
    sign_up(&mut session, 10).await;
    let client = ::redis::Client::open(replica.url()).unwrap();
    let promoted = until(PATIENCE, async || {
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        let role: ::redis::Value = ::redis::cmd("ROLE").query_async(&mut connection).await.ok()?;
        format!("{role:?}").contains("master").then_some(())
    });
    promoted.await.expect("the Sentinel promotes the replica");

    until_completed(&mut session, 3, PROMPTLY, &mut fleet).await;
    assert_nothing_was_lost(&mut session, &mut fleet).await;
    until_ready_says(&mut fleet, &["relay-1", "worker-verify-1"], "ok\n").await;
    // What a library says of a connection that we make anew is no error of the process.
    for name in fleet.names() {
        let log = fleet.process(&name).unwrap().log();
        assert!(!log.contains(r#""level":"ERROR""#), "{name}:\n{log}");
    }
    following.abort();
    session.close().await.unwrap();
}
