//! The worker: takes dispatched steps in hand, runs them against the Evolution API, and settles.
//!
//! `attempt` is one step from claim to settle, and what the tests call; `lease` keeps the leases of the attempts that run;
//! `batch` lets attempts that claim or settle at the same moment share one transaction; `signals` tells the gate of the API's
//! host what attempts heard, and probes it; `blame` asks whose failure a failure is; `tell` logs how attempts ended. A worker never decides what becomes
//! of a step: it brings an outcome, the ledger's settlement does the rest.

mod attempt;
mod batch;
mod blame;
mod lease;
mod signals;
mod tell;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use workflows::{
    breaker::Rules,
    definition::{RENEWAL, Registry},
    evolution::Evolution,
    ids::StepName,
    provision,
};

pub use self::attempt::{Attempted, Bench, Dice};
pub use self::lease::Leases;
pub use self::signals::{Signals, Watch};
use crate::{
    ledger::{self, Ledger},
    queue::{Delivery, Queue, Status},
    telemetry::{
        Vitals,
        health::Pulse,
        metrics::{Metrics, Sample, names},
        spans,
    },
};

/// How a worker process works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The queues it serves.
    pub steps: Vec<StepName>,
    /// How many attempts of each step run at once.
    pub concurrency: NonZeroUsize,
    /// How long attempts may go on after a stop was asked for.
    pub grace: Duration,
    /// The API's host, whose gate is asked at every claim.
    pub host: Option<String>,
    /// When the host's breaker opens, and how it is probed.
    pub rules: Rules,
}

/// What a worker works with. Attempts need no queue: hints come to them.
pub struct Deps<L, E, Q = Queue> {
    pub ledger: L,
    /// The same ledger over a connection of its own: renewals never queue behind claims.
    pub leases: L,
    pub queue: Q,
    pub api: E,
    pub settings: provision::Settings,
    pub registry: Arc<Registry>,
    /// Where it leaves what it counts, and its loops' pulses.
    pub vitals: Vitals,
}

/// Runs until `shutdown`. Then nothing more is claimed, attempts that run may end within the grace period, and the rest is
/// handed back, uncounted.
pub async fn run<L, E>(settings: Settings, deps: Deps<L, E>, shutdown: CancellationToken) -> anyhow::Result<()>
where
    L: Ledger,
    E: Evolution + Send + Sync + 'static,
{
    let (queue, vitals) = (deps.queue.clone(), deps.vitals.clone());
    vitals.metrics.expect_attempts(deps.registry.all(), &settings.steps);
    let leases = Arc::new(Leases::default());
    let me = ledger::Worker { name: name(), host: settings.host.clone() };
    let (rules, dice): (_, Dice) = (settings.rules, Arc::new(rand::random::<f64>));
    let bench = Arc::new(Bench::new(deps, me.clone(), leases.clone(), rules, dice));
    tracing::info!(worker = %me.name, steps = ?settings.steps.iter().map(StepName::as_str).collect::<Vec<_>>(), "ready");

    let renewals = tokio::spawn(renew(bench.clone(), vitals.health.pulse("worker: renew leases")));
    let watching = bench.watch().map(|watch| {
        let pulse = vitals.health.pulse("worker: watch the API's gate");
        tokio::spawn(async move { watch.run(pulse).await })
    });
    let consumers: Vec<_> = settings
        .steps
        .iter()
        .map(|step| {
            let pulse = vitals.health.pulse(format!("worker: consume {step}"));
            let consumer = queue.consumer(step, settings.concurrency, settings.grace + HAND_BACK).beating(pulse);
            show(step, consumer.status(), &vitals);
            let (bench, queue, shutdown) = (bench.clone(), queue.clone(), shutdown.clone());
            let (step, metrics) = (step.clone(), vitals.metrics.clone());
            let handler = move |delivery: Delivery| {
                let span = spans::process(&step, &delivery.hint);
                let handling = handle(bench.clone(), queue.clone(), step.clone(), metrics.clone(), delivery);
                handling.instrument(span)
            };
            tokio::spawn(consumer.run(handler, shutdown))
        })
        .collect();
    let letting_go = tokio::spawn(let_go_after(shutdown, settings.grace, leases));
    for consumer in consumers {
        let drained = consumer.await.context("run a consumer")?;
        if drained.abandoned > 0 {
            tracing::warn!(
                abandoned = drained.abandoned,
                "attempts could not be handed back in time: they are left to their leases"
            );
        }
    }
    letting_go.abort();
    renewals.abort();
    if let (Some(watch), Some(watching)) = (bench.watch(), watching) {
        watching.abort();
        tell_the_last(&watch).await;
    }
    Ok(())
}

