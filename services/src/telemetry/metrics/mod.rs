//! What a process counts and measures, as `/metrics` shows it. `names` is the one list of metrics; `record` is what roles call
//! when something has happened; `source` is for what is only read when somebody asks.
//!
//! Labels hold names from definitions and closed lists only: never a subject, a run, a text of the API or a secret.

pub mod names;
mod record;
mod source;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

use self::names::Labels;
pub use self::{
    record::Ended,
    source::{Sample, Source},
};
use super::Exported;

/// The content type of what `Metrics::text` returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A call or an attempt: from what the API answers in to its longest timeout.
const ATTEMPT_BUCKETS: [f64; 13] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 90.0];
/// Fine where a sign-up should end, and up to an hour, for those that waited out an outage.
const READY_BUCKETS: [f64; 18] =
    [0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0];

/// Everything that this process counts.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// What is done before each scrape.
    refreshing: Mutex<Vec<Refresh>>,
    attempts: Counters,
    step_duration: Histograms,
    sign_up_to_ready: Histograms,
    runs: Counters,
    leases_lost: Counters,
    stale_settles: Counters,
    put_back: Counters,
    http_client: Histograms,
    rescued: Counters,
    redis_losses: Counters,
    lost_sign_ups_found: Counters,
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
            refreshing: Mutex::default(),
            attempts: Counters::default(),
            step_duration: Histograms::new_with_constructor(Buckets(&ATTEMPT_BUCKETS)),
            sign_up_to_ready: Histograms::new_with_constructor(Buckets(&READY_BUCKETS)),
            runs: Counters::default(),
            leases_lost: Counters::default(),
            stale_settles: Counters::default(),
            put_back: Counters::default(),
            http_client: Histograms::new_with_constructor(Buckets(&ATTEMPT_BUCKETS)),
            rescued: Counters::default(),
            redis_losses: Counters::default(),
            lost_sign_ups_found: Counters::default(),
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
        counters(names::PUT_BACK.described(), &self.put_back);
        counters(names::RESCUED.described(), &self.rescued);
        counters(names::REDIS_LOSSES.described(), &self.redis_losses);
        counters(names::LOST_SIGN_UPS_FOUND.described(), &self.lost_sign_ups_found);
        let mut histograms = |metric: names::Described, family: &Histograms| {
            registry.register(metric.family(), metric.help, family.clone());
        };
        histograms(names::STEP_DURATION.described(), &self.step_duration);
        histograms(names::SIGN_UP_TO_READY.described(), &self.sign_up_to_ready);
        histograms(names::HTTP_CLIENT.described(), &self.http_client);
    }

    /// What is only read when somebody asks for the metrics.
    pub fn read_from(&self, source: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        self.lock().register_collector(Box::new(Source::new(source)));
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

    /// Refreshed, all of it in the text format of OpenMetrics, which Prometheus reads.
    pub async fn scrape(&self) -> String {
        let refreshing = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for refresh in refreshing {
            refresh().await;
        }
        self.text()
    }

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
mod tests {
    use std::time::Duration;

    use workflows::{ids::StepName, state::RunState};

    use super::*;

    #[tokio::test]
    async fn what_is_counted_is_shown_under_its_name_with_its_labels() {
        let metrics = Metrics::new("worker");
        let step: StepName = "verify".parse().unwrap();

        metrics.attempt_ended(&Ended {
            workflow: "provision-instance",
            step: "verify",
            outcome: "succeeded",
            class: None,
            run: RunState::Succeeded,
        });
        metrics.put_back(&step, "gate_closed");
        metrics.put_back(&step, "gate_closed");
        metrics.ready_after(Duration::from_millis(1200));
        metrics.called("POST /instance/create", None, "no_answer", Duration::from_secs(15));
        metrics.leases_lost(0);
        metrics.spans_from(Arc::default());

        let text = metrics.scrape().await;
        for line in [
            r#"sluice_attempts_total{workflow="provision-instance",step="verify",outcome="succeeded",class="none"} 1"#,
            r#"sluice_runs_total{workflow="provision-instance",outcome="ready"} 1"#,
            r#"sluice_put_back_total{step="verify",reason="gate_closed"} 2"#,
            r#"sluice_sign_up_to_ready_seconds_bucket{le="1.0"} 0"#,
            r#"sluice_sign_up_to_ready_seconds_bucket{le="1.5"} 1"#,
            r#"sluice_spans_total{result="exported"} 0.0"#,
            "# TYPE sluice_spans counter",
            "# TYPE sluice_put_back counter",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        let call =
            r#"http_client_request_duration_seconds_count{http_request_method="POST",url_template="/instance/create","#;
        assert!(text.contains(call), "{text}");
        assert!(!text.contains("sluice_leases_lost_total"), "{text}");
    }

    #[tokio::test]
    async fn what_a_worker_may_count_is_there_from_zero_on() {
        let metrics = Metrics::new("worker");
        let (retry, minute) = (Default::default(), Duration::from_secs(60));
        let workflow = workflows::provision::definition(retry, minute, minute);

        metrics.expect_attempts(std::iter::once(&workflow), &["verify".parse().unwrap()]);

        let text = metrics.scrape().await;
        for line in [
            r#"sluice_runs_total{workflow="provision-instance",outcome="dead"} 0"#,
            r#"sluice_put_back_total{step="verify",reason="unknown_definition"} 0"#,
            "sluice_leases_lost_total{} 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("create-instance"), "{text}");
    }
}
