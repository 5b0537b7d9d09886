//! The roles as separate processes, as Kubernetes runs them.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tests::{
    evolution::{Config, Fault, Route, Rule, Stage, When},
    fleet::Fleet,
    servers::{postgres, redis, until},
};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_into_auth_users_becomes_a_ready_instance_through_separate_processes() {
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    let mut session = fleet.connect().await.unwrap();
    let mut states = vec![];

    sqlx::query("insert into auth.users (email) values ('ada@example.org')").execute(&mut session).await.unwrap();
    states.push(state(&mut session).await);
    fleet.start_roles().await.unwrap();
    let ready = until(PATIENCE, async || {
        let now = state(&mut session).await;
        if states.last() != Some(&now) {
            states.push(now);
        }
        (states.last()?.as_str() == "completed").then_some(())
    });

    assert!(ready.await.is_some(), "after {PATIENCE:?}: {states:?}");
    assert_eq!(states, ["pending", "processing", "completed"]);
    let row: (String, bool, bool) =
        sqlx::query_as("select status, qr_code is not null, webhook_url <> '' from evolution_instances")
            .fetch_one(&mut session)
            .await
            .unwrap();
    assert_eq!(row, ("connecting".to_owned(), true, true));
    session.close().await.unwrap();
}

async fn state(session: &mut PgConnection) -> String {
    sqlx::query_scalar("select status from evolution_instance_creation_queue").fetch_one(session).await.unwrap()
}

/// By it a relay knows of the worker's death long before its leases end.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_holds_a_lock_of_its_session_as_long_as_it_lives() {
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    let mut session = fleet.connect().await.unwrap();
    fleet.start("worker", &["worker", "verify"]).await.unwrap();
    let locks = "select count(*)
         from sluice.heartbeat
         join pg_locks as held
           on held.locktype = 'advisory'
           and held.classid = 7319
           and held.objid::bigint = hashtext(worker)::bigint & 4294967295
         where has_session";
    let mut number = async || sqlx::query_scalar(locks).fetch_one(&mut session).await.ok();

    let holds = until(PATIENCE, async || number().await.filter(|locks: &i64| *locks == 1)).await;
    fleet.process("worker").unwrap().kill().await.unwrap();
    let is_free = until(PATIENCE, async || number().await.filter(|locks: &i64| *locks == 0)).await;

    assert_eq!((holds, is_free), (Some(1), Some(0)));
}

/// Of the connection over which a worker waits for hints: its number, and for how many seconds
/// nothing has passed over it.
async fn waits_for_hints(redis: &mut ::redis::aio::MultiplexedConnection) -> Option<(u64, u64)> {
    let clients: String = ::redis::cmd("CLIENT").arg("LIST").query_async(redis).await.unwrap();
    let line = clients.lines().find(|line| line.contains(" cmd=blpop "))?;
    let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.parse().ok());
    Some((field("id=")?, field("idle=")?))
}