/// How long handing back may take once the grace period is over.
const HAND_BACK: Duration = Duration::from_secs(2);

/// Ends what still runs when the grace period is over: each attempt settles as a defer, so that nothing is counted.
async fn let_go_after(shutdown: CancellationToken, grace: Duration, leases: Arc<Leases>) {
    shutdown.cancelled().await;
    tokio::time::sleep(grace).await;
    leases.let_go();
}

/// What the last attempts heard is worth a moment, but not the grace period.
async fn tell_the_last<L: Ledger, E: Evolution + Send + Sync + 'static>(watch: &Watch<L, E>) {
    if !matches!(tokio::time::timeout(Duration::from_secs(1), watch.tell()).await, Ok(Ok(_))) {
        tracing::debug!(host = %watch.host, "what the last attempts heard of the API was not told");
    }
}

/// One hint: an attempt, and a wake for the relay where there is more to dispatch.
async fn handle<L: Ledger, E: Evolution + Send + Sync + 'static>(
    bench: Arc<Bench<L, E>>,
    queue: Queue,
    step: StepName,
    metrics: Arc<Metrics>,
    mut delivery: Delivery,
) {
    let key = delivery.hint.key();
    match bench.attempt(key, || delivery.acknowledge()).await {
        Ok(Attempted::PutBack(why)) => {
            metrics.put_back(&step, why.as_str());
            queue.wake_relay();
        }
        Ok(Attempted::Settled(_)) => queue.wake_relay(),
        Ok(Attempted::Stale | Attempted::Overtaken) => {}
        Err(error) => {
            tracing::warn!(run = %key.run, position = key.position, %error, "cannot claim: the step is dispatched again")
        }
    }
}

/// Keeps the leases of all attempts of this process, and its heartbeat.
async fn renew<L: Ledger, E: Evolution + Send + Sync + 'static>(bench: Arc<Bench<L, E>>, pulse: Pulse) {
    let mut tick = tokio::time::interval(RENEWAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        pulse.beat();
        if let Err(error) = bench.renew_once().await {
            tracing::warn!(%error, "cannot renew leases");
        }
    }
}

/// Shows how a consumer does among the metrics.
fn show(step: &StepName, status: watch::Receiver<Status>, vitals: &Vitals) {
    let step = step.to_string();
    vitals.metrics.read_from(move || {
        let status = status.borrow();
        let step = [step.as_str()];
        vec![
            Sample::of(&names::CONSUMER_UP, step, f64::from(u8::from(status.worker.is_some()))),
            Sample::of(&names::CONSUMER_REBUILDS, step, status.rebuilds as f64),
            Sample::of(&names::CONSUMER_PANICS, step, status.panics as f64),
            Sample::of(&names::CONSUMER_ABANDONED, step, status.abandoned as f64),
            Sample::of(&names::CONSUMER_GARBLED, step, status.garbled as f64),
            Sample::of(&names::HINTS_HANDED_BACK, step, status.handed_back as f64),
        ]
    });
}

/// A name that is new at every start.
fn name() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned());
    format!("worker-{host}-{}-{:08x}", std::process::id(), rand::random::<u32>())
}
