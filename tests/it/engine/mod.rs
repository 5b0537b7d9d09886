//! The engine in one process: relay and worker over a real Postgres and Redis and the simulated Evolution API.

mod gates;
mod sign_ups;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use sluice::{
    evolution,
    ledger::{
        self,
        postgres::{Pooling, Postgres},
    },
    queue::{self, Queue},
    relay, worker,
};
use sqlx::postgres::PgPoolOptions;
use tests::{
    evolution::{Config, server::Server},
    servers,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use workflows::{
    breaker::Rules,
    definition::{LEASE, Reach, Registry, Step, Workflow},
    ids::RunId,
    policy::Retry,
    provision,
    secret::Secret,
};

use crate::app::App;

/// Long enough for a loaded machine with two cores.
const PATIENCE: Duration = Duration::from_secs(60);

struct Engine {
    app: App,
    api: Server,
    ledger: Postgres,
    queue: Queue,
    options: Options,
    stop: CancellationToken,
    roles: Vec<JoinHandle<anyhow::Result<()>>>,
}

/// What differs between tests.
#[derive(Clone)]
struct Options {
    retry: Retry,
    timeouts: evolution::Timeouts,
    timings: provision::Timings,
    rules: Rules,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retry: Retry::default(),
            timeouts: evolution::Timeouts::default(),
            timings: provision::Timings::default(),
            rules: Rules::default(),
        }
    }
}

impl Engine {
    async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// A relay and a worker with the API's own key.
    async fn start_with(options: Options) -> Self {
        let mut engine = Self::idle(options).await;
        engine.start_relay().await;
        let key = engine.api.key().to_owned();
        engine.start_worker(&key, engine.stop.clone()).await;
        engine
    }

    /// Without any role.
    async fn idle(options: Options) -> Self {
        let app = App::migrated().await;
        let api = Server::start(Config::default()).await.unwrap();
        let ledger = ledger_of(&app, &options, 8).await;
        let prefix: queue::Prefix = servers::prefix().replace(':', "").parse().unwrap();
        let url = Secret::new(servers::shared().await.redis.url());
        let queue = Queue::connect(&queue::Config::new(url, prefix)).unwrap();
        Self { app, api, ledger, queue, options, stop: CancellationToken::new(), roles: Vec::new() }
    }

    fn host(&self) -> String {
        client(&self.api, self.api.key(), self.options.timeouts).host().to_owned()
    }

    async fn start_relay(&mut self) {
        let settings = relay::Settings {
            batch: 200,
            high_water: 1000,
            intake_poll: Duration::from_millis(100),
            host: Some(self.host()),
        };
        let listen = Some(self.ledger.pool().clone());
        let deps = relay::Deps { ledger: self.ledger.clone(), queue: self.queue.clone(), listen };
        self.roles.push(tokio::spawn(relay::run(settings, deps, self.stop.clone())));
    }

    async fn start_worker(&mut self, key: &str, stop: CancellationToken) {
        let settings = worker::Settings {
            steps: provision::step_names().to_vec(),
            concurrency: NonZeroUsize::new(20).unwrap(),
            grace: Duration::from_secs(5),
            host: Some(self.host()),
            rules: self.options.rules,
        };
        let deps = worker::Deps {
            ledger: self.ledger.clone(),
            leases: ledger_of(&self.app, &self.options, 1).await,
            queue: self.queue.clone(),
            api: client(&self.api, key, self.options.timeouts),
            settings: provision_settings(self.options.timings),
            registry: registry(self.options.retry),
        };
        self.roles.push(tokio::spawn(worker::run(settings, deps, stop)));
    }

    /// Waits until the query's one boolean is true.
    async fn until(&self, what: &str, sql: &str) {
        let mut session = self.app.superuser().await;
        let held = servers::until(PATIENCE, async || session.one::<Option<bool>>(sql).await.filter(|held| *held)).await;
        assert!(held.is_some(), "{what}: not within {PATIENCE:?}");
    }

    async fn stop(self) {
        self.stop.cancel();
        for role in self.roles {
            role.await.unwrap().unwrap();
        }
        self.api.stop().await;
    }
}

async fn ledger_of(app: &App, options: &Options, connections: u32) -> Postgres {
    let pool = PgPoolOptions::new().max_connections(connections).connect_with(app.options()).await.unwrap();
    let setup = ledger::Setup {
        registry: registry(options.retry),
        draw_run: Arc::new(|| RunId::new(Uuid::now_v7())),
        draw_token: Arc::new(|| Secret::new(Uuid::new_v4().to_string())),
        on_sign_up: "provision-instance".parse().unwrap(),
    };
    Postgres::new(pool, Pooling::Session, setup)
}

fn client(api: &Server, key: &str, timeouts: evolution::Timeouts) -> evolution::Client {
    let key = Secret::new(key);
    evolution::Client::new(evolution::Options { base_url: api.base_url().to_owned(), key, timeouts }).unwrap()
}

fn provision_settings(timings: provision::Timings) -> provision::Settings {
    let webhook = provision::WebhookOptions {
        url: "http://127.0.0.1:9/hook/{user_id}".to_owned(),
        events: ["QRCODE_UPDATED", "CONNECTION_UPDATE", "MESSAGES_UPSERT"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let options = provision::Options { webhook, qr_at_signup: provision::QrAtSignup::Fetch, timings };
    provision::Settings::parse(options).unwrap()
}

fn registry(retry: Retry) -> Arc<Registry> {
    let step = |name: &str, reach| Step {
        name: name.parse().unwrap(),
        timeout: Duration::from_secs(30),
        lease: LEASE,
        retry,
        reach,
    };
    let steps = vec![
        step(provision::CREATE_INSTANCE, Reach::Exclusive),
        step(provision::CONFIGURE_WEBHOOKS, Reach::Shared),
        step(provision::VERIFY, Reach::Shared),
    ];
    let name = "provision-instance".parse().unwrap();
    let workflow = Workflow { name, version: 1, steps, deadline: Duration::from_secs(86_400), priority: 0 };
    Arc::new(Registry::new(vec![workflow]))
}
