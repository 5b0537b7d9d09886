//! The program as a person and a supervisor see it: what it prints, what it refuses, how it ends.

use std::{
    process::{Command, Output},
    time::Duration,
};

use sqlx::ConnectOptions;
use tests::{
    evolution::{Config, server::Server},
    servers::{self, Process, Program, Redis, redis},
};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::app::{App, RELAY_LISTENS};

/// Long enough for a loaded machine with two cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it to its end with nothing in its environment but `variables`.
pub async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(servers::binary("sluice").unwrap());
    command.args(arguments).env_clear().envs(variables.iter().copied());
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The address of an app's database, for its owner (who is no superuser) where Supabase has one.
pub fn url_of(app: &App) -> String {
    let mut url = app.options().to_url_lossy();
    url.query_pairs_mut().clear().append_pair("options", "-c role=app_postgres");
    url.to_string()
}

pub fn start(role: &[&str], variables: &[(&str, &str)]) -> Process {
    let program = Program::new(servers::binary("sluice").unwrap()).args(role);
    variables.iter().fold(program, |program, (name, value)| program.env(*name, *value)).start().unwrap()
}

/// `sluice all` against an API, on the shared Redis. It finds sign-ups by LISTEN or, within the
/// tests' patience, not at all.
async fn start_all(app: &App, api: &str, key: &str, grace: &str) -> Process {
    let redis = servers::shared().await.redis.url();
    let prefix = servers::prefix().replace(':', "");
    let all = start(
        &["all"],
        &[
            ("DATABASE_URL", app.options().to_url_lossy().as_str()),
            ("REDIS_URL", &redis),
            ("REDIS_PREFIX", &prefix),
            ("EVOLUTION_API_BASE_URL", api),
            ("EVOLUTION_API_KEY", key),
            ("WEBHOOK_URL", "http://127.0.0.1:9/hook/{user_id}"),
            ("INTAKE_POLL", "60s"),
            ("DRAIN_GRACE", grace),
        ],
    );
    let mut session = app.superuser().await;
    let listens = servers::until(PATIENCE, async || session.one::<bool>(RELAY_LISTENS).await.then_some(())).await;
    assert!(listens.is_some(), "it does not listen:\n{}", all.log());
    all
}

/// Of Postgres, of Redis and of RabbitMQ alike: it takes connections and answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_waits_for_an_answer_ends_at_the_first_signal() {
    let app = App::migrated().await;
    let step = "insert into sluice.definition values ('w', 1, 0, 'a', null, '4 s', false, '1 h')";
    app.superuser().await.run(step).await;
    let there = app.options().to_url_lossy().to_string();
    let commands: [(&[&str], &str); 8] = [
        (&["queue", "stats"], "DATABASE_URL"),
        (&["queue", "stats"], "REDIS_URL"),
        (&["queue", "pause", "a"], "DATABASE_URL"),
        (&["runs", "list"], "DATABASE_URL"),
        (&["dead-letters", "retry", "--all"], "DATABASE_URL"),
        (&["adopt", "status"], "DATABASE_URL"),
        (&["adopt", "start", "failed"], "DATABASE_URL"),
        (&["events", "tail"], "AMQP_URL"),
    ];
    for (arguments, waits_for) in commands {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let url = match waits_for {
            "DATABASE_URL" => format!("postgres://ada@{address}/app"),
            "REDIS_URL" => format!("redis://{address}"),
            _ => format!("amqp://{address}"),
        };
        let variables = [("DATABASE_URL", there.as_str()), ("USER", "ana"), (waits_for, &url)];
        let mut command = start(arguments, &variables);
        let (_connection, _) = tokio::time::timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();

        command.terminate().unwrap();

        let status = command.wait_for_exit(PATIENCE).await.unwrap();
        let log = command.log();
        assert_eq!(status.code(), Some(1), "{arguments:?}: {log}");
        assert!(log.contains("interrupted"), "{arguments:?}: {log}");
    }
}

