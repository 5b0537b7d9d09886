//! What a process counts and measures, as `/metrics` shows it. `names` is the one list of metrics; the methods here are what
//! roles call when something has happened; `source` is for what is only read when somebody asks.
//!
//! Labels hold names from definitions and closed lists only: never a subject, a run, a text of the API or a secret.

pub mod names;
mod source;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
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
use workflows::{
    definition::{self, Workflow},
    ids::StepName,
    outcome::Class,
    state::RunState,
};

use self::names::{Labels, Metric};
pub use self::source::{Sample, Source};
use crate::ledger::Settlement;

/// The content type of what `Metrics::text` returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// In what an attempt without a failure has its class.
const NO_CLASS: &str = "none";

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

/// How an attempt ended, as far as it is counted.
pub struct Ended<'a> {
    pub workflow: &'a str,
    pub step: &'a str,
    /// As in the ledger's attempts.
    pub outcome: &'static str,
    pub class: Option<Class>,
    /// The run's state after it.
    pub run: RunState,
}

impl<'a> Ended<'a> {
    /// What this settlement wrote; `run` is the run's state after it.
    pub fn of(settlement: &'a Settlement, run: RunState) -> Self {
        let Settlement { workflow, step, attempt, .. } = settlement;
        Self { workflow: workflow.as_str(), step: step.as_str(), outcome: attempt.outcome, class: attempt.class, run }
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

    /// Shows what this process can count from zero on: a counter that only appears with its first event seems not to have
    /// risen. A worker's, which serves these steps.
    pub fn expect_attempts<'a>(&self, workflows: impl Iterator<Item = &'a Workflow>, steps: &[StepName]) {
        for workflow in workflows {
            let served = |step: &&definition::Step| steps.contains(&step.name);
            for step in workflow.steps.iter().filter(served) {
                let labels = [workflow.name.as_str(), step.name.as_str(), "succeeded", NO_CLASS];
                drop(self.attempts.get_or_create(&names::ATTEMPTS.labels(labels)));
                drop(self.step_duration.get_or_create(&names::STEP_DURATION.labels([step.name.as_str()])));
                for reason in ["gate_closed", "resource_busy", "unknown_definition"] {
                    drop(self.put_back.get_or_create(&names::PUT_BACK.labels([step.name.as_str(), reason])));
                }
            }
            for outcome in [RunState::Succeeded, RunState::Dead, RunState::Cancelled].map(run_outcome) {
                drop(self.runs.get_or_create(&names::RUNS.labels([workflow.name.as_str(), outcome])));
            }
        }
        drop(self.sign_up_to_ready.get_or_create(&names::SIGN_UP_TO_READY.labels([])));
        drop(self.leases_lost.get_or_create(&names::LEASES_LOST.labels([])));
        drop(self.stale_settles.get_or_create(&names::STALE_SETTLES.labels([])));
    }

    /// The same for a relay.
    pub fn expect_rescues(&self) {
        for kind in ["crashed", "stray", "exceeded"] {
            drop(self.rescued.get_or_create(&names::RESCUED.labels([kind])));
        }
        drop(self.redis_losses.get_or_create(&names::REDIS_LOSSES.labels([])));
        drop(self.lost_sign_ups_found.get_or_create(&names::LOST_SIGN_UPS_FOUND.labels([])));
        drop(self.leases_lost.get_or_create(&names::LEASES_LOST.labels([])));
    }

    /// An attempt ended, and the ledger says so.
    pub fn attempt_ended(&self, ended: &Ended<'_>) {
        let class = ended.class.map_or(NO_CLASS, Class::as_str);
        let labels = [ended.workflow, ended.step, ended.outcome, class];
        self.attempts.get_or_create(&names::ATTEMPTS.labels(labels)).inc();
        if ended.run != RunState::Active {
            self.runs.get_or_create(&names::RUNS.labels([ended.workflow, run_outcome(ended.run)])).inc();
        }
    }

    pub fn step_took(&self, step: &StepName, duration: Duration) {
        let labels = names::STEP_DURATION.labels([step.as_str()]);
        self.step_duration.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// A sign-up has its ready instance, so long after it.
    pub fn ready_after(&self, duration: Duration) {
        let labels = names::SIGN_UP_TO_READY.labels([]);
        self.sign_up_to_ready.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    pub fn leases_lost(&self, count: usize) {
        add(&self.leases_lost, &names::LEASES_LOST, [], count);
    }

    pub fn stale_settle(&self) {
        add(&self.stale_settles, &names::STALE_SETTLES, [], 1);
    }

    pub fn put_back(&self, step: &StepName, reason: &'static str) {
        add(&self.put_back, &names::PUT_BACK, [step.as_str(), reason], 1);
    }

    pub fn rescued(&self, kind: &'static str, count: usize) {
        add(&self.rescued, &names::RESCUED, [kind], count);
    }

    pub fn redis_lost(&self) {
        add(&self.redis_losses, &names::REDIS_LOSSES, [], 1);
    }

    pub fn lost_sign_ups_found(&self, count: u64) {
        add(&self.lost_sign_ups_found, &names::LOST_SIGN_UPS_FOUND, [], usize::try_from(count).unwrap_or_default());
    }

    /// A call to the Evolution API: its route (`POST /instance/create`), its status if an answer came, its error if any.
    pub fn called(&self, route: &'static str, status: Option<u16>, error: &str, duration: Duration) {
        let (method, template) = route.split_once(' ').unwrap_or(("", route));
        let status = status.map(|status| status.to_string()).unwrap_or_default();
        let labels = names::HTTP_CLIENT.labels([method, template, &status, error]);
        self.http_client.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// What is only read when somebody asks for the metrics.
    pub fn read_from(&self, source: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        self.lock().register_collector(Box::new(Source::new(source)));
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

fn add<const N: usize>(family: &Counters, metric: &'static Metric<N>, labels: [&str; N], count: usize) {
    if count > 0 {
        family.get_or_create(&metric.labels(labels)).inc_by(count as u64);
    }
}

fn run_outcome(state: RunState) -> &'static str {
    match state {
        RunState::Succeeded => "ready",
        other => other.as_str(),
    }
}
