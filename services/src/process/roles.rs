//! Each role with what it works with, until `shutdown`. What is wrong with Redis or Postgres is
//! found here, before a role starts.

use std::time::Duration;

use deadpool::Status;
use futures::FutureExt;

use super::{Life, Refused, database, refusals::say_refusals, supervise::supervise};
use crate::{
    config,
    database::Database,
    events as events_role,
    ledger::postgres::Postgres,
    queue::{self, Finding, Queue, Severity},
    relay as relay_role,
    telemetry::{
        metrics::{Sample, names},
        spans,
    },
    worker as worker_role,
};

/// What products have a relay do.
type Duties = Vec<Box<dyn relay_role::Duty>>;

pub(crate) async fn relay(config: config::Relay, duties: Duties, life: Life) -> anyhow::Result<()> {
    on_redis(&config.queue.clone(), async |queue| {
        let ledger = life.ledger(&config.ledger, "relay", config.ledger.max_connections);
        life.need_redis(&queue);
        match database::wait_for(&config.ledger.database, "relay", &life).await? {
            true => run_relay(config, duties, ledger, queue, &life).await,
            false => Ok(()),
        }
    })
    .await
}

pub(crate) async fn worker(config: config::Worker, life: Life) -> anyhow::Result<()> {
    on_redis(&config.queue.clone(), async |queue| {
        let ledgers = life.worker_ledgers(&config.ledger);
        life.need_redis(&queue);
        match database::wait_for(&config.ledger.database, "worker", &life).await? {
            true => run_worker(config, ledgers, queue, &life).await,
            false => Ok(()),
        }
    })
    .await
}

pub(crate) async fn events(config: config::Events, life: Life) -> anyhow::Result<()> {
    life.readiness.need("RabbitMQ", &life.vitals.metrics, async |metrics| metrics.is_set(&names::BROKER_CONNECTED));
    run_events(config, &life).await
}

pub(crate) async fn follow(config: config::Follow, life: Life) -> anyhow::Result<()> {
    life.readiness.need("RabbitMQ", &life.vitals.metrics, async |metrics| metrics.is_set(&names::FEED_CONNECTED));
    run_follow(config, &life).await
}

pub(crate) async fn all(config: config::All, duties: Duties, life: Life) -> anyhow::Result<()> {
    let config::All { relay, worker, events, follow } = config;
    life.readiness.await_roles(2 + usize::from(events.is_some()) + usize::from(follow.is_some()));
    on_redis(&relay.queue.clone(), async |queue| {
        let of_relay = life.ledger(&relay.ledger, "relay", relay.ledger.max_connections);
        let of_worker = life.worker_ledgers(&worker.ledger);
        life.need_redis(&queue);
        if !database::wait_for(&relay.ledger.database, "all", &life).await? {
            return Ok(());
        }
        let mut roles = vec![
            ("relay", run_relay(relay, duties, of_relay, queue.clone(), &life).boxed_local()),
            ("worker", run_worker(worker, of_worker, queue, &life).boxed_local()),
        ];
        roles.extend(events.map(|events| ("events", run_events(events, &life).boxed_local())));
        roles.extend(follow.map(|follow| ("follow", run_follow(follow, &life).boxed_local())));
        supervise(roles, life.shutdown.clone()).await
    })
    .await
}

async fn run_relay(
    config: config::Relay,
    duties: Duties,
    ledger: Postgres,
    queue: Queue,
    life: &Life,
) -> anyhow::Result<()> {
    if !database::register(&ledger, life).await? {
        return Ok(());
    }
    let listen = config.listen.map(|database| database.connect("relay-listen"));
    let database = ledger.database().clone();
    let ledger = if spans::enabled() { ledger.traced() } else { ledger };
    let deps = relay_role::Deps { ledger, queue, listen, duties, vitals: life.vitals.clone() };
    life.work("relay", &database, relay_role::run(config.settings, deps, life.shutdown.clone())).await
}

async fn run_worker(
    config: config::Worker,
    (ledger, leases): (Postgres, Postgres),
    queue: Queue,
    life: &Life,
) -> anyhow::Result<()> {
    if !database::register(&ledger, life).await? {
        return Ok(());
    }
    let (catalog, vitals, database) = (config.catalog, life.vitals.clone(), ledger.database().clone());
    let deps = worker_role::Deps { ledger, leases, queue, catalog, vitals };
    life.work("worker", &database, worker_role::run(config.settings, deps, life.shutdown.clone())).await
}

