//! What a process counts and measures, as `/metrics` shows it. `names` is the one list of metrics;
//! `record` is what roles call when something has happened; `samples` is what a scrape shows, and
//! `format` how that is written.
//!
//! Labels hold names from definitions and closed lists only: never a subject, a run, a text of the
//! API or a secret.

mod format;
pub mod names;
mod record;
mod samples;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use prometheus_client::{encoding::text::encode, registry::Registry};

pub use self::{format::Format, samples::Sample};
use self::{
    names::Metric,
    samples::{Samples, Value},
};
use super::Exported;

/// Everything that this process counts.
#[derive(Default)]
pub struct Metrics {
    recorded: Mutex<Samples>,
    sources: Mutex<Vec<Source>>,
}

/// Where samples come from that are only read when somebody asks.
type Source = Arc<dyn Fn() -> BoxFuture<'static, Vec<Sample>> + Send + Sync>;

impl Metrics {
    /// Those of a process that plays this role.
    pub fn new(role: &str) -> Self {
        let metrics = Self::default();
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        metrics.set(&names::BUILD_INFO, [env!("CARGO_PKG_VERSION"), role], 1.0);
        metrics.set(&names::PROCESS_START, [], started);
        metrics
    }

    /// So many more, in a counter.
    pub fn count<const N: usize>(&self, metric: &Metric<N>, labels: [&str; N], more: u64) {
        if more == 0 {
            return;
        }
        match &mut *self.series(metric, labels) {
            Value::Count(count) => *count += more,
            other => debug_assert!(false, "{} is no counter: {other:?}", metric.family.name),
        }
    }

    /// One more duration, in a histogram.
    pub fn measure<const N: usize>(&self, metric: &Metric<N>, labels: [&str; N], duration: Duration) {
        match &*self.series(metric, labels) {
            Value::Durations(durations) => durations.observe(duration.as_secs_f64()),
            other => debug_assert!(false, "{} is no histogram: {other:?}", metric.family.name),
        }
    }

    /// A gauge from now on.
    pub fn set<const N: usize>(&self, metric: &Metric<N>, labels: [&str; N], value: impl Into<f64>) {
        *self.series(metric, labels) = Value::Number(value.into());
    }

    /// Whether a gauge was last set to true.
    pub fn is_set(&self, metric: &Metric<0>) -> bool {
        matches!(self.recorded.lock().get(metric.family, &metric.labels([])), Some(Value::Number(1.0)))
    }

    /// A series, which is shown from now on.
    fn series<const N: usize>(&self, metric: &Metric<N>, labels: [&str; N]) -> MappedMutexGuard<'_, Value> {
        let labels = metric.labels(labels);
        MutexGuard::map(self.recorded.lock(), |recorded| recorded.series(metric.family, labels))
    }

    /// Shows what became of the spans of this process.
    pub fn spans_from(&self, exported: Arc<Exported>) {
        self.read_from(move || {
            let (sent, dropped, failed) = exported.counts();
            let counts = [("exported", sent), ("dropped", dropped), ("failed", failed)];
            counts.map(|(result, count)| Sample::of(&names::SPANS, [result], count as f64)).into()
        });
    }

    /// What is only read when somebody asks for the metrics.
    pub fn read_from(&self, source: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        self.ask(move || std::future::ready(source()));
    }

    /// The same of what takes I/O: it must bound its own time.
    pub fn ask<Fut>(&self, source: impl Fn() -> Fut + Send + Sync + 'static)
    where
        Fut: Future<Output = Vec<Sample>> + Send + 'static,
    {
        self.sources.lock().push(Arc::new(move || Box::pin(source())));
    }

    pub async fn scrape(&self, format: Format) -> String {
        let sources = self.sources.lock().clone();
        let mut read = Vec::new();
        for source in sources {
            read.extend(source().await);
        }
        // A copy, so that nobody who counts waits while it is written.
        let mut samples = self.recorded.lock().clone();
        read.into_iter().for_each(|sample| samples.put(sample));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(samples));
        let mut open_metrics = String::new();
        // Writing into a text does not fail.
        let _ = encode(&mut open_metrics, &registry);
        format.of(open_metrics)
    }
}

#[cfg(test)]
mod tests;
