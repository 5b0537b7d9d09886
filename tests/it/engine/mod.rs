//! The engine in one process: relay and worker over a real Postgres and Redis and the simulated
//! Evolution API.

mod adopted;
mod announced;
mod beside_the_app;
mod gates;
mod levels;
mod networks;
mod refusals;
mod sign_ups;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use sluice::{
    database::{Database, Pooling},
    evolution,
    ledger::{self, postgres::Postgres},
    queue::{self, Queue},
    relay,
    supabase::{self, Finder},
    worker,
};
use tests::{
    evolution::{Config, server::Server},
    servers,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use workflows::{
    breaker::Rules,
    definition::{Definition, Registry},
    ids::RunId,
    policy::Retry,
    secret::Secret,
    whatsapp::{evolution::HostProbe, provision},
    workflow::Catalog,
};

use crate::{
    app::{App, another_workflows},
    conformance::bench::STEPS,
};

/// Long enough for a loaded machine with two cores.
const PATIENCE: Duration = Duration::from_secs(60);

struct Engine {
    app: App,
    api: Server,
    ledger: Postgres,
    prefix: queue::Prefix,
    options: Options,
    wires: Wires,
    stop: CancellationToken,
    roles: Vec<JoinHandle<anyhow::Result<()>>>,
}

/// What differs between tests.
#[derive(Clone, Default)]
struct Options {
    retry: Retry,
    timeouts: evolution::Timeouts,
    timings: provision::Timings,
    qr_at_signup: provision::QrAtSignup,
    rules: Rules,
    /// Behind the API's address.
    path: &'static str,
}

/// How a role reaches Postgres and Redis, where that is not straight.
#[derive(Clone, Copy, Default)]
struct Wires {
    postgres: Option<u16>,
    redis: Option<u16>,
}

impl Engine {
    async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    async fn start_with(options: Options) -> Self {
        Self::start_on(App::migrated().await, options).await
    }

    async fn start_on(app: App, options: Options) -> Self {
        let mut engine = Self::idle(app, options).await;
        engine.start_roles().await;
        engine
    }

    /// Without any role.
    async fn idle(app: App, options: Options) -> Self {
        let api = Server::start(Config::default()).await.unwrap();
        let host = client(&api, api.key(), &options).host().to_owned();
        let ledger = ledger_of(&app, registry(&options, &host), Wires::default(), 8);
        ledger.register().await.unwrap();
        let prefix: queue::Prefix = servers::prefix().replace(':', "").parse().unwrap();
        let (wires, stop) = (Wires::default(), CancellationToken::new());
        Self { app, api, ledger, prefix, options, wires, stop, roles: Vec::new() }
    }

    /// The ledger as a role that starts now reaches it.
    async fn wired_ledger(&self, connections: u32) -> Postgres {
        ledger_of(&self.app, self.registry(), self.wires, connections)
    }

    fn host(&self) -> String {
        client(&self.api, self.api.key(), &self.options).host().to_owned()
    }

    fn registry(&self) -> Arc<Registry> {
        registry(&self.options, &self.host())
    }

    /// The product, over an API that is asked with this key.
    fn catalog(&self, key: &str) -> Catalog {
        let (api, host) = (client(&self.api, key, &self.options), self.host());
        let workflow =
            provision::Provision::new(api.clone(), provision_settings(&self.options), definition(&self.options, &host));
        Catalog::default().with(workflow).probing(HostProbe::new(host, api))
    }

    /// A relay, and a worker with the API's own key.
    async fn start_roles(&mut self) {
        self.start_relay().await;
        let key = self.api.key().to_owned();
        self.start_worker(&key, self.stop.clone()).await;
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

    async fn start_relay(&mut self) {
        let settings = relay::Settings {
            batch: 200,
            intake_poll: Duration::from_millis(100),
            retention: Duration::from_secs(86_400),
        };
        let ledger = self.wired_ledger(8).await;
        let listen = Some(self.app.options());
        let queue = queue_of(&self.prefix, self.wires).await;
        let duties: Vec<Box<dyn relay::Duty>> = vec![Box::new(Finder::of_recent()), Box::new(Finder::of_all())];
        let deps = relay::Deps { ledger, queue, listen, duties, vitals: Default::default() };
        self.roles.push(tokio::spawn(relay::run(settings, deps, self.stop.clone())));
    }

    async fn start_worker(&mut self, key: &str, stop: CancellationToken) {
        let settings = worker::Settings {
            steps: STEPS.map(|step| step.parse().unwrap()).to_vec(),
            concurrency: NonZeroUsize::new(20).unwrap(),
            grace: Duration::from_secs(5),
            rules: self.options.rules,
        };
        let deps = worker::Deps {
            ledger: self.wired_ledger(8).await,
            leases: self.wired_ledger(1).await,
            queue: queue_of(&self.prefix, self.wires).await,
            catalog: self.catalog(key),
            vitals: Default::default(),
        };
        self.roles.push(tokio::spawn(worker::run(settings, deps, stop)));
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

async fn queue_of(prefix: &queue::Prefix, wires: Wires) -> Queue {
    let mut url: url::Url = servers::shared().await.redis.url().parse().unwrap();
    if let Some(port) = wires.redis {
        url.set_port(Some(port)).unwrap();
    }
    Queue::connect(&queue::Config::new(Secret::new(url.to_string()), prefix.clone())).unwrap()
}

fn ledger_of(app: &App, registry: Arc<Registry>, wires: Wires, connections: u32) -> Postgres {
    let straight = app.options();
    let through = wires.postgres.map_or_else(|| straight.clone(), |port| straight.clone().host("127.0.0.1").port(port));
    Postgres::over(Database::open(through, Pooling::Session, connections), registry)
}

fn client(api: &Server, key: &str, options: &Options) -> evolution::Client {
    let (key, timeouts) = (Secret::new(key), options.timeouts);
    evolution::Client::new(evolution::Options {
        base_url: format!("{}{}", api.base_url(), options.path),
        key,
        timeouts,
    })
    .unwrap()
}

fn provision_settings(options: &Options) -> provision::Settings {
    let webhook = provision::WebhookOptions {
        url: "http://127.0.0.1:9/hook/{user_id}".to_owned(),
        events: ["QRCODE_UPDATED", "CONNECTION_UPDATE", "MESSAGES_UPSERT"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let Options { qr_at_signup, timings, .. } = *options;
    let webhook = provision::WebhookTemplate::parse(webhook).unwrap();
    provision::Settings { webhook, qr_at_signup, amqp_mode: Default::default(), timings }
}

fn definition(options: &Options, host: &str) -> Definition {
    provision::definition(options.retry, Duration::from_secs(90), Duration::from_secs(86_400), host)
}

fn registry(options: &Options, host: &str) -> Arc<Registry> {
    Arc::new(Registry::new(vec![definition(options, host)]))
}
