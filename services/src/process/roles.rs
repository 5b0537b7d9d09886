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
    ledger::postgres::Postgres,
    queue::{Finding, Queue, Severity},
    relay as relay_role,
    telemetry::metrics::{Sample, names},
    worker as worker_role,
};

/// Runs a relay until `shutdown`.
pub(crate) async fn relay(config: config::Relay, life: Life) -> anyhow::Result<ExitCode> {
    let (queue, known) = connect(&config.queue).await?;
    run_on(&queue, known, run_relay(config, queue.clone(), &life)).await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a worker until `shutdown`.
pub(crate) async fn worker(config: config::Worker, life: Life) -> anyhow::Result<ExitCode> {
    let (queue, known) = connect(&config.queue).await?;
    run_on(&queue, known, run_worker(config, queue.clone(), &life)).await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs every role until `shutdown`.
pub(crate) async fn all(config: config::All, life: Life) -> anyhow::Result<ExitCode> {
    life.readiness.await_roles(2);
    let (queue, known) = connect(&config.relay.queue).await?;
    let relay = run_relay(config.relay, queue.clone(), &life).boxed_local();
    let worker = run_worker(config.worker, queue.clone(), &life).boxed_local();
    let roles = vec![Named { name: "relay", run: relay }, Named { name: "worker", run: worker }];
    run_on(&queue, known, supervise(roles, life.shutdown.clone())).await?;
    Ok(ExitCode::SUCCESS)
}

async fn run_relay(config: config::Relay, queue: Queue, life: &Life) -> anyhow::Result<()> {
    let ledger = database::ledger(&config.ledger, "relay", config.ledger.max_connections);
    life.show_pool("relay", &ledger);
    life.need(&ledger, &queue);
    if !database::wait_for(&config.ledger.database, "relay", &life.shutdown).await?
        || !database::register(&ledger, &life.shutdown).await?
    {
        return Ok(());
    }
    let listen = config.listen.map(|database| database.connect(&database::application("relay-listen")));
    let pool = ledger.pool().clone();
    let deps = relay_role::Deps { ledger, queue, listen, vitals: life.vitals.clone() };
    tracing::info!("relay starts");
    life.readiness.begin();
    tokio::select! {
        ended = relay_role::run(config.settings, deps, life.shutdown.clone()) => ended?,
        () = say_refusals(pool) => {}
    }
    tracing::info!("relay has stopped");
    Ok(())
}

async fn run_worker(config: config::Worker, queue: Queue, life: &Life) -> anyhow::Result<()> {
    let ledger = database::ledger(&config.ledger, "worker", config.ledger.max_connections);
    let leases = database::ledger(&config.ledger, "worker-leases", 1);
    life.show_pool("worker", &ledger);
    life.show_pool("worker-leases", &leases);
    life.need(&ledger, &queue);
    if !database::wait_for(&config.ledger.database, "worker", &life.shutdown).await?
        || !database::register(&ledger, &life.shutdown).await?
    {
        return Ok(());
    }
    let (catalog, vitals, pool) = (config.catalog, life.vitals.clone(), ledger.pool().clone());
    let deps = worker_role::Deps { ledger, leases, queue, catalog, vitals };
    tracing::info!("worker starts");
    life.readiness.begin();
    tokio::select! {
        ended = worker_role::run(config.settings, deps, life.shutdown.clone()) => ended?,
        () = say_refusals(pool) => {}
    }
    tracing::info!("worker has stopped");
    Ok(())
}

impl Life {
    /// What no role can do without.
    fn need(&self, ledger: &Postgres, queue: &Queue) {
        let (ledger, queue) = (ledger.clone(), queue.clone());
        self.readiness.need("Postgres", move || {
            let ledger = ledger.clone();
            async move { ledger.ping().await.is_ok() }
        });
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
