//! Options and environment into what adapters and roles take. Each group of options is a file: its texts as clap reads
//! them, and `read`, which checks them and leaves a fault for each that cannot work; `parse` reads all groups that a role
//! needs and refuses with every fault at once.
//!
//! Nothing here opens a connection. No value of a variable may stand in a fault before it went through `Faults::add…`,
//! which know what is secret.

mod database;
mod evolution;
mod fault;
mod http;
mod log;
mod operator;
mod read;
mod redis;
mod relay;
mod traces;
mod webhook;
mod worker;
mod workflow;

use std::{net::SocketAddr, sync::Arc};

use clap::Args;
use workflows::{breaker::Rules, definition::Registry, provision};

pub use self::{
    database::Database,
    fault::{Fault, Faults},
    operator::{OperatorOptions, ReviveOptions, StatsOptions},
};
use crate::{
    evolution::Client,
    queue, relay as relay_role,
    telemetry::{Role, export::Traces, log::Log},
    worker as worker_role,
};

/// What a role is told, how the process logs and traces, and where it answers for its health.
#[derive(Debug, Clone)]
pub struct Config<R> {
    pub log: Log,
    /// None: nowhere.
    pub http: Option<SocketAddr>,
    /// None where nothing is exported.
    pub traces: Option<Traces>,
    pub role: R,
}

/// What `migrate` is told.
#[derive(Debug, Clone)]
pub struct Migrate {
    pub database: Database,
}

/// What the ledger's roles are told of it.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub database: Database,
    pub max_connections: u32,
    pub registry: Arc<Registry>,
}

/// What a person's command is told.
#[derive(Debug, Clone)]
pub struct Operator {
    pub ledger: Ledger,
    /// None where no Redis was named.
    pub queue: Option<queue::Config>,
}

/// What a relay is told.
#[derive(Debug, Clone)]
pub struct Relay {
    pub ledger: Ledger,
    /// Where LISTEN works, if anywhere.
    pub listen: Option<Database>,
    pub queue: queue::Config,
    pub settings: relay_role::Settings,
}

/// What a worker is told.
#[derive(Clone)]
pub struct Worker {
    pub ledger: Ledger,
    pub queue: queue::Config,
    pub api: Client,
    pub provision: provision::Settings,
    pub settings: worker_role::Settings,
}

/// What every role together is told.
#[derive(Clone)]
pub struct All {
    pub relay: Relay,
    pub worker: Worker,
}

#[derive(Args)]
pub struct MigrateOptions {
    #[command(flatten)]
    database: database::DatabaseOptions,
    #[command(flatten)]
    log: log::LogOptions,
}

#[derive(Args)]
pub struct RelayOptions {
    #[command(flatten)]
    ledger: LedgerOptions,
    #[command(flatten)]
    listen: database::ListenOptions,
    #[command(flatten)]
    redis: redis::RedisOptions,
    #[command(flatten)]
    host: evolution::HostOptions,
    #[command(flatten)]
    relay: relay::RelayTuning,
    #[command(flatten)]
    http: http::HttpOptions,
    #[command(flatten)]
    traces: traces::TraceOptions,
    #[command(flatten)]
    log: log::LogOptions,
}

#[derive(Args)]
pub struct WorkerOptions {
    /// The steps to serve: create-instance, configure-webhooks, verify
    #[arg(value_name = "STEP", required = true)]
    steps: Vec<String>,
    #[command(flatten)]
    ledger: LedgerOptions,
    #[command(flatten)]
    redis: redis::RedisOptions,
    #[command(flatten)]
    host: evolution::HostOptions,
    #[command(flatten)]
    key: evolution::KeyOptions,
    #[command(flatten)]
    webhook: webhook::WebhookOptions,
    #[command(flatten)]
    worker: worker::WorkerTuning,
    #[command(flatten)]
    http: http::HttpOptions,
    #[command(flatten)]
    traces: traces::TraceOptions,
    #[command(flatten)]
    log: log::LogOptions,
}

/// Every option there is.
#[derive(Args)]
pub struct AllOptions {
    #[command(flatten)]
    ledger: LedgerOptions,
    #[command(flatten)]
    listen: database::ListenOptions,
    #[command(flatten)]
    redis: redis::RedisOptions,
    #[command(flatten)]
    host: evolution::HostOptions,
    #[command(flatten)]
    key: evolution::KeyOptions,
    #[command(flatten)]
    webhook: webhook::WebhookOptions,
    #[command(flatten)]
    relay: relay::RelayTuning,
    #[command(flatten)]
    worker: worker::WorkerTuning,
    #[command(flatten)]
    http: http::HttpOptions,
    #[command(flatten)]
    traces: traces::TraceOptions,
    #[command(flatten)]
    log: log::LogOptions,
}

#[derive(Args)]
struct LedgerOptions {
    #[command(flatten)]
    database: database::DatabaseOptions,
    #[command(flatten)]
    pool: database::PoolOptions,
    #[command(flatten)]
    workflow: workflow::WorkflowOptions,
}

/// What a relay is called in traces.
const RELAY: &str = "sluice-relay";

/// What was read, none where a part of it left a fault.
type Read<T> = Option<T>;

