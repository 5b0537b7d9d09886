//! How the whole system stands, among this relay's metrics. Postgres is asked for a row that all
//! relays share, Redis for its depths; neither more than once a second, however many scrape. What
//! cannot be asked is not shown: an old number would lie.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{
    ledger::{
        RelayLedger,
        postgres::{
            Postgres,
            read::{self, Gate, Gauges, Steps, Unfinished},
        },
    },
    queue::Queue,
    telemetry::{
        chain,
        metrics::{Metrics, Sample, names},
    },
};

/// How old the shared row may become.
const MAX_AGE: Duration = Duration::from_secs(5);
/// How long this relay keeps what it read.
const KEPT: Duration = Duration::from_secs(1);
/// The most that a scrape waits for each of the two.
const LIMIT: Duration = Duration::from_secs(3);

/// From now on a scrape of these metrics shows the gauges.
pub(super) fn show(metrics: &Metrics, ledger: Postgres, queue: Queue) {
    let reader = Arc::new(Reader { ledger, queue, read: Mutex::default() });
    metrics.ask(move || {
        let reader = reader.clone();
        async move { reader.read().await }
    });
}

struct Reader {
    ledger: Postgres,
    queue: Queue,
    /// What was read, and when. Held while reading, so that scrapers at the same moment share one
    /// reading.
    read: Mutex<Option<(Instant, Vec<Sample>)>>,
}

impl Reader {
    async fn read(&self) -> Vec<Sample> {
        let mut read = self.read.lock().await;
        if let Some((at, samples)) = &*read
            && at.elapsed() < KEPT
        {
            return samples.clone();
        }
        let (stored, depths) = tokio::join!(in_time(self.stored(), "Postgres"), in_time(self.depths(), "Redis"));
        let samples = [stored, depths].concat();
        *read = Some((Instant::now(), samples.clone()));
        samples
    }

    async fn stored(&self) -> anyhow::Result<Vec<Sample>> {
        let gauges = read::gauges(&self.ledger, MAX_AGE).await.context("read the gauges")?;
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

async fn in_time(read: impl Future<Output = anyhow::Result<Vec<Sample>>>, whence: &str) -> Vec<Sample> {
    let read = timeout(LIMIT, read).await.context("no answer in time").flatten();
    read.unwrap_or_else(|error| {
        tracing::warn!(error = chain(error.as_ref()), "the metrics lack what {whence} would tell");
        Vec::new()
    })
}

/// Every reason from zero on, so that an alert sees the first.
const REASONS: [&str; 4] = ["permanent_error", "attempts_exhausted", "worker_lost", "deadline_exceeded"];

fn samples(Gauges { now, taken }: &Gauges) -> Vec<Sample> {
    let age = |since: Option<DateTime<Utc>>| since.map_or(0.0, |since| seconds(*now - since));
    let mut samples = vec![
        Sample::of(&names::EVENT_LAG, [], age(taken.oldest_event_at)),
        Sample::of(&names::PROJECTIONS_PENDING, [], taken.pending.count as f64),
    ];
    for reason in REASONS {
        let letters = taken.letters.iter().filter(|letters| letters.reason == reason);
        let count: i64 = letters.map(|letters| letters.count).sum();
        samples.push(Sample::of(&names::DEAD_LETTERS, [reason], count as f64));
    }
    for Steps { step, due, held, scheduled, running, unfinished, .. } in &taken.steps {
        for (state, count) in [("due", due), ("held", held), ("scheduled", scheduled), ("running", running)] {
            samples.push(Sample::of(&names::QUEUE_DEPTH, [step, state], *count as f64));
        }
        for Unfinished { workflow, count, oldest_at } in unfinished.iter() {
            let labels = [workflow.as_str(), step];
            samples.push(Sample::of(&names::UNFINISHED_STEPS, labels, *count as f64));
            samples.push(Sample::of(&names::OLDEST_UNFINISHED_AGE, labels, age(*oldest_at)));
        }
    }
    taken.gates.iter().for_each(|gate| of_gate(gate, &mut samples));
    samples
}

fn seconds(length: TimeDelta) -> f64 {
    length.to_std().map_or(0.0, |length| length.as_secs_f64())
}

fn of_gate(gate: &Gate, samples: &mut Vec<Sample>) {
    let Gate { scope, name, breaker, .. } = gate;
    let mut show = |cause, closed: bool| {
        samples.push(Sample::of(&names::GATE_CLOSED, [scope, name, cause], closed));
    };
    show("pause", gate.paused_at.is_some());
    show("hold", gate.hold_until.is_some());
    if scope == "host" {
        show("breaker", breaker == "open");
        let state = match breaker.as_str() {
            "closed" => 0.0,
            "half_open" => 1.0,
            _ => 2.0,
        };
        samples.push(Sample::of(&names::BREAKER_STATE, [name], state));
    }
}
