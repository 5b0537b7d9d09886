//! What roles say when something has happened.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use workflows::{
    definition::{self, Definition},
    ids::{StepName, WorkflowName},
    outcome::Class,
    state::RunState,
};

use super::{
    Counters, Metrics, Sample,
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
    /// Shows what this process can count from zero on: a counter that only appears with its first event seems not to have
    /// risen. A worker's, which serves these steps.
    pub fn expect_attempts<'a>(&self, workflows: impl Iterator<Item = &'a Definition>, steps: &[StepName]) {
        for workflow in workflows {
            let served = |step: &&definition::Step| steps.contains(&step.name);
            for step in workflow.steps.iter().filter(served) {
                let labels = [workflow.name.as_str(), step.name.as_str(), "succeeded", NO_CLASS];
                drop(self.attempts.get_or_create(&names::ATTEMPTS.labels(labels)));
                drop(self.step_duration.get_or_create(&names::STEP_DURATION.labels([step.name.as_str()])));
                for reason in REFUSALS.map(Refusal::as_str) {
                    let labels = names::CLAIMS_REFUSED.labels([step.name.as_str(), reason]);
                    drop(self.claims_refused.get_or_create(&labels));
                }
            }
            for outcome in [RunState::Succeeded, RunState::Dead, RunState::Cancelled].map(RunState::as_str) {
                let labels = [workflow.name.as_str(), outcome];
                drop(self.runs.get_or_create(&names::RUNS.labels(labels)));
                drop(self.run_duration.get_or_create(&names::RUN_DURATION.labels(labels)));
            }
        }
        drop(self.leases_lost.get_or_create(&names::LEASES_LOST.labels([])));
        drop(self.stale_settles.get_or_create(&names::STALE_SETTLES.labels([])));
    }

    /// The same for a relay.
    pub fn expect_rescues(&self) {
        for kind in ["crashed", "exceeded", "doubted"] {
            drop(self.rescued.get_or_create(&names::RESCUED.labels([kind])));
        }
        drop(self.lost_sign_ups_found.get_or_create(&names::LOST_SIGN_UPS_FOUND.labels([])));
        drop(self.events_dropped.get_or_create(&names::EVENTS_DROPPED.labels([])));
        drop(self.leases_lost.get_or_create(&names::LEASES_LOST.labels([])));
    }

    /// An attempt ended, and the ledger says so.
    pub fn attempt_ended(&self, ended: &Ended<'_>) {
        let class = ended.class.map_or(NO_CLASS, Class::as_str);
        let labels = [ended.workflow, ended.step, ended.outcome, class];
        self.attempts.get_or_create(&names::ATTEMPTS.labels(labels)).inc();
        if ended.run != RunState::Active {
            self.runs.get_or_create(&names::RUNS.labels([ended.workflow, ended.run.as_str()])).inc();
        }
    }

    pub fn step_took(&self, step: &StepName, duration: Duration) {
        let labels = names::STEP_DURATION.labels([step.as_str()]);
        self.step_duration.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// A run has ended, so long after it was asked for.
    pub fn run_ended(&self, workflow: &WorkflowName, outcome: RunState, duration: Duration) {
        let labels = names::RUN_DURATION.labels([workflow.as_str(), outcome.as_str()]);
        self.run_duration.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    pub fn leases_lost(&self, count: usize) {
        add(&self.leases_lost, &names::LEASES_LOST, [], count);
    }

    pub fn stale_settle(&self) {
        add(&self.stale_settles, &names::STALE_SETTLES, [], 1);
    }

    pub fn claim_refused(&self, step: &StepName, reason: &'static str) {
        add(&self.claims_refused, &names::CLAIMS_REFUSED, [step.as_str(), reason], 1);
    }

    pub fn rescued(&self, kind: &'static str, count: usize) {
        add(&self.rescued, &names::RESCUED, [kind], count);
    }

    pub fn lost_sign_ups_found(&self, count: u64) {
        add(&self.lost_sign_ups_found, &names::LOST_SIGN_UPS_FOUND, [], usize::try_from(count).unwrap_or_default());
    }

    /// What a publisher of events can count, and that it is one.
    pub fn expect_events(&self) {
        for result in ["routed", "unroutable"] {
            drop(self.events_published.get_or_create(&names::EVENTS_PUBLISHED.labels([result])));
        }
        drop(self.events_unconfirmed.get_or_create(&names::EVENTS_UNCONFIRMED.labels([])));
        self.show_connected(&names::BROKER_CONNECTED, &self.broker_connected);
    }

    /// What who follows a feed can count, and that it is one.
    pub fn expect_feed(&self) {
        for result in ["taken", "put_off", "unreadable"] {
            drop(self.feed_messages.get_or_create(&names::FEED_MESSAGES.labels([result])));
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
        add(&self.feed_messages, &names::FEED_MESSAGES, ["taken"], taken);
        add(&self.feed_messages, &names::FEED_MESSAGES, ["put_off"], put_off);
        add(&self.feed_messages, &names::FEED_MESSAGES, ["unreadable"], unreadable);
    }

    pub fn broker_connected(&self, connected: bool) {
        self.broker_connected.store(connected, Ordering::Relaxed);
    }

    pub fn is_broker_connected(&self) -> bool {
        self.broker_connected.load(Ordering::Relaxed)
    }

    pub fn events_published(&self, routed: usize, unroutable: usize, unconfirmed: usize) {
        add(&self.events_published, &names::EVENTS_PUBLISHED, ["routed"], routed);
        add(&self.events_published, &names::EVENTS_PUBLISHED, ["unroutable"], unroutable);
        add(&self.events_unconfirmed, &names::EVENTS_UNCONFIRMED, [], unconfirmed);
    }

    pub fn events_dropped(&self, count: u64) {
        add(&self.events_dropped, &names::EVENTS_DROPPED, [], usize::try_from(count).unwrap_or_default());
    }

    /// A call to an API: its route (`POST /greetings`), its status if an answer came, its error if any.
    pub fn called(&self, route: &'static str, status: Option<u16>, error: &str, duration: Duration) {
        let (method, template) = route.split_once(' ').unwrap_or(("", route));
        let status = status.map(|status| status.to_string()).unwrap_or_default();
        let labels = names::HTTP_CLIENT.labels([method, template, &status, error]);
        self.http_client.get_or_create(&labels).observe(duration.as_secs_f64());
    }
}

fn add<const N: usize>(family: &Counters, metric: &'static Metric<N>, labels: [&str; N], count: usize) {
    if count > 0 {
        family.get_or_create(&metric.labels(labels)).inc_by(count as u64);
    }
}
