//! What a process counts and measures, as `/metrics` shows it. `names` is the one list of metrics; `record` is what roles call
//! when something has happened; `source` is for what is only read when somebody asks; `format` is how it is written.
//!
//! Labels hold names from definitions and closed lists only: never a subject, a run, a text of the API or a secret.

mod format;
pub mod names;
mod record;
mod source;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::{SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        histogram::Histogram,
    },
    registry::Registry,
};

pub use self::{format::Format, record::Ended, source::Sample};
use self::{
    names::Labels,
    source::{Source, Sources},
};
use super::Exported;

/// A call or an attempt: from what the API answers in to its longest timeout.
const ATTEMPT_BUCKETS: [f64; 13] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 90.0];
/// Fine where a short run should end, and up to an hour, for those that waited out an outage.
const RUN_BUCKETS: [f64; 20] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0,
    3600.0,
];

/// Everything that this process counts.
pub struct Metrics {
    registry: Mutex<Registry>,
    sources: Sources,
    /// What is done before each scrape.
    refreshing: Mutex<Vec<Refresh>>,
    attempts: Counters,
    step_duration: Histograms,
    run_duration: Histograms,
    runs: Counters,
    leases_lost: Counters,
    stale_settles: Counters,
    claims_refused: Counters,
    http_client: Histograms,
    rescued: Counters,
    lost_sign_ups_found: Counters,
    events_dropped: Counters,
    events_published: Counters,
    events_unconfirmed: Counters,
    broker_connected: Arc<AtomicBool>,
    feed_messages: Counters,
    feed_connected: Arc<AtomicBool>,
}

type Refresh = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;
type Counters = Family<Labels, Counter>;
type Histograms = Family<Labels, Histogram, Buckets>;

#[derive(Clone, Copy)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new("none")
    }
}

impl Metrics {
    /// Those of a process that plays this role.
    pub fn new(role: &str) -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            sources: Sources::default(),
            refreshing: Mutex::default(),
            attempts: Counters::default(),
            step_duration: Histograms::new_with_constructor(Buckets(&ATTEMPT_BUCKETS)),
            run_duration: Histograms::new_with_constructor(Buckets(&RUN_BUCKETS)),
            runs: Counters::default(),
            leases_lost: Counters::default(),
            stale_settles: Counters::default(),
            claims_refused: Counters::default(),
            http_client: Histograms::new_with_constructor(Buckets(&ATTEMPT_BUCKETS)),
            rescued: Counters::default(),
            lost_sign_ups_found: Counters::default(),
            events_dropped: Counters::default(),
            events_published: Counters::default(),
            events_unconfirmed: Counters::default(),
            broker_connected: Arc::default(),
            feed_messages: Counters::default(),
            feed_connected: Arc::default(),
        };
        metrics.register();
        let (version, role) = (env!("CARGO_PKG_VERSION").to_owned(), role.to_owned());
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        metrics.read_from(move || {
            vec![Sample::of(&names::BUILD_INFO, [&version, &role], 1.0), Sample::of(&names::PROCESS_START, [], started)]
        });
        metrics
    }

    fn register(&self) {
        let mut registry = self.lock();
        let mut counters = |metric: names::Described, family: &Counters| {
            registry.register(metric.family(), metric.help, family.clone());
        };
        counters(names::ATTEMPTS.described(), &self.attempts);
        counters(names::RUNS.described(), &self.runs);
        counters(names::LEASES_LOST.described(), &self.leases_lost);
        counters(names::STALE_SETTLES.described(), &self.stale_settles);
        counters(names::CLAIMS_REFUSED.described(), &self.claims_refused);
        counters(names::RESCUED.described(), &self.rescued);
        counters(names::LOST_SIGN_UPS_FOUND.described(), &self.lost_sign_ups_found);
        counters(names::EVENTS_DROPPED.described(), &self.events_dropped);
        counters(names::EVENTS_PUBLISHED.described(), &self.events_published);
        counters(names::EVENTS_UNCONFIRMED.described(), &self.events_unconfirmed);
        counters(names::FEED_MESSAGES.described(), &self.feed_messages);
        let mut histograms = |metric: names::Described, family: &Histograms| {
            registry.register(metric.family(), metric.help, family.clone());
        };
        histograms(names::STEP_DURATION.described(), &self.step_duration);
        histograms(names::RUN_DURATION.described(), &self.run_duration);
        histograms(names::HTTP_CLIENT.described(), &self.http_client);
        registry.register_collector(Box::new(self.sources.clone()));
    }

    /// What is only read when somebody asks for the metrics.
    pub fn read_from(&self, source: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        self.sources.add(Source::new(source));
    }

    /// Shows what became of the spans of this process.
    pub fn spans_from(&self, exported: Arc<Exported>) {
        self.read_from(move || {
            let counts =
                [("exported", exported.exported()), ("dropped", exported.dropped()), ("failed", exported.failed())];
            counts.map(|(result, count)| Sample::of(&names::SPANS, [result], count as f64)).into()
        });
    }

    /// What is done before each scrape, and must bound its own time: reading what takes I/O.
    pub fn refresh_by<Fut>(&self, refresh: impl Fn() -> Fut + Send + Sync + 'static)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut refreshing = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        refreshing.push(Arc::new(move || Box::pin(refresh())));
    }

    /// Refreshed, all of it.
    pub async fn scrape(&self, format: Format) -> String {
        let refreshing = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for refresh in refreshing {
            refresh().await;
        }
        format.of(self.text())
    }

    /// In OpenMetrics' text.
    fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a text does not fail.
        let _ = encode(&mut text, &self.lock());
        text
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
