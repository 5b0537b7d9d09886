//! Each role with what it works with. What is wrong with Redis or Postgres is found here, before a role starts.

use std::process::ExitCode;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::{Named, Refused, database, supervise};
use crate::{
    config,
    queue::{Queue, Severity},
    relay as relay_role, worker as worker_role,
};

/// Runs a relay until `shutdown`.
pub async fn relay(config: config::Relay, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let queue = connect(&config.queue).await?;
    run_relay(config, queue, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a worker until `shutdown`.
pub async fn worker(config: config::Worker, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let queue = connect(&config.queue).await?;
    run_worker(config, queue, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs every role until `shutdown`.
pub async fn all(config: config::All, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let queue = connect(&config.relay.queue).await?;
    let relay = run_relay(config.relay, queue.clone(), shutdown.clone()).boxed_local();
    let worker = run_worker(config.worker, queue, shutdown.clone()).boxed_local();
    let roles = vec![Named { name: "relay", run: relay }, Named { name: "worker", run: worker }];
    supervise(roles, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

async fn run_relay(config: config::Relay, queue: Queue, shutdown: CancellationToken) -> anyhow::Result<()> {
    if !database::wait_for(&config.ledger.database, "relay", &shutdown).await? {
        return Ok(());
    }
    let ledger = database::ledger(&config.ledger, "relay", config.ledger.max_connections)?;
    // One listens, the other notifies it, to see that it hears.
    let listen = config.listen.map(|database| database::pool(&database, "relay-listen", 2));
    let deps = relay_role::Deps { ledger, queue, listen };
    tracing::info!("relay starts");
    relay_role::run(config.settings, deps, shutdown).await?;
    tracing::info!("relay has stopped");
    Ok(())
}

async fn run_worker(config: config::Worker, queue: Queue, shutdown: CancellationToken) -> anyhow::Result<()> {
    if !database::wait_for(&config.ledger.database, "worker", &shutdown).await? {
        return Ok(());
    }
    let ledger = database::ledger(&config.ledger, "worker", config.ledger.max_connections)?;
    let leases = database::ledger(&config.ledger, "worker-leases", 1)?;
    let deps = worker_role::Deps {
        ledger,
        leases,
        queue,
        api: config.api,
        settings: config.provision,
        registry: config.ledger.registry,
    };
    tracing::info!("worker starts");
    worker_role::run(config.settings, deps, shutdown).await?;
    tracing::info!("worker has stopped");
    Ok(())
}

/// A handle on Redis, refused where Redis is not as it must be. One that is away is waited for by the roles themselves.
async fn connect(config: &crate::queue::Config) -> anyhow::Result<Queue> {
    let queue = Queue::connect(config).map_err(|error| Refused(vec![format!("REDIS_URL: {error}")]))?;
    let (refusals, warnings): (Vec<_>, Vec<_>) =
        queue.check().await.into_iter().partition(|finding| finding.severity == Severity::Refuse);
    for warning in warnings {
        tracing::warn!("{}", warning.text);
    }
    match refusals.is_empty() {
        true => Ok(queue),
        false => Err(Refused(refusals.into_iter().map(|finding| finding.text).collect()).into()),
    }
}
