//! Sluice behind a real transaction pooler: the program as a user starts it, with PgBouncer between
//! it and Postgres. What the ledger does there is in the conformance suite, which runs through the
//! same pooler.

mod listening;
mod modes;
mod sign_ups;

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tests::servers::{self, PgBouncer, Process, pgbouncer};
use tokio::sync::OnceCell;

use crate::{app::App, config, program};

/// Long enough for a loaded machine with two cores.
const PATIENCE: Duration = Duration::from_secs(60);

static SHARED: OnceCell<PgBouncer> = OnceCell::const_new();

/// The pooler before the Postgres that all tests share, whose clients work as the services' own
/// role. It gives the next transaction the backend that has rested longest, so that what is left
/// behind on one is missed at once.
pub async fn shared() -> &'static PgBouncer {
    SHARED.get_or_init(async || start(options().set("server_round_robin", "1")).await).await
}

async fn start(options: pgbouncer::Options) -> PgBouncer {
    PgBouncer::start(&servers::shared().await.postgres, options).await.unwrap()
}

fn options() -> pgbouncer::Options {
    pgbouncer::Options::default().role("sluice_runtime")
}

/// How Sluice connects to a database through the shared pooler.
pub async fn options_of(database: &str) -> PgConnectOptions {
    let url = shared().await.url(database);
    let settings = config::parsed(&[("DATABASE_URL", &url), ("DATABASE_POOLING", "transaction")]);
    settings.relay.ledger.database.connect("test")
}

/// What the processes of one test have in common.
pub struct Fleet {
    pub app: App,
    variables: Vec<(&'static str, String)>,
    processes: Vec<Process>,
}

impl Fleet {
    /// On the shared Redis, and on an app's database behind `pooler`. No role runs yet.
    pub async fn behind(pooler: &PgBouncer, api: &str, key: &str) -> Self {
        let app = App::migrated().await;
        let variables = vec![
            ("DATABASE_URL", pooler.url(&database(&app))),
            ("DATABASE_POOLING", "transaction".to_owned()),
            ("REDIS_URL", servers::shared().await.redis.url()),
            ("REDIS_PREFIX", servers::prefix().replace(':', "")),
            ("EVOLUTION_API_BASE_URL", api.to_owned()),
            ("EVOLUTION_API_KEY", key.to_owned()),
            ("WEBHOOK_URL", "http://127.0.0.1:9/hook/{user_id}".to_owned()),
        ];
        Self { app, variables, processes: Vec::new() }
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.variables.retain(|(found, _)| *found != name);
        self.variables.push((name, value.into()));
    }

    fn variables(&self) -> Vec<(&str, &str)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    pub async fn start(&mut self, role: &[&str]) -> &mut Process {
        let mut process = program::start(role, &self.variables());
        process.wait_for_log("ready", PATIENCE).await.unwrap();
        self.processes.push(process);
        self.processes.last_mut().unwrap()
    }

    /// The boolean that a query answers becomes true.
    pub async fn until(&self, what: &str, sql: &str) {
        let mut session = self.app.superuser().await;
        let held = servers::until(PATIENCE, async || session.one::<Option<bool>>(sql).await.filter(|held| *held)).await;
        assert!(held.is_some(), "{what}: not within {PATIENCE:?}");
    }
}

fn database(app: &App) -> String {
    app.options().get_database().unwrap().to_owned()
}

fn occurrences(log: &str, text: &str) -> usize {
    log.matches(text).count()
}