/// What users read names the variables; an address inside the owner's network is for the log.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_call_through_a_proxy_does_not_show_users_where_the_proxy_is() {
    let app = App::migrated().await;
    let port = servers::free_port().unwrap();
    let (proxy, redis) = (format!("http://127.0.0.1:{port}"), servers::shared().await.redis.url());
    let prefix = servers::prefix().replace(':', "");
    let _all = start(
        &["all"],
        &[
            ("DATABASE_URL", app.options().to_url_lossy().as_str()),
            ("REDIS_URL", &redis),
            ("REDIS_PREFIX", &prefix),
            ("EVOLUTION_API_BASE_URL", "http://evolution.example"),
            ("EVOLUTION_API_KEY", "key"),
            ("WEBHOOK_URL", "http://127.0.0.1:9/hook/{user_id}"),
            ("HTTP_PROXY", &proxy),
        ],
    );
    app.sign_up(Uuid::new_v4()).await.unwrap();
    let mut session = app.superuser().await;
    let said = "select error_message from evolution_instance_creation_queue where error_message like '%the proxy that HTTP_PROXY%'";

    let said = servers::until(PATIENCE, async || session.all::<String>(said).await.pop()).await;

    let said = said.expect("the row says why it waits");
    assert!(!said.contains(&port.to_string()), "{said}");
}

/// A relay calls no API: it only shares its gate with the workers.
const NO_API: (&str, &str) = ("EVOLUTION_API_BASE_URL", "http://127.0.0.1:9");

#[tokio::test]
async fn migrate_says_what_it_does_and_does_it_once() {
    let app = App::new().await;
    let url = url_of(&app);
    let migrate = async |arguments: &[&str]| run(arguments, &[("DATABASE_URL", &url)]).await;

    let before = migrate(&["migrate", "--check"]).await;
    let first = migrate(&["migrate"]).await;
    let second = migrate(&["migrate"]).await;
    let after = migrate(&["migrate", "--check", "--json"]).await;

    assert_eq!(before.status.code(), Some(3), "{}", said(&before));
    assert!(printed(&before).contains("pending 20261122000001 ledger"), "{}", printed(&before));
    assert_eq!(first.status.code(), Some(0), "{}", said(&first));
    assert!(printed(&first).starts_with("applied 20261122000001 ledger ("), "{}", printed(&first));
    assert!(printed(&second).ends_with("migrations applied, 0 of them now\n"), "{}", printed(&second));
    let report: serde_json::Value = serde_json::from_slice(&after.stdout).unwrap();
    assert_eq!(after.status.code(), Some(0));
    assert_eq!(report["pending"], serde_json::json!([]));
    assert_eq!(report["applied"][0], serde_json::json!({ "version": 20261122000001_i64, "name": "ledger" }));
}

#[tokio::test]
async fn migrate_keeps_its_books_in_the_private_schema() {
    let app = App::new().await;

    let migrated = run(&["migrate"], &[("DATABASE_URL", &url_of(&app))]).await;

    assert_eq!(migrated.status.code(), Some(0), "{}", said(&migrated));
    let mut session = app.superuser().await;
    let tables: Vec<String> =
        session.all("select relnamespace::regnamespace::text from pg_class where relname = '_sqlx_migrations'").await;
    assert_eq!(tables, ["sluice"]);
}

#[tokio::test]
async fn migrate_and_another_tool_with_the_same_files_do_each_other_no_harm() {
    let app = App::adopted().await;

    let migrated = run(&["migrate"], &[("DATABASE_URL", &url_of(&app))]).await;
    app.migrate().await;
    let again = run(&["migrate", "--check"], &[("DATABASE_URL", &url_of(&app))]).await;

    assert_eq!(migrated.status.code(), Some(0), "{}", said(&migrated));
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
}

