//! What roles say when something has happened.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use workflows::{
    definition::{self, Definition},
    ids::{StepName, WorkflowName},
    outcome::Class,
    state::RunState,
};

use super::{
    Metrics, Sample, Series,
    names::{self, Metric},
};
use crate::ledger::{Refusal, Settlement};

/// In what an attempt without a failure has its class.
const NO_CLASS: &str = "none";
const REFUSALS: [Refusal; 3] = [Refusal::GateClosed, Refusal::ResourceBusy, Refusal::UnknownDefinition];

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

impl Metrics {
    /// Shows what this process can count from zero on: a counter that only appears with its first
    /// event seems not to have risen. A worker's, which serves these steps.
    pub fn expect_attempts<'a>(&self, workflows: impl Iterator<Item = &'a Definition>, steps: &[StepName]) {
        for workflow in workflows {
            let served = |step: &&definition::Step| steps.contains(&step.name);
            for step in workflow.steps.iter().filter(served) {
                let step = step.name.as_str();
                self.attempts.of([workflow.name.as_str(), step, "succeeded", NO_CLASS]);
                self.step_duration.of([step]);
                for reason in REFUSALS.map(Refusal::as_str) {
                    self.claims_refused.of([step, reason]);
                }
            }
            for outcome in [RunState::Succeeded, RunState::Dead, RunState::Cancelled].map(RunState::as_str) {
                self.runs.of([workflow.name.as_str(), outcome]);
                self.run_duration.of([workflow.name.as_str(), outcome]);
            }
        }
        self.leases_lost.of([]);
        self.stale_settles.of([]);
    }

    /// The same for a relay.
    pub fn expect_rescues(&self) {
        for kind in ["crashed", "exceeded", "doubted"] {
            self.rescued.of([kind]);
        }
        for counter in [&self.lost_sign_ups_found, &self.events_dropped, &self.leases_lost] {
            counter.of([]);
        }
    }

    /// An attempt ended, and the ledger says so.
    pub fn attempt_ended(&self, ended: &Ended<'_>) {
        let class = ended.class.map_or(NO_CLASS, Class::as_str);
        self.attempts.add([ended.workflow, ended.step, ended.outcome, class], 1);
        if ended.run != RunState::Active {
            self.runs.add([ended.workflow, ended.run.as_str()], 1);
        }
    }

    pub fn step_took(&self, step: &StepName, duration: Duration) {
        self.step_duration.of([step.as_str()]).observe(duration.as_secs_f64());
    }

    /// A run has ended, so long after it was asked for.
    pub fn run_ended(&self, workflow: &WorkflowName, outcome: RunState, duration: Duration) {
        self.run_duration.of([workflow.as_str(), outcome.as_str()]).observe(duration.as_secs_f64());
    }

    pub fn leases_lost(&self, count: usize) {
        self.leases_lost.add([], count as u64);
    }

    pub fn stale_settle(&self) {
        self.stale_settles.add([], 1);
    }

    pub fn claim_refused(&self, step: &StepName, reason: &'static str) {
        self.claims_refused.add([step.as_str(), reason], 1);
    }

    pub fn rescued(&self, kind: &'static str, count: usize) {
        self.rescued.add([kind], count as u64);
    }

    pub fn lost_sign_ups_found(&self, count: u64) {
        self.lost_sign_ups_found.add([], count);
    }

    /// What a publisher of events can count, and that it is one.
    pub fn expect_events(&self) {
        for result in ["routed", "unroutable"] {
            self.events_published.of([result]);
        }
        self.events_unconfirmed.of([]);
        self.show_connected(&names::BROKER_CONNECTED, &self.broker_connected);
    }

    /// What who follows a feed can count, and that it is one.
    pub fn expect_feed(&self) {
        for result in ["taken", "put_off", "unreadable"] {
            self.feed_messages.of([result]);
        }
        self.show_connected(&names::FEED_CONNECTED, &self.feed_connected);
    }

    fn show_connected(&self, metric: &'static Metric<0>, connected: &Arc<AtomicBool>) {
        connected.store(false, Ordering::Relaxed);
        let connected = connected.clone();
        self.read_from(move || vec![Sample::of(metric, [], f64::from(u8::from(connected.load(Ordering::Relaxed))))]);
    }

    pub fn feed_connected(&self, connected: bool) {
        self.feed_connected.store(connected, Ordering::Relaxed);
    }

    pub fn is_feed_connected(&self) -> bool {
        self.feed_connected.load(Ordering::Relaxed)
    }

    pub fn feed_messages(&self, taken: usize, put_off: usize, unreadable: usize) {
        for (result, count) in [("taken", taken), ("put_off", put_off), ("unreadable", unreadable)] {
            self.feed_messages.add([result], count as u64);
        }
    }

    pub fn broker_connected(&self, connected: bool) {
        self.broker_connected.store(connected, Ordering::Relaxed);
    }

    pub fn is_broker_connected(&self) -> bool {
        self.broker_connected.load(Ordering::Relaxed)
    }

    pub fn events_published(&self, routed: usize, unroutable: usize, unconfirmed: usize) {
        self.events_published.add(["routed"], routed as u64);
        self.events_published.add(["unroutable"], unroutable as u64);
        self.events_unconfirmed.add([], unconfirmed as u64);
    }

    pub fn events_dropped(&self, count: u64) {
        self.events_dropped.add([], count);
    }

    /// A call to an API: its route (`POST /greetings`), its status if an answer came, its error if
    /// any.
    pub fn called(&self, route: &'static str, status: Option<u16>, error: &str, duration: Duration) {
        let (method, template) = route.split_once(' ').unwrap_or(("", route));
        let status = status.map(|status| status.to_string()).unwrap_or_default();
        self.http_client.of([method, template, &status, error]).observe(duration.as_secs_f64());
    }
}

impl<const N: usize> Series<N, Counter> {
    fn add(&self, labels: [&str; N], count: u64) {
        if count > 0 {
            self.of(labels).inc_by(count);
        }
    }
}
