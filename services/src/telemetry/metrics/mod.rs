//! What a process counts and measures, as `/metrics` shows it. `names` is the one list of metrics;
//! `record` is what roles call when something has happened; `source` is for what is only read when
//! somebody asks; `format` is how it is written.
//!
//! Labels hold names from definitions and closed lists only: never a subject, a run, a text of the
//! API or a secret.

mod format;
pub mod names;
mod record;
mod source;

use std::{
    fmt::Debug,
    sync::{Arc, atomic::AtomicBool},
    time::{SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeMetric, text::encode},
    metrics::{TypedMetric, counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

pub use self::{format::Format, record::Ended, source::Sample};
use self::{
    names::{Labels, Metric},
    source::Sources,
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
    registry: Registry,
    sources: Sources,
    /// What is done before each scrape.
    refreshing: Mutex<Vec<Refresh>>,
    attempts: Series<4, Counter>,
    runs: Series<2, Counter>,
    leases_lost: Series<0, Counter>,
    stale_settles: Series<0, Counter>,
    claims_refused: Series<2, Counter>,
    rescued: Series<1, Counter>,
    lost_sign_ups_found: Series<0, Counter>,
    events_dropped: Series<0, Counter>,
    events_published: Series<1, Counter>,
    events_unconfirmed: Series<0, Counter>,
    feed_messages: Series<1, Counter>,
    step_duration: Series<1, Histogram>,
    run_duration: Series<2, Histogram>,
    http_client: Series<4, Histogram>,
    broker_connected: Arc<AtomicBool>,
    feed_connected: Arc<AtomicBool>,
}

type Refresh = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// A metric that this process counts or measures itself.
struct Series<const N: usize, M> {
    metric: &'static Metric<N>,
    family: Family<Labels, M>,
}

impl<const N: usize, M: EncodeMetric + TypedMetric + Clone + Send + Sync + Debug + 'static> Series<N, M> {
    fn new(registry: &mut Registry, metric: &'static Metric<N>, empty: fn() -> M) -> Self {
        let family = Family::new_with_constructor(empty);
        registry.register(metric.described().family(), metric.described().help, family.clone());
        Self { metric, family }
    }

    /// The series of these labels, which is shown from now on.
    fn of(&self, labels: [&str; N]) -> M {
        self.family.get_or_create_owned(&self.metric.labels(labels))
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
        let (mut registry, sources) = (Registry::default(), Sources::default());
        let all = &mut registry;
        // They are shown in this order.
        let mut metrics = Self {
            attempts: Series::new(all, &names::ATTEMPTS, Counter::default),
            runs: Series::new(all, &names::RUNS, Counter::default),
            leases_lost: Series::new(all, &names::LEASES_LOST, Counter::default),
            stale_settles: Series::new(all, &names::STALE_SETTLES, Counter::default),
            claims_refused: Series::new(all, &names::CLAIMS_REFUSED, Counter::default),
            rescued: Series::new(all, &names::RESCUED, Counter::default),
            lost_sign_ups_found: Series::new(all, &names::LOST_SIGN_UPS_FOUND, Counter::default),
            events_dropped: Series::new(all, &names::EVENTS_DROPPED, Counter::default),
            events_published: Series::new(all, &names::EVENTS_PUBLISHED, Counter::default),
            events_unconfirmed: Series::new(all, &names::EVENTS_UNCONFIRMED, Counter::default),
            feed_messages: Series::new(all, &names::FEED_MESSAGES, Counter::default),
            step_duration: Series::new(all, &names::STEP_DURATION, || Histogram::new(ATTEMPT_BUCKETS)),
            run_duration: Series::new(all, &names::RUN_DURATION, || Histogram::new(RUN_BUCKETS)),
            http_client: Series::new(all, &names::HTTP_CLIENT, || Histogram::new(ATTEMPT_BUCKETS)),
            sources: sources.clone(),
            refreshing: Mutex::default(),
            broker_connected: Arc::default(),
            feed_connected: Arc::default(),
            registry,
        };
        metrics.registry.register_collector(Box::new(sources));
        let (version, role) = (env!("CARGO_PKG_VERSION").to_owned(), role.to_owned());
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        metrics.read_from(move || {
            vec![Sample::of(&names::BUILD_INFO, [&version, &role], 1.0), Sample::of(&names::PROCESS_START, [], started)]
        });
        metrics
    }

    /// What is only read when somebody asks for the metrics.
    pub fn read_from(&self, source: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        self.sources.add(Box::new(source));
    }

    /// Shows what became of the spans of this process.
    pub fn spans_from(&self, exported: Arc<Exported>) {
        self.read_from(move || {
            let (sent, dropped, failed) = exported.counts();
            let counts = [("exported", sent), ("dropped", dropped), ("failed", failed)];
            counts.map(|(result, count)| Sample::of(&names::SPANS, [result], count as f64)).into()
        });
    }

    /// What is done before each scrape, and must bound its own time: reading what takes I/O.
    pub fn refresh_by<Fut>(&self, refresh: impl Fn() -> Fut + Send + Sync + 'static)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut refreshing = self.refreshing.lock();
        refreshing.push(Arc::new(move || Box::pin(refresh())));
    }

    /// Refreshed, all of it.
    pub async fn scrape(&self, format: Format) -> String {
        let refreshing = self.refreshing.lock().clone();
        for refresh in refreshing {
            refresh().await;
        }
        let mut open_metrics = String::new();
        // Writing into a text does not fail.
        let _ = encode(&mut open_metrics, &self.registry);
        format.of(open_metrics)
    }
}

#[cfg(test)]
mod tests;