#[tokio::test]
async fn two_migrations_at_the_same_moment_take_turns() {
    let app = App::new().await;
    let url = url_of(&app);
    let migrate = async || run(&["migrate", "--json"], &[("DATABASE_URL", &url)]).await;

    let (one, other) = tokio::join!(migrate(), migrate());

    let applied = |output: &Output| {
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["applied_now"].as_array().unwrap().len()
    };
    assert!(one.status.success() && other.status.success(), "{}{}", said(&one), said(&other));
    assert!(applied(&one) == 0 || applied(&other) == 0);
    assert!(applied(&one) + applied(&other) > 0);
}

#[tokio::test]
async fn a_migration_that_meets_a_lock_lets_the_app_pass_and_is_tried_again() {
    let app = App::new().await;
    let mut busy = app.owner().await;
    busy.run("begin; lock table public.profiles in access exclusive mode").await;
    let mut migration = start(&["migrate"], &[("DATABASE_URL", &url_of(&app))]);

    migration.wait_for_log("met a lock", PATIENCE).await.unwrap();
    busy.run("rollback").await;

    let status = migration.wait_for_exit(PATIENCE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", migration.log());
}

#[tokio::test]
async fn an_older_program_leaves_a_database_that_a_newer_one_migrated_alone() {
    let app = App::new().await;
    run(&["migrate"], &[("DATABASE_URL", &url_of(&app))]).await;
    let mut owner = app.superuser().await;
    owner.run("insert into sluice._sqlx_migrations values (99990101000000, 'later', now(), true, '\\x00', 1)").await;

    let migrated = run(&["migrate"], &[("DATABASE_URL", &url_of(&app))]).await;

    assert_eq!(migrated.status.code(), Some(0), "{}", said(&migrated));
    assert!(printed(&migrated).contains("a newer program has also applied 99990101000000"), "{}", printed(&migrated));
}

#[tokio::test]
async fn a_migration_that_was_changed_after_it_was_applied_is_refused_by_name() {
    let app = App::new().await;
    run(&["migrate"], &[("DATABASE_URL", &url_of(&app))]).await;
    app.superuser()
        .await
        .run("update sluice._sqlx_migrations set checksum = '\\x00' where version = 20261122000001")
        .await;

    let migrated = run(&["migrate"], &[("DATABASE_URL", &url_of(&app))]).await;

    assert_eq!(migrated.status.code(), Some(1));
    assert!(
        said(&migrated).contains("migration 20261122000001 ledger was applied with another content"),
        "{}",
        said(&migrated)
    );
}

#[tokio::test]
async fn settings_are_refused_in_the_form_of_the_log() {
    let settings = [("DATABASE_URL", "postgres://ada:hun/ter2@db/app"), ("LOG_FORMAT", "json"), ("RELAY_BATCH", "0")];

    let refused = run(&["relay"], &settings).await;

    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    let lines: Vec<serde_json::Value> =
        said(&refused).lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let settings: Vec<_> = lines.iter().map(|line| line["setting"].as_str().unwrap()).collect();
    assert_eq!(settings, ["DATABASE_URL", "REDIS_URL", "RELAY_BATCH", "EVOLUTION_API_BASE_URL"]);
    assert!(lines.iter().all(|line| line["level"] == "ERROR"), "{lines:?}");
    assert_eq!(lines[2]["message"], "cannot start: RELAY_BATCH=0: expected a number from 1 to 1000");
    assert!(!said(&refused).contains("ter2"), "{}", said(&refused));
}

#[tokio::test]
async fn a_role_refuses_a_redis_that_would_drop_hints() {
    let app = App::migrated().await;
    let redis = Redis::start(redis::Options::default().maxmemory_policy("allkeys-lru")).await.unwrap();

    let refused = run(&["relay"], &[("DATABASE_URL", &url_of(&app)), ("REDIS_URL", &redis.url()), NO_API]).await;

    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("cannot start: maxmemory-policy is allkeys-lru"), "{}", said(&refused));
}

