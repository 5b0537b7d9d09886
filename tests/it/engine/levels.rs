//! What stays behind: after many runs and many restarts of workers nothing is larger than it was at
//! half the way. `LEVEL_RUNS` and `LEVEL_RESTARTS` set how many; `make full` takes 100,000 and
//! 1,000.

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _};

use sluice::ledger::{By, OperatorLedger, Scope};
use sqlx::ConnectOptions;
use tests::{
    evolution::{Fault, Route, Rule, Stage, When},
    servers::{Process, Program, binary, until},
};
use workflows::{
    policy::Retry,
    state::Limits,
    whatsapp::provision::{QrAtSignup, VERIFY},
};

use super::*;
use crate::conformance::postgres::everything_is_older_by;

const USERS: usize = 100;
/// The services keep nothing that ended so long ago.
const LONG_AGO: Duration = Duration::from_secs(100 * 86_400);
const READY: &str = "select bool_and(status = 'completed') from evolution_instance_creation_queue";

type Sizes = BTreeMap<String, i64>;

fn number(variable: &str, otherwise: usize) -> usize {
    let text = std::env::var(variable).ok();
    text.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}: expected a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_many_runs_and_restarts_nothing_has_grown_since_half_the_way() {
    let (runs, restarts) = (number("LEVEL_RUNS", 1_200), number("LEVEL_RESTARTS", 40));
    let rounds = runs.div_ceil(2 * USERS);
    let retry = Retry {
        base: Duration::from_millis(20),
        limits: Limits { failures: 2, ..Retry::default().limits },
        ..Retry::default()
    };
    let options = Options { retry, qr_at_signup: QrAtSignup::Skip, ..Options::default() };
    let mut engine = Engine::idle(App::migrated().await, options).await;
    for _ in 0..USERS {
        engine.app.sign_up(Uuid::new_v4()).await.unwrap();
    }

    let mut done = Vec::new();
    for _ in 0..2 {
        half(&mut engine, rounds, restarts / 2).await;
        done.push(sizes(&engine).await);
    }

    let (grown, table) = compare(&done[0], &done[1]);
    let title = format!(
        "{} runs, {restarts} restarts of workers: what is left, at half the way and at the end\n",
        2 * rounds * USERS
    );
    std::io::stdout().write_all((title + &table).as_bytes()).unwrap();
    assert!(grown.is_empty(), "these grow: {grown:?}\n{table}");
    assert!(done[1].values().sum::<i64>() > 0, "nothing was measured");
}

/// So many rounds: every user is asked for again, while workers come and go in good order, and now
/// and then one is killed.
async fn half(engine: &mut Engine, rounds: usize, restarts: usize) {
    engine.stop = CancellationToken::new();
    engine.start_relay().await;
    let mut stop = start_one(engine).await;
    engine.until("all are ready", READY).await;
    let mut restarted = 0;
    for round in 1..=rounds {
        let doomed = if round % 10 == 1 { Some(start_process(engine).await) } else { None };
        one_fails(engine).await;
        let mut owner = engine.app.owner().await;
        owner.run("update evolution_instance_creation_queue set status = 'pending'").await;
        while restarted < restarts * round / rounds {
            let next = start_one(engine).await;
            stop.cancel();
            let stopped = engine.roles.remove(1);
            stopped.await.unwrap().unwrap();
            (stop, restarted) = (next, restarted + 1);
        }
        if let Some(mut doomed) = doomed {
            doomed.kill().await.unwrap();
        }
        engine.until("one is dead", &format!("select count(*) >= {round} from sluice.dead_letter")).await;
        engine.api.with(|world, _| world.faults_mut().rules.clear());
        owner.run("update evolution_instance_creation_queue set status = 'pending' where status = 'failed'").await;
        engine.until("all are ready", READY).await;
    }
    assert!(until(PATIENCE, async || (held(engine).await == 0).then_some(())).await.is_some(), "hints stay in Redis");
    stop.cancel();
    engine.stop_roles().await;
}

async fn start_one(engine: &mut Engine) -> CancellationToken {
    let (key, stop) = (engine.api.key().to_owned(), CancellationToken::new());
    engine.start_worker(&key, stop.clone()).await;
    stop
}

/// One user's webhook cannot be set, until the rule is taken away; and somebody pauses a step for a
/// moment.
async fn one_fails(engine: &Engine) {
    let name: String = engine.app.superuser().await.one("select min(name) from sluice.resource").await;
    let fault = Fault::Error { status: 500, body: None, stage: Stage::BeforeWork };
    let rule = Rule { route: Some(Route::WebhookSet), name_prefix: Some(name), when: When::Always, fault };
    engine.api.with(|world, _| world.faults_mut().rules = vec![rule]);
    let ana = By { actor: "ana".to_owned(), note: None };
    engine.ledger.pause(Scope::Step, VERIFY, &ana).await.unwrap();
    engine.ledger.resume(Scope::Step, VERIFY, &ana).await.unwrap();
}

