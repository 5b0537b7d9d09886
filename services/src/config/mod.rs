//! Options and environment into what adapters and roles take. Each group of options is a file: its
//! texts as clap reads them, and `read`, which checks them and leaves a fault for each that cannot
//! work; `parse` reads all groups that a role needs and refuses with every fault at once. Workflows
//! bring options of their own, and leave their faults beside these.
//!
//! Nothing here opens a connection. No value of a variable may stand in a fault before it went
//! through `Faults::add…`, which know what is secret.

mod database;
pub(crate) mod events;
mod fault;
mod http;
mod log;
mod operator;
mod read;
mod redis;
mod traces;
mod tuning;

use std::{net::SocketAddr, sync::Arc};

use clap::Args;
use workflows::{definition::Registry, workflow::Catalog};

pub use self::{
    database::Database,
    events::{EventsOptions, FollowOptions, TailOptions},
    fault::{Fault, Faults},
    operator::{OperatorOptions, StatsOptions},
};
use crate::{
    events::{self as events_role, feed::Feed},
    queue, relay,
    telemetry::{Role, export::Traces, log::Log},
    worker,
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

/// What a role is told of the ledger.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub database: Database,
    pub max_connections: u32,
    pub registry: Arc<Registry>,
}

/// What a relay is told.
#[derive(Debug, Clone)]
pub struct Relay {
    pub ledger: Ledger,
    /// Where LISTEN works, if anywhere.
    pub listen: Option<Database>,
    pub queue: queue::Config,
    pub settings: relay::Settings,
}

/// What a worker is told.
#[derive(Clone)]
pub struct Worker {
    pub ledger: Ledger,
    pub queue: queue::Config,
    pub catalog: Catalog,
    pub settings: worker::Settings,
}

/// What a publisher of events is told.
#[derive(Debug, Clone)]
pub struct Events {
    pub ledger: Ledger,
    pub settings: events_role::Settings,
}

/// What the role `follow` is told.
#[derive(Debug, Clone)]
pub struct Follow {
    pub ledger: Ledger,
    pub feed: Feed,
}

/// What every role together is told.
#[derive(Clone)]
pub struct All {
    pub relay: Relay,
    pub worker: Worker,
    /// None where no RabbitMQ was named.
    pub events: Option<Events>,
    /// None where nothing is followed.
    pub follow: Option<Follow>,
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
    relay: tuning::RelayTuning,
    #[command(flatten)]
    serving: ServingOptions,
}

#[derive(Args)]
pub struct WorkerOptions {
    /// The steps to serve, by their names in their workflows. A worker of several steps takes a run
    /// from one to the next without a queue between them, which costs less than a worker for each
    #[arg(value_name = "STEP", required = true)]
    steps: Vec<String>,
    #[command(flatten)]
    ledger: LedgerOptions,
    #[command(flatten)]
    redis: redis::RedisOptions,
    #[command(flatten)]
    worker: tuning::WorkerTuning,
    #[command(flatten)]
    serving: ServingOptions,
}

/// Every option of the engine.
#[derive(Args)]
pub struct AllOptions {
    #[command(flatten)]
    ledger: LedgerOptions,
    #[command(flatten)]
    listen: database::ListenOptions,
    #[command(flatten)]
    redis: redis::RedisOptions,
    #[command(flatten)]
    amqp: events::AmqpOptions,
    #[command(flatten)]
    relay: tuning::RelayTuning,
    #[command(flatten)]
    worker: tuning::WorkerTuning,
    #[command(flatten)]
    serving: ServingOptions,
}

/// What a role that runs for long is told beside its own.
#[derive(Args)]
struct ServingOptions {
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
}

/// What a relay is called in traces.
const RELAY: &str = "sluice-relay";

impl RelayOptions {
    /// `catalog` holds the workflows that the program runs, `theirs` what was wrong with their
    /// settings.
    pub fn parse(&self, catalog: &Catalog, theirs: Faults) -> Result<Config<Relay>, Faults> {
        let mut faults = Faults::default();
        let ledger = self.ledger.read(database::OF_A_RELAY, &catalog.registry(), &mut faults);
        let listen = self.listen.read(ledger.as_ref().map(|ledger| &ledger.database), &mut faults);
        let queue = self.redis.read(&mut faults);
        let settings = self.relay.read(&mut faults);
        let relay = || Some(Relay { ledger: ledger?, listen: listen?, queue: queue?, settings: settings? });
        self.serving.finish(relay(), vec![(Role::Relay, RELAY.to_owned())], faults, theirs)
    }
}