#[tokio::test]
async fn a_role_that_began_without_redis_ends_when_one_comes_that_would_drop_hints() {
    let app = App::migrated().await;
    let mut redis = Redis::start(redis::Options::default().maxmemory_policy("allkeys-lru")).await.unwrap();
    redis.stop().await.unwrap();
    let url = redis.url();
    let mut relay = start(&["relay"], &[("DATABASE_URL", &url_of(&app)), ("REDIS_URL", &url), NO_API]);
    relay.wait_for_log("ready", PATIENCE).await.unwrap();

    redis.restart().await.unwrap();

    let status = relay.wait_for_exit(PATIENCE).await.unwrap();
    assert_eq!(status.code(), Some(2), "{}", relay.log());
    assert!(relay.log().contains("cannot start: maxmemory-policy is allkeys-lru"), "{}", relay.log());
}

#[tokio::test]
async fn a_role_waits_for_postgres_and_says_so_and_ends_when_it_is_told_to() {
    let nowhere = format!("postgres://ada:hunter2@127.0.0.1:{}/app", servers::free_port().unwrap());
    let redis = servers::shared().await.redis.url();
    let settings = [("DATABASE_URL", nowhere.as_str()), ("REDIS_URL", &redis), ("LOG_FORMAT", "json"), NO_API];
    let mut relay = start(&["relay"], &settings);

    relay.wait_for_log("waiting for Postgres", PATIENCE).await.unwrap();
    relay.terminate().unwrap();

    let status = relay.wait_for_exit(PATIENCE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", relay.log());
    assert!(relay.log().contains("Connection refused") && !relay.log().contains("hunter2"), "{}", relay.log());
    for line in relay.log().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn every_role_in_one_process_serves_a_sign_up_and_ends_in_good_order() {
    let app = App::migrated().await;
    let api = Server::start(Config::default()).await.unwrap();
    let mut all = start_all(&app, api.base_url(), api.key(), "5m").await;
    let mut session = app.superuser().await;

    app.sign_up(Uuid::new_v4()).await.unwrap();

    let completed = "select exists (select from evolution_instance_creation_queue where status = 'completed')";
    let served = servers::until(PATIENCE / 2, async || session.one::<bool>(completed).await.then_some(())).await;
    all.terminate().unwrap();
    let status = all.wait_for_exit(PATIENCE).await.unwrap();
    assert!(served.is_some(), "the sign-up was not served:\n{}", all.log());
    assert_eq!(status.code(), Some(0), "{}", all.log());
    assert!(!all.log().contains(api.key()));
}

#[tokio::test]
async fn the_first_signal_lets_an_attempt_end_and_the_second_stops_at_once() {
    let app = App::migrated().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut all = start_all(&app, &format!("http://{}", silent.local_addr().unwrap()), "a-key", "5m").await;

    app.sign_up(Uuid::new_v4()).await.unwrap();
    let (_call, _) = tokio::time::timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();
    all.terminate().unwrap();
    all.wait_for_log("SIGTERM: stopping in good order", PATIENCE).await.unwrap();
    assert!(all.exited().unwrap().is_none(), "it did not wait for the attempt");
    all.terminate().unwrap();

    let status = all.wait_for_exit(PATIENCE).await.unwrap();
    assert_eq!(status.code(), Some(143), "{}", all.log());
}

#[tokio::test]
async fn a_drain_hands_back_what_does_not_end_in_its_grace_period_uncounted_and_at_once() {
    let app = App::migrated().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut all = start_all(&app, &format!("http://{}", silent.local_addr().unwrap()), "a-key", "1s").await;
    app.sign_up(Uuid::new_v4()).await.unwrap();
    let (_call, _) = tokio::time::timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();

    all.terminate().unwrap();

    let status = all.wait_for_exit(PATIENCE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", all.log());
    let mut session = app.superuser().await;
    let step: String = session
        .one("select concat_ws(' ', state, failures, crashes, due_at <= now()) from sluice.step where position = 0")
        .await;
    assert_eq!(step, "due 0 0 t", "{}", all.log());
    assert_eq!(session.all::<String>("select outcome from sluice.attempt").await, ["deferred"]);
}