impl MigrateOptions {
    pub fn parse(&self) -> Result<Config<Migrate>, Faults> {
        let mut faults = Faults::default();
        let database = self.database.read_session(&mut faults);
        let log = self.log.read(&mut faults);
        finish(log, database.map(|database| Migrate { database }), faults)
    }
}

impl RelayOptions {
    pub fn parse(&self) -> Result<Config<Relay>, Faults> {
        let mut faults = Faults::default();
        let ledger = self.ledger.read(&mut faults);
        let listen = self.listen.read(ledger.as_ref().map(|ledger| &ledger.database), &mut faults);
        let queue = self.redis.read(&mut faults);
        let host = self.host.host(&mut faults).map(Some);
        let tuned = self.relay.read(&mut faults);
        let http = self.http.read(&mut faults);
        let traces = self.traces.read(vec![(Role::Relay, RELAY.to_owned())], &mut faults);
        let log = self.log.read(&mut faults);
        finish_serving(log, http, traces, build_relay(ledger, listen, queue, host, tuned), faults)
    }
}

impl WorkerOptions {
    pub fn parse(&self) -> Result<Config<Worker>, Faults> {
        let mut faults = Faults::default();
        let ledger = self.ledger.read(&mut faults);
        let steps = worker::steps(&self.steps, &provision::step_names(), &mut faults);
        let queue = self.redis.read(&mut faults);
        let api = self.host.client(&self.key, &mut faults);
        let provision = self.webhook.read(&mut faults);
        let tuned = self.worker.read(&mut faults);
        let http = self.http.read(&mut faults);
        let services = vec![(Role::Worker, worker::service(steps.as_deref()))];
        let traces = self.traces.read(services, &mut faults);
        let log = self.log.read(&mut faults);
        let tuned = steps.zip(tuned);
        finish_serving(log, http, traces, build_worker(ledger, queue, api, provision, tuned), faults)
    }
}

impl AllOptions {
    pub fn parse(&self) -> Result<Config<All>, Faults> {
        let mut faults = Faults::default();
        let ledger = self.ledger.read(&mut faults);
        let listen = self.listen.read(ledger.as_ref().map(|ledger| &ledger.database), &mut faults);
        let queue = self.redis.read(&mut faults);
        let api = self.host.client(&self.key, &mut faults);
        let provision = self.webhook.read(&mut faults);
        let relay = self.relay.read(&mut faults);
        let worker = self.worker.read(&mut faults);
        let http = self.http.read(&mut faults);
        let services = vec![(Role::Relay, RELAY.to_owned()), (Role::Worker, worker::service(None))];
        let traces = self.traces.read(services, &mut faults);
        let log = self.log.read(&mut faults);

        let host = api.as_ref().map(|api| Some(api.host().to_owned()));
        let steps = ledger.as_ref().map(|ledger| ledger.registry.queues());
        let relay = build_relay(ledger.clone(), listen, queue.clone(), host, relay);
        let worker = build_worker(ledger, queue, api, provision, steps.zip(worker));
        finish_serving(log, http, traces, relay.zip(worker).map(|(relay, worker)| All { relay, worker }), faults)
    }
}

impl LedgerOptions {
    fn read(&self, faults: &mut Faults) -> Read<Ledger> {
        let database = self.database.read(faults);
        let max_connections = self.pool.read(faults);
        let registry = self.workflow.read(faults);
        Some(Ledger { database: database?, max_connections: max_connections?, registry: registry? })
    }
}

fn build_relay(
    ledger: Read<Ledger>,
    listen: Read<Option<Database>>,
    queue: Read<queue::Config>,
    host: Read<Option<String>>,
    tuned: Read<relay::Tuned>,
) -> Read<Relay> {
    let relay::Tuned { batch, high_water, intake_poll, retention } = tuned?;
    let settings = relay_role::Settings { batch, high_water, intake_poll, retention, host: host? };
    Some(Relay { ledger: ledger?, listen: listen?, queue: queue?, settings })
}

fn build_worker(
    ledger: Read<Ledger>,
    queue: Read<queue::Config>,
    api: Read<Client>,
    provision: Read<provision::Settings>,
    tuned: Read<(Vec<workflows::ids::StepName>, worker::Tuned)>,
) -> Read<Worker> {
    let (api, (steps, worker::Tuned { concurrency, grace })) = (api?, tuned?);
    let (host, rules) = (Some(api.host().to_owned()), Rules::default());
    let settings = worker_role::Settings { steps, concurrency, grace, host, rules };
    Some(Worker { ledger: ledger?, queue: queue?, api, provision: provision?, settings })
}

/// Of a command.
fn finish<R>(log: Read<Log>, role: Read<R>, faults: Faults) -> Result<Config<R>, Faults> {
    finish_serving(log, Some(None), Some(None), role, faults)
}

/// Of a role that runs for long.
fn finish_serving<R>(
    log: Read<Log>,
    http: Read<Option<SocketAddr>>,
    traces: Read<Option<Traces>>,
    role: Read<R>,
    faults: Faults,
) -> Result<Config<R>, Faults> {
    match (log, http, traces, role) {
        (Some(log), Some(http), Some(traces), Some(role)) if faults.is_empty() => {
            Ok(Config { log, http, traces, role })
        }
        _ => Err(faults),
    }
}