async fn run_events(config: config::Events, life: &Life) -> anyhow::Result<()> {
    let run = async |deps| events_role::run(config.settings, deps, life.shutdown.clone()).await;
    run_at_a_broker("events", &config.ledger, run, life).await
}

async fn run_follow(config: config::Follow, life: &Life) -> anyhow::Result<()> {
    let run = async |deps| events_role::feed::follow(config.feed, deps, life.shutdown.clone()).await;
    run_at_a_broker("follow", &config.ledger, run, life).await
}

/// Runs a role that stands between Postgres and a RabbitMQ, and needs nothing else.
async fn run_at_a_broker(
    name: &'static str,
    config: &config::Ledger,
    run: impl AsyncFnOnce(events_role::Deps) -> anyhow::Result<()>,
    life: &Life,
) -> anyhow::Result<()> {
    let ledger = life.ledger(config, name, config.max_connections);
    if !database::wait_for(&config.database, name, life).await? {
        return Ok(());
    }
    let database = ledger.database().clone();
    life.work(name, &database, run(events_role::Deps { ledger, vitals: life.vitals.clone() })).await
}

/// In which a connection that nobody needed goes back to the server.
const NEEDED_WITHIN: Duration = Duration::from_secs(30);

/// Keeps a pool no larger than its work is, and says why it gets no connection. Never returns.
async fn keep(database: &Database) {
    tokio::join!(database.give_back(NEEDED_WITHIN), say_refusals(database));
}

impl Life {
    /// Runs a role that has all that it needs.
    async fn work(
        &self,
        name: &str,
        database: &Database,
        role: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        tracing::info!("{name} starts");
        self.readiness.begin();
        tokio::select! {
            ended = role => ended?,
            () = keep(database) => {}
        }
        tracing::info!("{name} has stopped");
        Ok(())
    }

    /// A worker's ledger, and the same over a connection of its own, for leases.
    fn worker_ledgers(&self, config: &config::Ledger) -> (Postgres, Postgres) {
        (self.ledger(config, "worker", config.max_connections), self.ledger(config, "worker-leases", 1))
    }

    /// What those that move steps cannot do without.
    fn need_redis(&self, queue: &Queue) {
        self.readiness.need("Redis", queue, async |queue| queue.ping().await.is_ok());
    }

    /// A ledger, without which no role can do, and whose pool's connections are shown among the
    /// metrics.
    fn ledger(&self, config: &config::Ledger, name: &'static str, connections: u32) -> Postgres {
        let ledger = database::ledger(config, name, connections);
        let database = ledger.database().clone();
        self.vitals.metrics.read_from(move || {
            let Status { size, available, max_size, .. } = database.status();
            let (open, idle, most) = (size as f64, available as f64, max_size as f64);
            vec![
                Sample::of(&names::POOL_CONNECTIONS, [name, "busy"], (open - idle).max(0.0)),
                Sample::of(&names::POOL_CONNECTIONS, [name, "idle"], idle),
                Sample::of(&names::POOL_CONNECTIONS_MAX, [name], most),
            ]
        });
        self.readiness.need("Postgres", &ledger, async |ledger| ledger.ping().await.is_ok());
        ledger
    }
}

/// Runs roles on Redis; refused where Redis is not as it must be. One that is away is waited for by
/// the roles themselves, and ends them when it comes and must not be used.
async fn on_redis(config: &queue::Config, roles: impl AsyncFnOnce(Queue) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let queue = Queue::connect(config).map_err(|error| Refused(vec![format!("REDIS_URL: {error}")]))?;
    let findings = queue.check().await;
    judge(&findings)?;
    tokio::select! {
        ended = roles(queue.clone()) => ended,
        refused = refusal(&queue), if is_unknown(&findings) => refused,
    }
}

/// Whether Redis has not said yet how it is set.
fn is_unknown(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Unknown)
}

fn judge(findings: &[Finding]) -> Result<(), Refused> {
    let refusals = findings.iter().filter(|finding| finding.severity == Severity::Refuse);
    let refusals: Vec<String> = refusals.map(|finding| finding.text.clone()).collect();
    if !refusals.is_empty() {
        return Err(Refused(refusals));
    }
    findings.iter().for_each(|finding| tracing::warn!("{}", finding.text));
    Ok(())
}

/// Ends when Redis has answered and must not be used.
async fn refusal(queue: &Queue) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(ASK_AGAIN).await;
        let findings = queue.check().await;
        if !is_unknown(&findings) {
            judge(&findings)?;
            std::future::pending::<()>().await;
        }
    }
}

/// How often a Redis that was away at the start is asked how it is set.
const ASK_AGAIN: Duration = Duration::from_secs(2);