/// A worker as a process of its own, to be killed.
async fn start_process(engine: &Engine) -> Process {
    let program = Program::new(binary("sluice").unwrap()).args(["worker"]).args(STEPS);
    let redis = servers::shared().await.redis.url();
    let variables = [
        ("DATABASE_URL", engine.app.options().to_url_lossy().to_string()),
        ("REDIS_URL", redis),
        ("REDIS_PREFIX", engine.prefix.to_string()),
        ("EVOLUTION_API_BASE_URL", engine.api.base_url().to_owned()),
        ("EVOLUTION_API_KEY", engine.api.key().to_owned()),
        ("WEBHOOK_URL", "http://127.0.0.1:9/hook/{user_id}".to_owned()),
        ("QR_AT_SIGNUP", "false".to_owned()),
    ];
    let program = variables.into_iter().fold(program, |program, (name, value)| program.env(name, value));
    let mut process = program.start().unwrap();
    process.wait_for_log("ready", PATIENCE).await.unwrap();
    process
}

async fn redis() -> ::redis::aio::MultiplexedConnection {
    let client = ::redis::Client::open(servers::shared().await.redis.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// How many hints Redis holds, over all steps: also those that were fetched by a worker which is
/// gone.
async fn held(engine: &Engine) -> i64 {
    let mut redis = redis().await;
    let mut held = 0;
    for step in STEPS {
        let key = format!("{}:{step}:held", engine.prefix);
        let hints: i64 = ::redis::cmd("ZCARD").arg(key).query_async(&mut redis).await.unwrap();
        held += hints;
    }
    held
}

/// Rows and keys that are left when all that is old enough was pruned.
async fn sizes(engine: &Engine) -> Sizes {
    let mut superuser = engine.app.superuser().await;
    superuser.run("update sluice.event set published_at = now()").await;
    superuser.run(&everything_is_older_by(LONG_AGO)).await;
    while engine.ledger.prune(LONG_AGO / 2, 5_000).await.unwrap().rows > 0 {}
    let mut sizes = Sizes::new();
    let tables: Vec<String> = superuser
        .all("select table_name::text from information_schema.tables where table_schema = 'sluice' and table_type = 'BASE TABLE'")
        .await;
    for table in tables {
        let rows = superuser.one(&format!("select count(*) from sluice.\"{table}\"")).await;
        sizes.insert(format!("rows of sluice.{table}"), rows);
    }
    let mut redis = redis().await;
    let keys: Vec<String> =
        ::redis::cmd("KEYS").arg(format!("{}:*", engine.prefix)).query_async(&mut redis).await.unwrap();
    let mut bytes = 0;
    for key in &keys {
        let used: Option<i64> = ::redis::cmd("MEMORY").arg("USAGE").arg(key).query_async(&mut redis).await.unwrap();
        bytes += used.unwrap_or_default();
    }
    sizes.insert("keys in Redis".to_owned(), i64::try_from(keys.len()).unwrap());
    sizes.insert("bytes in Redis".to_owned(), bytes);
    sizes
}

#[test]
fn what_grows_is_seen() {
    let sizes = |rows, bytes| Sizes::from([("rows of x".to_owned(), rows), ("bytes in Redis".to_owned(), bytes)]);

    assert_eq!(compare(&sizes(100, 10_000), &sizes(102, 10_700)).0, Vec::<String>::new());
    assert_eq!(compare(&sizes(100, 10_000), &sizes(103, 10_000)).0.len(), 1);
    assert_eq!(compare(&sizes(100, 10_000), &sizes(100, 10_800)).0.len(), 1);
}

/// What is larger at the end, by more than a little, and the whole table.
fn compare(half: &Sizes, end: &Sizes) -> (Vec<String>, String) {
    let mut table = format!("{:<36}{:>10}{:>10}\n", "", "half", "end");
    let mut grown = Vec::new();
    for (what, after) in end {
        let before = half.get(what).copied().unwrap_or_default();
        let _ = writeln!(table, "{what:<36}{before:>10}{after:>10}");
        // A timer or two may stand differently: bytes of a number's digits, a key that expires in a
        // second.
        let most = before + if what.starts_with("bytes") { 256 + before / 20 } else { 2 };
        if *after > most {
            grown.push(format!("{what}: {before} at half the way, {after} at the end"));
        }
    }
    (grown, table)
}