impl WorkerOptions {
    /// As `RelayOptions::parse`.
    pub fn parse(&self, catalog: &Catalog, theirs: Faults) -> Result<Config<Worker>, Faults> {
        let (registry, mut faults) = (catalog.registry(), Faults::default());
        let steps = tuning::steps(&self.steps, &registry, &mut faults);
        let ledger = self.ledger.read(database::OF_A_WORKER, &registry, &mut faults);
        let queue = self.redis.read(&mut faults);
        let services = vec![(Role::Worker, tuning::service(steps.as_deref()))];
        let settings = self.worker.read(steps, &mut faults);
        let catalog = catalog.clone();
        let worker = || Some(Worker { ledger: ledger?, queue: queue?, catalog, settings: settings? });
        self.serving.finish(worker(), services, faults, theirs)
    }
}

impl AllOptions {
    /// As `RelayOptions::parse`. `feed` is what is followed, if anything.
    pub fn parse(&self, catalog: &Catalog, feed: Option<Feed>, theirs: Faults) -> Result<Config<All>, Faults> {
        let (registry, mut faults) = (catalog.registry(), Faults::default());
        let of_relay = self.ledger.read(database::OF_A_RELAY, &registry, &mut faults);
        let of_worker = of_relay.as_ref().and_then(|ledger| self.ledger.same(ledger, database::OF_A_WORKER));
        let of_events = of_relay.as_ref().and_then(|ledger| self.ledger.same(ledger, events::CONNECTIONS));
        let follow = of_events.clone().zip(feed).map(|(ledger, feed)| Follow { ledger, feed });
        let listen = self.listen.read(of_relay.as_ref().map(|ledger| &ledger.database), &mut faults);
        let queue = self.redis.read(&mut faults);
        let broker = self.amqp.read_if_given(&mut faults);
        let relay = self.relay.read(&mut faults);
        let worker = self.worker.read(Some(registry.queues()), &mut faults);
        let all = || {
            let (queue, catalog) = (queue?, catalog.clone());
            let relay = Relay { ledger: of_relay?, listen: listen?, queue: queue.clone(), settings: relay? };
            let worker = Worker { ledger: of_worker?, queue, catalog, settings: worker? };
            let events = broker?.zip(of_events).map(|(settings, ledger)| Events { ledger, settings });
            Some(All { relay, worker, events, follow })
        };
        let services = vec![
            (Role::Relay, RELAY.to_owned()),
            (Role::Worker, tuning::service(None)),
            (Role::Events, events::SERVICE.to_owned()),
        ];
        self.serving.finish(all(), services, faults, theirs)
    }
}

impl LedgerOptions {
    /// `connections` is how many the role has where nobody says otherwise.
    fn read(&self, connections: u32, registry: &Registry, faults: &mut Faults) -> Option<Ledger> {
        let database = self.database.read(faults);
        let max_connections = self.pool.read(connections, faults);
        let registry = Arc::new(registry.clone());
        Some(Ledger { database: database?, max_connections: max_connections?, registry })
    }

    /// The same ledger for another role of the process.
    fn same(&self, ledger: &Ledger, connections: u32) -> Option<Ledger> {
        let max_connections = self.pool.read(connections, &mut Faults::default());
        Some(Ledger { max_connections: max_connections?, ..ledger.clone() })
    }
}

impl ServingOptions {
    /// Reads these after the role's own; `theirs` is what was wrong with the settings of workflows.
    fn finish<R>(
        &self,
        role: Option<R>,
        services: traces::Services,
        mut faults: Faults,
        theirs: Faults,
    ) -> Result<Config<R>, Faults> {
        let http = self.http.read(&mut faults);
        let traces = self.traces.read(services, &mut faults);
        let log = self.log.read(&mut faults);
        finish(log, http, traces, role, faults.and(theirs))
    }
}

/// What was read of each is none where a part of it left a fault.
fn finish<R>(
    log: Option<Log>,
    http: Option<Option<SocketAddr>>,
    traces: Option<Option<Traces>>,
    role: Option<R>,
    faults: Faults,
) -> Result<Config<R>, Faults> {
    let config = || Some(Config { log: log?, http: http?, traces: traces?, role: role? });
    config().filter(|_| faults.is_empty()).ok_or(faults)
}
