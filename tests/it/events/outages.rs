//! Everything is killed while users sign up: each event arrives, in the order of its run.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sqlx::{Connection, PgConnection};
use tests::{
    consumer::{Consumer, Received},
    evolution::Config,
    fleet::Fleet,
    servers::{postgres, redis, until},
};

const EXCHANGE: &str = "sluice.events";
const PATIENCE: Duration = Duration::from_secs(180);

/// How many sign up: 300, and 2,000 in `make full`.
fn users() -> i64 {
    std::env::var("EVENT_USERS").ok().and_then(|users| users.parse().ok()).unwrap_or(300)
}

/// How many events wait for a publisher that has been away: 10,000, and 100,000 in `make full`.
fn waiting() -> i64 {
    std::env::var("EVENT_BACKLOG").ok().and_then(|events| events.parse().ok()).unwrap_or(10_000)
}

async fn count(session: &mut PgConnection, select: &'static str) -> i64 {
    sqlx::query_scalar(select).fetch_one(session).await.unwrap()
}

const READY: &str = "select count(*) from evolution_instance_creation_queue where status = 'completed'";
const UNPUBLISHED: &str = "select count(*) from sluice.event where published_at is null";

/// The sequences of each run, by first arrival.
fn first_arrivals(received: &[Received]) -> BTreeMap<String, Vec<u32>> {
    let (mut seen, mut runs) = (BTreeSet::new(), BTreeMap::<String, Vec<u32>>::new());
    for message in received {
        if seen.insert(message.id.clone()) {
            runs.entry(message.run().to_owned()).or_default().push(message.sequence());
        }
    }
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_arrives_in_order_whatever_is_killed_while_users_sign_up() {
    let users = users();
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    fleet.set("QR_AT_SIGNUP", "false");
    let url = fleet.add_rabbitmq().await.unwrap();
    let consumer = Consumer::start(&url, EXCHANGE, "app").await.unwrap();
    fleet.rabbitmq().unwrap().write_down_queues().await.unwrap();
    fleet.start_roles().await.unwrap();
    for name in ["events-1", "events-2"] {
        fleet.start(name, &["events"]).await.unwrap();
    }
    let mut session = fleet.connect().await.unwrap();

    let sign_up = format!(
        "insert into auth.users (email) select 'user' || n || '@example.org' from generate_series(1, {users}) as n"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sign_up)).execute(&mut session).await.unwrap();
    let some = until(PATIENCE, async || (consumer.count() as i64 > users / 3).then_some(())).await;
    assert!(some.is_some(), "{} arrived", consumer.count());
    fleet.rabbitmq().unwrap().kill().await.unwrap();
    for name in ["events-1", "relay-1", "worker-create-instance-1"] {
        fleet.replace(name).await.unwrap();
    }
    // Work goes on without the broker.
    let ready = until(PATIENCE, async || (count(&mut session, READY).await == users).then_some(())).await;
    assert!(ready.is_some(), "{} of {users} are ready", count(&mut session, READY).await);
    assert!(count(&mut session, UNPUBLISHED).await > 0);
    fleet.rabbitmq().unwrap().restart().await.unwrap();
    fleet.replace("events-2").await.unwrap();

    let done = until(PATIENCE, async || (count(&mut session, UNPUBLISHED).await == 0).then_some(())).await;
    assert!(done.is_some(), "{} events wait", count(&mut session, UNPUBLISHED).await);
    let events = count(&mut session, "select count(*) from sluice.event").await;
    let all = until(PATIENCE, async || {
        let ids: BTreeSet<String> = consumer.received().into_iter().map(|message| message.id).collect();
        (ids.len() as i64 == events).then_some(())
    });
    assert!(all.await.is_some(), "of {events} events {} messages arrived", consumer.count());
    let runs = first_arrivals(&consumer.received());
    assert_eq!(runs.len() as i64, users);
    for (run, order) in runs {
        assert_eq!(order, [1, 2, 3], "{run}");
    }
    session.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_with_many_events_before_it_keeps_its_memory() {
    let waiting = waiting();
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    fleet.add_rabbitmq().await.unwrap();
    let mut session = fleet.connect().await.unwrap();
    let write = format!(
        "insert into sluice.event (run_id, sequence, type, routing_key, payload)
         select md5((n / 2)::text)::uuid, n % 2, 'sluice.run.succeeded.v1', 'w.succeeded',
           jsonb_build_object('subject', n, 'text', repeat('x', 500))
         from generate_series(1, {waiting}) as n"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(write)).execute(&mut session).await.unwrap();

    fleet.start("events", &["events"]).await.unwrap();
    let done = until(PATIENCE, async || (count(&mut session, UNPUBLISHED).await == 0).then_some(())).await;

    assert!(done.is_some(), "{} events wait", count(&mut session, UNPUBLISHED).await);
    let pid = fleet.process("events").unwrap().pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak < 64 * 1024, "{peak} KiB at the most");
    session.close().await.unwrap();
}