/// When it goes on, its timers have run out, and Redis' answer lies unread.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_does_not_take_redis_for_lost() {
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    // One question at a time, which Redis answers after two seconds.
    fleet.set("WORKER_CONCURRENCY", "1");
    fleet.start("worker", &["worker", "verify"]).await.unwrap();
    let client = ::redis::Client::open(fleet.redis.url()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let (before, _) = until(PATIENCE, async || waits_for_hints(&mut redis).await).await.unwrap();

    let worker = fleet.process("worker").unwrap();
    worker.pause().unwrap();
    let stood = until(PATIENCE, async || waits_for_hints(&mut redis).await.filter(|(_, idle)| *idle >= 6)).await;
    worker.resume().unwrap();

    assert!(stood.is_some(), "the worker asks on while it stands still");
    let after = until(PATIENCE, async || waits_for_hints(&mut redis).await.filter(|(_, idle)| *idle <= 1)).await;
    let log = worker.log();
    assert_eq!(after.map(|(number, _)| number), Some(before), "{log}");
    assert!(!log.contains("Redis is lost"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_says_what_was_taken_away_since_the_migration_and_the_mend() {
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    let mut session = fleet.connect().await.unwrap();
    sqlx::query("drop trigger on_profile_created_create_evolution_instance on public.profiles")
        .execute(&mut session)
        .await
        .unwrap();

    fleet.start("relay", &["relay"]).await.unwrap();

    let relay = fleet.process("relay").unwrap();
    relay.wait_for_log("missing in the database", PATIENCE).await.unwrap();
    let said = relay.log();
    assert!(
        said.contains("on_profile_created_create_evolution_instance") && said.contains("--sign-up-trigger on"),
        "{said}"
    );
    session.close().await.unwrap();
}

/// What only a programmer could read.
const DEBUG_OUTPUT: [&str; 9] =
    ["Some(", "None,", "Ok(", "Err(", "Error {", "InstanceName(", "UserId(", "Database(", "PgDatabaseError"];

fn assert_is_for_people(whence: &str, text: &str) {
    for sign in DEBUG_OUTPUT {
        assert!(!text.contains(sign), "{sign} in {whence}:\n{text}");
    }
}

async fn sign_up(session: &mut PgConnection, user: Uuid) {
    let insert = "insert into auth.users (id, email) values ($1, $1::text || '@example.org')";
    sqlx::query(insert).bind(user).execute(session).await.unwrap();
}

/// What the ledger and the app's rows say of failures.
async fn texts(session: &mut PgConnection) -> String {
    let texts = "select concat_ws(E'\\n',
          (select string_agg(error, E'\\n') from sluice.attempt), (select string_agg(error, E'\\n') from sluice.dead_letter),
          (select string_agg(concat_ws(' ', error, held_by), E'\\n') from sluice.step),
          (select string_agg(error_message, E'\\n') from public.evolution_instance_creation_queue),
          (select string_agg(breaker_reason, E'\\n') from sluice.gate))";
    sqlx::query_scalar(texts).fetch_one(session).await.unwrap()
}

async fn until_there_is(session: &mut PgConnection, text: &'static str) -> String {
    let found = until(PATIENCE, async || sqlx::query_scalar(text).fetch_optional(&mut *session).await.unwrap()).await;
    found.unwrap_or_else(|| panic!("after {PATIENCE:?}: {text}"))
}

/// Dead letters, attempts, rows, gates, the commands that show them, and the log of each process.
#[tokio::test(flavor = "multi_thread")]
async fn what_people_read_of_failures_has_no_debug_output_and_the_log_names_the_cause_that_the_gate_has() {
    const WORKER: &str = "worker-create-instance-1";
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    let poison = Uuid::new_v4();
    let fault = Fault::Error { status: 500, body: None, stage: Stage::BeforeWork };
    let name_prefix = Some(format!("user_{poison}"));
    let rule = Rule { route: Some(Route::Create), name_prefix, when: When::Always, fault };
    fleet.api.with(|world, _| world.faults_mut().rules = vec![rule]);
    fleet.set("RETRY_LIMIT", "1");
    let mut session = fleet.connect().await.unwrap();
    fleet.start_roles().await.unwrap();

    sign_up(&mut session, poison).await;
    let run = until_there_is(&mut session, "select run_id::text from sluice.dead_letter").await;
    fleet.set("EVOLUTION_API_KEY", "not-the-key");
    for name in fleet.names().into_iter().filter(|name| name.starts_with("worker")) {
        assert_is_for_people(&name, &fleet.process(&name).unwrap().log());
        let step = name.trim_start_matches("worker-").trim_end_matches("-1");
        fleet.start(&name, &["worker", step]).await.unwrap();
    }
    sign_up(&mut session, Uuid::new_v4()).await;
    let gate = "select breaker_reason from sluice.gate where scope = 'host' and breaker_cause = 'key'";
    let reason = until_there_is(&mut session, gate).await;
    fleet.process(WORKER).unwrap().wait_for_log("EVOLUTION_API_KEY", PATIENCE).await.unwrap();
    let log = fleet.process(WORKER).unwrap().log();

    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let warned: Vec<_> = lines.filter(|line| line["message"] == "the API's breaker is open").collect();
    assert!(reason.contains("EVOLUTION_API_KEY"), "{reason}");
    assert!(warned.iter().any(|line| line["reason"] == reason.as_str()), "{warned:?} is not {reason}");
    assert_is_for_people("the rows", &texts(&mut session).await);
    for command in [
        vec!["dead-letters", "list"],
        vec!["dead-letters", "show", &run],
        vec!["runs", "list"],
        vec!["runs", "show", &run],
        vec!["queue", "stats"],
        vec!["adopt", "status"],
    ] {
        assert_is_for_people(&command.join(" "), &fleet.sluice(&command).await.unwrap());
    }
    for name in fleet.names() {
        assert_is_for_people(&name, &fleet.process(&name).unwrap().log());
    }
    session.close().await.unwrap();
}
