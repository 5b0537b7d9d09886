//! `/livez` and `/readyz` through outages, a start without Postgres, and a drain.

use sluice::telemetry::health::LIMIT;
use tests::{
    fleet::Parts,
    servers::{self, Program},
};
use tokio::net::TcpListener;

use super::*;
use crate::program::{run, said};

/// Asks until the page answers so.
async fn until_answers(address: &str, path: &str, status: u16, text: &str) {
    let mut last = (0, String::new());
    let answered = until(PATIENCE, async || {
        last = get(address, path).await;
        (last.0 == status && last.1.contains(text)).then_some(())
    });
    assert!(answered.await.is_some(), "{path} answers {last:?}, not {status} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_waits_for_postgres_lives_and_is_not_ready() {
    let nowhere = format!("postgres://ada:hunter2@127.0.0.1:{}/app", servers::free_port().unwrap());
    let redis = servers::shared().await.redis.url();
    let settings = [
        ("DATABASE_URL", nowhere.as_str()),
        ("REDIS_URL", &redis),
        ("EVOLUTION_API_BASE_URL", "http://127.0.0.1:9"),
        ("HTTP_LISTEN", "127.0.0.1:0"),
        ("LOG_FORMAT", "json"),
    ];
    let program = Program::new(servers::binary("sluice").unwrap()).args(["relay"]);
    let mut relay = settings.iter().fold(program, |program, (name, value)| program.env(name, value)).start().unwrap();

    let address = address(&mut relay).await;
    relay.wait_for_log("waiting for Postgres", PATIENCE).await.unwrap();

    until_answers(&address, "/readyz", 503, "not ready: Postgres\n").await;
    assert_eq!(get(&address, "/livez").await, (200, "ok\n".to_owned()));
    let (status, metrics) = get(&address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("sluice_build_info") && !metrics.contains("hunter2"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_in_one_process_answers_on_one_port_and_names_what_is_away() {
    let mut fleet = fleet().await;
    fleet.start("all", &["all"]).await.unwrap();
    let address = address(fleet.process("all").unwrap()).await;
    until_answers(&address, "/readyz", 200, "ok").await;
    let both = until(PATIENCE, async || {
        let scraped = scrape(&address).await;
        let relay = scraped.sum("sluice_queue_depth", &[("step", "verify"), ("state", "due")]) == Some(0.0);
        let worker = scraped.sum("sluice_consumer_up", &[("step", "verify")]) == Some(1.0);
        (relay && worker).then_some(scraped)
    });
    let scraped = both.await.expect("the metrics of both roles");
    assert_eq!(scraped.sum("sluice_build_info", &[("role", "all")]), Some(1.0));
    assert_eq!(scraped.sum("sluice_pool_connections_max", &[("pool", "worker-leases")]), Some(1.0));

    fleet.parts().postgres.kill().await.unwrap();
    until_answers(&address, "/readyz", 503, "not ready: Postgres\n").await;
    assert_eq!(get(&address, "/livez").await.0, 200);
    let without = until(PATIENCE, async || {
        let scraped = scrape(&address).await;
        scraped.sum("sluice_queue_depth", &[]).is_none().then_some(scraped)
    });
    let without = without.await.expect("old gauges are still shown");
    assert_eq!(without.sum("sluice_redis_outstanding", &[("step", "verify")]), Some(0.0));

    fleet.parts().redis.kill().await.unwrap();
    until_answers(&address, "/readyz", 503, "not ready: Postgres\nnot ready: Redis\n").await;
    assert_eq!(get(&address, "/livez").await.0, 200);

    fleet.parts().postgres.restart().await.unwrap();
    fleet.parts().redis.restart().await.unwrap();
    until_answers(&address, "/readyz", 200, "ok").await;
}

/// Frozen servers keep their connections open and answer nothing: the worst kind of away.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_servers_are_frozen_lives() {
    let mut fleet = fleet().await;
    fleet.start("all", &["all"]).await.unwrap();
    let address = address(fleet.process("all").unwrap()).await;
    until_answers(&address, "/readyz", 200, "ok").await;

    let Parts { postgres, redis, .. } = fleet.parts();
    postgres.pause().unwrap();
    redis.pause().unwrap();
    let hung = until(LIMIT + Duration::from_secs(10), async || {
        let (status, text) = get(&address, "/livez").await;
        (status != 200).then_some(text)
    });

    assert_eq!(hung.await, None);
    assert_eq!(get(&address, "/readyz").await.0, 503);
    postgres.resume().unwrap();
    redis.resume().unwrap();
    until_answers(&address, "/readyz", 200, "ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_drains_lives_and_is_not_ready() {
    let mut fleet = fleet_in_a_long_call().await;
    let worker = fleet.process("worker-configure-webhooks-1").unwrap();
    let address = address(worker).await;
    until_answers(&address, "/readyz", 200, "ok").await;

    worker.terminate().unwrap();

    until_answers(&address, "/readyz", 503, "not ready: draining\n").await;
    assert_eq!(get(&address, "/livez").await.0, 200);
    assert_eq!(get(&address, "/metrics").await.0, 200);
}

/// Its connections stand, and it answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_demoted_and_takes_no_hints_is_named() {
    let mut fleet = fleet().await;
    fleet.start("all", &["all"]).await.unwrap();
    let address = address(fleet.process("all").unwrap()).await;
    until_answers(&address, "/readyz", 200, "ok").await;
    let client = ::redis::Client::open(fleet.redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut replica_of = async |host: &str, port: &str| {
        let mut command = ::redis::cmd("REPLICAOF");
        command.arg(host).arg(port).exec_async(&mut connection).await.unwrap();
    };

    replica_of("127.0.0.1", "9").await;
    until_answers(&address, "/readyz", 503, "not ready: Redis\n").await;
    replica_of("NO", "ONE").await;

    until_answers(&address, "/readyz", 200, "ok").await;
}

/// A line of its own, and not a word in another one.
fn says_ready(process: &Process) -> bool {
    let log = process.log();
    let mut logged = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    logged.any(|line| line["message"] == "ready")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_starts_before_its_broker_waits_for_it_and_then_says_that_it_is_ready() {
    let mut fleet = fleet().await;
    let url = fleet.add_rabbitmq().await.unwrap();
    fleet.set("EVOLUTION_AMQP_URL", url);
    fleet.rabbitmq().unwrap().kill().await.unwrap();
    let mut roles = Vec::new();
    for (role, waits) in [("events", "events wait in the database"), ("follow", "events wait at its broker")] {
        let mut process = fleet.launch(&[role]).unwrap();
        let address = address(&mut process).await;
        process.wait_for_log(waits, PATIENCE).await.unwrap();
        until_answers(&address, "/readyz", 503, "not ready: RabbitMQ\n").await;
        assert!(!says_ready(&process), "{}", process.log());
        roles.push((address, process));
    }

    fleet.rabbitmq().unwrap().restart().await.unwrap();

    for (address, process) in &roles {
        until_answers(address, "/readyz", 200, "ok").await;
        let ready = until(PATIENCE, async || says_ready(process).then_some(())).await;
        assert!(ready.is_some(), "{}", process.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_the_process_before_has_for_a_moment_longer_is_waited_for() {
    let before = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = before.local_addr().unwrap().to_string();
    let redis = servers::shared().await.redis.url();
    let settings = [
        ("DATABASE_URL", "postgres://ada:hunter2@127.0.0.1:9/app"),
        ("REDIS_URL", &redis),
        ("EVOLUTION_API_BASE_URL", "http://127.0.0.1:9"),
        ("HTTP_LISTEN", &taken),
        ("LOG_FORMAT", "json"),
    ];
    let program = Program::new(servers::binary("sluice").unwrap()).args(["relay"]);
    let mut relay = settings.iter().fold(program, |program, (name, value)| program.env(name, value)).start().unwrap();

    relay.wait_for_log("the port of HTTP_LISTEN is taken", PATIENCE).await.unwrap();
    drop(before);

    assert_eq!(address(&mut relay).await, taken);
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_refusal_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().into_std().unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let redis = servers::shared().await.redis.url();
    let settings = [
        ("DATABASE_URL", "postgres://ada:hunter2@127.0.0.1:9/app"),
        ("REDIS_URL", &redis),
        ("EVOLUTION_API_BASE_URL", "http://127.0.0.1:9"),
        ("HTTP_LISTEN", &address),
    ];

    let refused = run(&["relay"], &settings).await;

    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    let text = format!("cannot start: HTTP_LISTEN={address} cannot be listened on");
    assert!(said(&refused).contains(&text) && said(&refused).contains("choose another port"), "{}", said(&refused));
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_with_what_is_expected() {
    let settings = [
        ("DATABASE_URL", "postgres://127.0.0.1/app"),
        ("REDIS_URL", "redis://127.0.0.1"),
        ("EVOLUTION_API_BASE_URL", "http://127.0.0.1:9"),
        ("HTTP_LISTEN", "9464"),
    ];

    let refused = run(&["relay"], &settings).await;

    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("HTTP_LISTEN=9464: expected an IP address and a port"), "{}", said(&refused));
}
