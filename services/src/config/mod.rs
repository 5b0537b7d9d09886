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
#[command(next_help_heading = "Postgres")]
struct LedgerOptions {
    #[command(flatten)]
    database: database::DatabaseOptions,

    /// The most connections that each role of this process works with; not set, a relay has 3 and
    /// a worker 2, a publisher of events 2 and a follower 2. Beside them a worker opens one for
    /// leases and a relay one for LISTEN: a relay and three workers are 13 together, 15 with a
    /// publisher; all in one 7, or 9 where it publishes, and 2 more where it follows
    #[arg(long, env = "DATABASE_MAX_CONNECTIONS", value_name = "NUMBER")]
    database_max_connections: Option<String>,
}

/// What a role works with where nobody says otherwise: beside a relay and three workers, Supabase's
/// session pooler (15) has room for a person's command, or for a publisher.
const OF_A_RELAY: u32 = 3;
const OF_A_WORKER: u32 = 2;

/// What a relay is called in traces.
const RELAY: &str = "sluice-relay";

impl RelayOptions {
    /// `catalog` holds the workflows that the program runs, `theirs` what was wrong with their
    /// settings.
    pub fn parse(&self, catalog: &Catalog, theirs: Faults) -> Result<Config<Relay>, Faults> {
        let mut faults = Faults::default();
        let ledger = self.ledger.read(OF_A_RELAY, &catalog.registry(), &mut faults);
        let listen = self.listen.read(ledger.as_ref().map(|ledger| &ledger.database), &mut faults);
        let queue = self.redis.read(&mut faults);
        let settings = self.relay.read(&mut faults);
        let relay = || Some(Relay { ledger: ledger?, listen, queue: queue?, settings: settings? });
        self.serving.finish(relay(), (RELAY.to_owned(), Vec::new()), faults, theirs)
    }
}

impl WorkerOptions {
    /// As `RelayOptions::parse`.
    pub fn parse(&self, catalog: &Catalog, theirs: Faults) -> Result<Config<Worker>, Faults> {
        let (registry, mut faults) = (catalog.registry(), Faults::default());
        let steps = tuning::steps(&self.steps, &registry, &mut faults);
        let ledger = self.ledger.read(OF_A_WORKER, &registry, &mut faults);
        let queue = self.redis.read(&mut faults);
        let service = tuning::service(steps.as_deref());
        let settings = self.worker.read(steps, &mut faults);
        let catalog = catalog.clone();
        let worker = || Some(Worker { ledger: ledger?, queue: queue?, catalog, settings: settings? });
        self.serving.finish(worker(), (service, Vec::new()), faults, theirs)
    }
}

impl AllOptions {
    /// As `RelayOptions::parse`. `feed` is what is followed, if anything.
    pub fn parse(&self, catalog: &Catalog, feed: Option<Feed>, theirs: Faults) -> Result<Config<All>, Faults> {
        let (registry, mut faults) = (catalog.registry(), Faults::default());
        let of_relay = self.ledger.read(OF_A_RELAY, &registry, &mut faults);
        // What is wrong with the ledger has been said.
        let said = &mut Faults::default();
        let of_worker = self.ledger.read(OF_A_WORKER, &registry, said);
        let of_events = self.ledger.read(events::CONNECTIONS, &registry, said);
        let follow = of_events.clone().zip(feed).map(|(ledger, feed)| Follow { ledger, feed });
        let listen = self.listen.read(of_relay.as_ref().map(|ledger| &ledger.database), &mut faults);
        let queue = self.redis.read(&mut faults);
        let broker = self.amqp.read_if_given(&mut faults);
        let relay = self.relay.read(&mut faults);
        let worker = self.worker.read(Some(registry.queues()), &mut faults);
        let all = || {
            let (queue, catalog) = (queue?, catalog.clone());
            let relay = Relay { ledger: of_relay?, listen, queue: queue.clone(), settings: relay? };
            let worker = Worker { ledger: of_worker?, queue, catalog, settings: worker? };
            let events = broker.zip(of_events).map(|(settings, ledger)| Events { ledger, settings });
            Some(All { relay, worker, events, follow })
        };
        let others = vec![(Role::Worker, tuning::service(None)), (Role::Events, events::SERVICE.to_owned())];
        self.serving.finish(all(), (RELAY.to_owned(), others), faults, theirs)
    }
}

impl LedgerOptions {
    /// `connections` is how many the role has where nobody says otherwise.
    fn read(&self, connections: u32, registry: &Registry, faults: &mut Faults) -> Option<Ledger> {
        let database = self.database.read(faults);
        let max_connections = match &self.database_max_connections {
            Some(text) => faults.number("DATABASE_MAX_CONNECTIONS", text, 1..=100),
            None => Some(connections),
        };
        let registry = Arc::new(registry.clone());
        Some(Ledger { database: database?, max_connections: max_connections?, registry })
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

/// Refuses wherever a fault was left: what was read is not whole then.
fn finish<R>(
    log: Option<Log>,
    http: Option<SocketAddr>,
    traces: Option<Traces>,
    role: Option<R>,
    faults: Faults,
) -> Result<Config<R>, Faults> {
    let config = || Some(Config { log: log?, http, traces, role: role? });
    config().filter(|_| faults.is_empty()).ok_or(faults)
}
