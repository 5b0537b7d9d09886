//! The engine in one process: relay and worker over a real Postgres and Redis and the simulated Evolution API.

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
use workflows::{definition::Registry, ids::RunId, policy::Retry, provision, secret::Secret};

use crate::app::App;

/// Long enough for a loaded machine with two cores.
const PATIENCE: Duration = Duration::from_secs(60);

struct Engine {
    app: App,
    api: Server,
    ledger: Postgres,
    queue: Queue,
    stop: CancellationToken,
    roles: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Engine {
    async fn start() -> Self {
        Self::start_on(App::migrated().await).await
    }

    async fn start_on(app: App) -> Self {
        let api = Server::start(Config::default()).await.unwrap();
        let ledger = ledger_of(&app, 8).await;
        let prefix: queue::Prefix = servers::prefix().replace(':', "").parse().unwrap();
        let url = Secret::new(servers::shared().await.redis.url());
        let queue = Queue::connect(&queue::Config::new(url, prefix)).unwrap();
        let mut engine = Self { app, api, ledger, queue, stop: CancellationToken::new(), roles: Vec::new() };
        engine.start_roles().await;
        engine
    }

    async fn start_roles(&mut self) {
        self.start_relay(self.queue.clone()).await;
        self.start_worker(self.queue.clone()).await;
    }

    /// Relay and worker stop as at a deployment, and start again.
    async fn restart_roles(&mut self) {
        self.stop_roles().await;
        self.stop = CancellationToken::new();
        self.start_roles().await;
    }

    async fn stop_roles(&mut self) {
        self.stop.cancel();
        for role in self.roles.drain(..) {
            role.await.unwrap().unwrap();
        }
    }

    async fn start_relay(&mut self, queue: Queue) {
        let settings =
            relay::Settings { batch: 200, high_water: 1000, intake_poll: Duration::from_millis(100), host: None };
        let deps = relay::Deps { ledger: self.ledger.clone(), queue, listen: Some(self.ledger.pool().clone()) };
        self.roles.push(tokio::spawn(relay::run(settings, deps, self.stop.clone())));
    }

    async fn start_worker(&mut self, queue: Queue) {
        let settings = worker::Settings {
            steps: provision::step_names().to_vec(),
            concurrency: NonZeroUsize::new(20).unwrap(),
            grace: Duration::from_secs(5),
            host: None,
        };
        let deps = worker::Deps {
            ledger: self.ledger.clone(),
            leases: ledger_of(&self.app, 1).await,
            queue,
            api: client(&self.api),
            settings: provision_settings(),
            registry: registry(),
        };
        self.roles.push(tokio::spawn(worker::run(settings, deps, self.stop.clone())));
    }

    /// Waits until the query's one boolean is true.
    async fn until(&self, what: &str, sql: &str) {
        let mut session = self.app.superuser().await;
        let held = servers::until(PATIENCE, async || session.one::<Option<bool>>(sql).await.filter(|held| *held)).await;
        assert!(held.is_some(), "{what}: not within {PATIENCE:?}");
    }

    async fn stop(mut self) {
        self.stop_roles().await;
        self.api.stop().await;
    }
}

async fn ledger_of(app: &App, connections: u32) -> Postgres {
    let pool = PgPoolOptions::new().max_connections(connections).connect_with(app.options()).await.unwrap();
    let setup = ledger::Setup {
        registry: registry(),
        draw_run: Arc::new(|| RunId::new(Uuid::now_v7())),
        draw_token: Arc::new(|| Secret::new(Uuid::new_v4().to_string())),
        on_sign_up: "provision-instance".parse().unwrap(),
    };
    Postgres::new(pool, Pooling::Session, setup)
}

fn client(api: &Server) -> evolution::Client {
    let key = Secret::new(api.key());
    let timeouts = evolution::Timeouts::default();
    evolution::Client::new(evolution::Options { base_url: api.base_url().to_owned(), key, timeouts }).unwrap()
}

fn provision_settings() -> provision::Settings {
    let webhook = provision::WebhookOptions {
        url: "http://127.0.0.1:9/hook/{user_id}".to_owned(),
        events: ["QRCODE_UPDATED", "CONNECTION_UPDATE", "MESSAGES_UPSERT"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let options = provision::Options {
        webhook,
        qr_at_signup: provision::QrAtSignup::Fetch,
        timings: provision::Timings::default(),
    };
    provision::Settings::parse(options).unwrap()
}

fn registry() -> Arc<Registry> {
    let definition = provision::definition(Retry::default(), Duration::from_secs(90), Duration::from_secs(86_400));
    Arc::new(Registry::new(vec![definition]))
}
