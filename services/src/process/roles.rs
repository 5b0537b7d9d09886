//! Each role with what it works with. What is wrong with Redis or Postgres is found here, before a role starts.

use std::{process::ExitCode, time::Duration};

use futures::FutureExt;

use super::{
    Life, Refused, database,
    refusals::say_refusals,
    supervise::{Named, supervise},
};
use crate::{
    config,
    database::{Database, give_back},
    events as events_role,
    ledger::postgres::Postgres,
    queue::{Finding, Queue, Severity},
    relay as relay_role,
    telemetry::{
        metrics::{Sample, names},
        spans,
    },
    worker as worker_role,
};

/// Runs a relay until `shutdown`.
pub(crate) async fn relay(config: config::Relay, life: Life) -> anyhow::Result<ExitCode> {
    let (queue, known) = connect(&config.queue).await?;
    let role = async {
        let ledger = life.relay_ledger(&config, &queue);
        match database::wait_for(&config.ledger.database, "relay", &life).await? {
            true => run_relay(config, ledger, queue.clone(), &life).await,
            false => Ok(()),
        }
    };
    run_on(&queue, known, role).await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a worker until `shutdown`.
pub(crate) async fn worker(config: config::Worker, life: Life) -> anyhow::Result<ExitCode> {
    let (queue, known) = connect(&config.queue).await?;
    let role = async {
        let ledgers = life.worker_ledgers(&config, &queue);
        match database::wait_for(&config.ledger.database, "worker", &life).await? {
            true => run_worker(config, ledgers, queue.clone(), &life).await,
            false => Ok(()),
        }
    };
    run_on(&queue, known, role).await?;
    Ok(ExitCode::SUCCESS)
}

/// Publishes events until `shutdown`.
pub(crate) async fn events(config: config::Events, life: Life) -> anyhow::Result<ExitCode> {
    let metrics = life.vitals.metrics.clone();
    life.readiness.need("RabbitMQ", move || std::future::ready(metrics.is_broker_connected()));
    run_events(config, &life).await?;
    Ok(ExitCode::SUCCESS)
}

/// Follows another program's events until `shutdown`.
pub(crate) async fn follow(config: config::Follow, life: Life) -> anyhow::Result<ExitCode> {
    let metrics = life.vitals.metrics.clone();
    life.readiness.need("RabbitMQ", move || std::future::ready(metrics.is_feed_connected()));
    run_follow(config, &life).await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs every role until `shutdown`.
pub(crate) async fn all(config: config::All, life: Life) -> anyhow::Result<ExitCode> {
    let config::All { relay, worker, events, follow } = config;
    life.readiness.await_roles(2 + usize::from(events.is_some()) + usize::from(follow.is_some()));
    let (queue, known) = connect(&relay.queue).await?;
    let roles = async {
        let of_relay = life.relay_ledger(&relay, &queue);
        let of_worker = life.worker_ledgers(&worker, &queue);
        if !database::wait_for(&relay.ledger.database, "all", &life).await? {
            return Ok(());
        }
        let relay = run_relay(relay, of_relay, queue.clone(), &life).boxed_local();
        let worker = run_worker(worker, of_worker, queue.clone(), &life).boxed_local();
        let mut roles = vec![Named { name: "relay", run: relay }, Named { name: "worker", run: worker }];
        if let Some(events) = events {
            roles.push(Named { name: "events", run: run_events(events, &life).boxed_local() });
        }
        if let Some(follow) = follow {
            roles.push(Named { name: "follow", run: run_follow(follow, &life).boxed_local() });
        }
        supervise(roles, life.shutdown.clone()).await
    };
    run_on(&queue, known, roles).await?;
    Ok(ExitCode::SUCCESS)
}

async fn run_relay(config: config::Relay, ledger: Postgres, queue: Queue, life: &Life) -> anyhow::Result<()> {
    if !database::register(&ledger, life).await? {
        return Ok(());
    }
    let listen = config.listen.map(|database| database.connect(&database::application("relay-listen")));
    let database = ledger.database().clone();
    let ledger = if spans::enabled() { ledger.traced() } else { ledger };
    let deps = relay_role::Deps { ledger, queue, listen, vitals: life.vitals.clone() };
    tracing::info!("relay starts");
    life.readiness.begin();
    tokio::select! {
        ended = relay_role::run(config.settings, deps, life.shutdown.clone()) => ended?,
        () = keep(&database) => {}
    }
    tracing::info!("relay has stopped");
    Ok(())
}

/// What a worker works with: leases have a connection of their own.
struct OfWorker {
    ledger: Postgres,
    leases: Postgres,
}

async fn run_worker(config: config::Worker, of: OfWorker, queue: Queue, life: &Life) -> anyhow::Result<()> {
    let OfWorker { ledger, leases } = of;
    if !database::register(&ledger, life).await? {
        return Ok(());
    }
    let (catalog, vitals, database) = (config.catalog, life.vitals.clone(), ledger.database().clone());
    let deps = worker_role::Deps { ledger, leases, queue, catalog, vitals };
    tracing::info!("worker starts");
    life.readiness.begin();
    tokio::select! {
        ended = worker_role::run(config.settings, deps, life.shutdown.clone()) => ended?,
        () = keep(&database) => {}
    }
    tracing::info!("worker has stopped");
    Ok(())
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
    let ledger = database::ledger(config, name, config.max_connections);
    life.show_pool(name, &ledger);
    life.need_postgres(&ledger);
    if !database::wait_for(&config.database, name, life).await? {
        return Ok(());
    }
    let database = ledger.database().clone();
    let deps = events_role::Deps { ledger, vitals: life.vitals.clone() };
    tracing::info!("{name} starts");
    life.readiness.begin();
    tokio::select! {
        ended = run(deps) => ended?,
        () = keep(&database) => {}
    }
    tracing::info!("{name} has stopped");
    Ok(())
}

/// In which a connection that nobody needed goes back to the server.
const NEEDED_WITHIN: Duration = Duration::from_secs(30);

/// Keeps a pool no larger than its work is, and says why it gets no connection. Never returns.
async fn keep(database: &Database) {
    tokio::join!(give_back(database.pool(), NEEDED_WITHIN), say_refusals(database));
}

impl Life {
    fn relay_ledger(&self, config: &config::Relay, queue: &Queue) -> Postgres {
        let ledger = database::ledger(&config.ledger, "relay", config.ledger.max_connections);
        self.show_pool("relay", &ledger);
        self.need(&ledger, queue);
        ledger
    }

    fn worker_ledgers(&self, config: &config::Worker, queue: &Queue) -> OfWorker {
        let ledger = database::ledger(&config.ledger, "worker", config.ledger.max_connections);
        let leases = database::ledger(&config.ledger, "worker-leases", 1);
        self.show_pool("worker", &ledger);
        self.show_pool("worker-leases", &leases);
        self.need(&ledger, queue);
        OfWorker { ledger, leases }
    }

    /// What no role can do without.
    fn need_postgres(&self, ledger: &Postgres) {
        let ledger = ledger.clone();
        self.readiness.need("Postgres", move || {
            let ledger = ledger.clone();
            async move { ledger.ping().await.is_ok() }
        });
    }

    /// What those that move steps cannot do without.
    fn need(&self, ledger: &Postgres, queue: &Queue) {
        self.need_postgres(ledger);
        let queue = queue.clone();
        self.readiness.need("Redis", move || {
            let queue = queue.clone();
            async move { queue.ping().await.is_ok() }
        });
    }

    /// Shows a pool's connections among the metrics.
    fn show_pool(&self, name: &'static str, ledger: &Postgres) {
        let pool = ledger.pool().clone();
        self.vitals.metrics.read_from(move || {
            let (open, idle) = (f64::from(pool.size()), pool.num_idle() as f64);
            let most = f64::from(pool.options().get_max_connections());
            vec![
                Sample::of(&names::POOL_CONNECTIONS, [name, "busy"], (open - idle).max(0.0)),
                Sample::of(&names::POOL_CONNECTIONS, [name, "idle"], idle),
                Sample::of(&names::POOL_CONNECTIONS_MAX, [name], most),
            ]
        });
    }
}

/// A handle on Redis, refused where Redis is not as it must be. One that is away is waited for by the roles themselves.
async fn connect(config: &crate::queue::Config) -> anyhow::Result<(Queue, Known)> {
    let queue = Queue::connect(config).map_err(|error| Refused(vec![format!("REDIS_URL: {error}")]))?;
    let known = judge(queue.check().await)?;
    Ok((queue, known))
}

/// Whether Redis has said how it is set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Yes,
    NotYet,
}

fn judge(findings: Vec<Finding>) -> Result<Known, Refused> {
    let (refusals, rest): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Refuse);
    if !refusals.is_empty() {
        return Err(Refused(refusals.into_iter().map(|finding| finding.text).collect()));
    }
    rest.iter().for_each(|finding| tracing::warn!("{}", finding.text));
    let unknown = rest.iter().any(|finding| finding.severity == Severity::Unknown);
    Ok(if unknown { Known::NotYet } else { Known::Yes })
}

/// Runs a role; one that began without Redis ends when Redis comes and is not as it must be.
async fn run_on(queue: &Queue, known: Known, role: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::select! {
        ended = role => ended,
        refused = refusal(queue), if known == Known::NotYet => Err(refused.into()),
    }
}

/// Returns when Redis has answered and must not be used.
async fn refusal(queue: &Queue) -> Refused {
    loop {
        tokio::time::sleep(ASK_AGAIN).await;
        let findings = queue.check().await;
        if findings.iter().any(|finding| finding.severity == Severity::Unknown) {
            continue;
        }
        match judge(findings) {
            Ok(_) => std::future::pending().await,
            Err(refused) => return refused,
        }
    }
}

/// How often a Redis that was away at the start is asked how it is set.
const ASK_AGAIN: Duration = Duration::from_secs(2);
