//! How the whole system stands, among this relay's metrics. Postgres is asked for a row that all relays share, Redis for its
//! depths; neither more than once a second, however many scrape. What cannot be asked is not shown: an old number would lie.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::time::{Instant, timeout};

use crate::{
    ledger::{
        Ledger,
        postgres::{
            Postgres,
            read::{self, GateGauges, Gauges, StepGauges},
        },
    },
    queue::Queue,
    telemetry::metrics::{Metrics, Sample, names},
};

/// How old the shared row may become.
const MAX_AGE: Duration = Duration::from_secs(5);
/// How long this relay keeps what it read.
const KEPT: Duration = Duration::from_secs(1);
/// The most that a scrape waits for each of the two.
const LIMIT: Duration = Duration::from_secs(3);

/// From now on a scrape of these metrics shows the gauges.
pub(super) fn show(metrics: &Metrics, ledger: Postgres, queue: Queue, host: Option<String>) {
    let samples = Arc::<Mutex<Vec<Sample>>>::default();
    let shown = samples.clone();
    metrics.read_from(move || shown.lock().unwrap_or_else(PoisonError::into_inner).clone());
    let reader = Arc::new(Reader { ledger, queue, host, samples, read_at: tokio::sync::Mutex::default() });
    metrics.refresh_by(move || {
        let reader = reader.clone();
        async move { reader.refresh().await }
    });
}

struct Reader {
    ledger: Postgres,
    queue: Queue,
    host: Option<String>,
    samples: Arc<Mutex<Vec<Sample>>>,
    /// Held while reading, so that scrapers at the same moment share one reading.
    read_at: tokio::sync::Mutex<Option<Instant>>,
}

impl Reader {
    async fn refresh(&self) {
        let mut read_at = self.read_at.lock().await;
        if read_at.is_some_and(|at| at.elapsed() < KEPT) {
            return;
        }
        let (stored, depths) = tokio::join!(timeout(LIMIT, self.stored()), timeout(LIMIT, self.depths()));
        let mut samples = shown(stored.context("no answer in time").flatten(), "Postgres");
        samples.extend(shown(depths.context("no answer in time").flatten(), "Redis"));
        *self.samples.lock().unwrap_or_else(PoisonError::into_inner) = samples;
        *read_at = Some(Instant::now());
    }

    async fn stored(&self) -> anyhow::Result<Vec<Sample>> {
        let gauges = read::gauges(&self.ledger, self.host.as_deref(), MAX_AGE).await.context("read the gauges")?;
        Ok(samples(&gauges))
    }

    async fn depths(&self) -> anyhow::Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for step in self.ledger.registry().queues() {
            let depth = self.queue.depth(&step).await?;
            samples.push(Sample::of(&names::REDIS_OUTSTANDING, [step.as_str()], depth as f64));
        }
        Ok(samples)
    }
}

fn shown(read: anyhow::Result<Vec<Sample>>, whence: &str) -> Vec<Sample> {
    read.unwrap_or_else(|error| {
        tracing::warn!(error = format!("{error:#}"), "the metrics lack what {whence} would tell");
        Vec::new()
    })
}

/// Every reason from zero on, so that an alert sees the first.
const REASONS: [&str; 4] = ["permanent_error", "attempts_exhausted", "worker_lost", "deadline_exceeded"];

fn samples(gauges: &Gauges) -> Vec<Sample> {
    let mut samples = vec![
        Sample::of(&names::EVENT_LAG, [], gauges.event_lag),
        Sample::of(&names::PROJECTIONS_PENDING, [], gauges.projections_pending as f64),
    ];
    for reason in REASONS {
        let letters = gauges.letters.iter().filter(|letters| letters.reason == reason);
        let count: u64 = letters.map(|letters| letters.count).sum();
        samples.push(Sample::of(&names::DEAD_LETTERS, [reason], count as f64));
    }
    gauges.steps.iter().for_each(|step| of_step(step, &mut samples));
    gauges.gates.iter().for_each(|gate| of_gate(gate, &mut samples));
    samples
}

fn of_step(gauges: &StepGauges, samples: &mut Vec<Sample>) {
    let StepGauges { step, due, held, scheduled, dispatched, running, oldest } = gauges;
    samples.push(Sample::of(&names::OLDEST_DUE_AGE, [step], *oldest));
    for (state, count) in
        [("due", due), ("held", held), ("scheduled", scheduled), ("dispatched", dispatched), ("running", running)]
    {
        samples.push(Sample::of(&names::QUEUE_DEPTH, [step, state], *count as f64));
    }
}

fn of_gate(gate: &GateGauges, samples: &mut Vec<Sample>) {
    let GateGauges { scope, name, paused, held, breaker } = gate;
    let mut show = |cause, closed| {
        let closed = f64::from(u8::from(closed));
        samples.push(Sample::of(&names::GATE_CLOSED, [scope, name, cause], closed));
    };
    show("pause", *paused);
    show("hold", *held);
    if scope == "host" {
        show("breaker", breaker != "closed");
        let state = match breaker.as_str() {
            "closed" => 0.0,
            "half_open" => 1.0,
            _ => 2.0,
        };
        samples.push(Sample::of(&names::BREAKER_STATE, [name], state));
    }
}
