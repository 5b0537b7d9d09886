//! What roles say when something has happened, and what each can count, which it shows from zero
//! on: a counter that only appears with its first event seems not to have risen.

use std::time::Duration;

use workflows::{definition::Definition, ids::StepName, outcome::Class, state::RunState};

use super::{
    Metrics,
    names::{self, Metric},
};
use crate::ledger::{Refusal, Settlement};

/// In what an attempt without a failure has its class.
const NO_CLASS: &str = "none";
const REFUSALS: [Refusal; 3] = [Refusal::GateClosed, Refusal::ResourceBusy, Refusal::UnknownDefinition];

impl Metrics {
    fn show<const N: usize>(&self, metric: &Metric<N>, labels: [&str; N]) {
        drop(self.series(metric, labels));
    }

    /// A worker that serves these steps.
    pub fn expect_attempts<'a>(&self, workflows: impl Iterator<Item = &'a Definition>, steps: &[StepName]) {
        for workflow in workflows {
            for step in workflow.steps.iter().filter(|step| steps.contains(&step.name)) {
                let step = step.name.as_str();
                self.show(&names::ATTEMPTS, [workflow.name.as_str(), step, "succeeded", NO_CLASS]);
                self.show(&names::STEP_DURATION, [step]);
                for reason in REFUSALS.map(Refusal::as_str) {
                    self.show(&names::CLAIMS_REFUSED, [step, reason]);
                }
            }
            for outcome in [RunState::Succeeded, RunState::Dead, RunState::Cancelled].map(RunState::as_str) {
                self.show(&names::RUNS, [workflow.name.as_str(), outcome]);
                self.show(&names::RUN_DURATION, [workflow.name.as_str(), outcome]);
            }
        }
        self.show(&names::LEASES_LOST, []);
        self.show(&names::STALE_SETTLES, []);
    }

    /// A relay.
    pub fn expect_rescues(&self) {
        for kind in ["crashed", "exceeded", "doubted"] {
            self.show(&names::RESCUED, [kind]);
        }
        for counter in [&names::LOST_SIGN_UPS_FOUND, &names::EVENTS_DROPPED, &names::LEASES_LOST] {
            self.show(counter, []);
        }
    }

    /// A publisher of events, which is not connected yet.
    pub fn expect_events(&self) {
        for result in ["routed", "unroutable"] {
            self.show(&names::EVENTS_PUBLISHED, [result]);
        }
        self.show(&names::EVENTS_UNCONFIRMED, []);
        self.set(&names::BROKER_CONNECTED, [], false);
    }

    /// Who follows a feed, and is not connected yet.
    pub fn expect_feed(&self) {
        for result in ["taken", "put_off", "unreadable"] {
            self.show(&names::FEED_MESSAGES, [result]);
        }
        self.set(&names::FEED_CONNECTED, [], false);
    }

    /// An attempt ended, and the ledger says so; `run` is the run's state after it.
    pub fn attempt_ended(&self, settlement: &Settlement, run: RunState) {
        let Settlement { workflow, step, attempt, .. } = settlement;
        let class = attempt.class.map_or(NO_CLASS, Class::as_str);
        self.count(&names::ATTEMPTS, [workflow.as_str(), step.as_str(), attempt.outcome, class], 1);
        if run != RunState::Active {
            self.count(&names::RUNS, [workflow.as_str(), run.as_str()], 1);
        }
    }

    /// A call to an API: its route (`POST /greetings`), its status if an answer came, its error if
    /// any.
    pub fn called(&self, route: &'static str, status: Option<u16>, error: &str, duration: Duration) {
        let (method, template) = route.split_once(' ').unwrap_or(("", route));
        let status = status.map(|status| status.to_string()).unwrap_or_default();
        self.measure(&names::HTTP_CLIENT, [method, template, &status, error], duration);
    }

    pub fn events_published(&self, routed: usize, unroutable: usize, unconfirmed: usize) {
        self.count(&names::EVENTS_PUBLISHED, ["routed"], routed as u64);
        self.count(&names::EVENTS_PUBLISHED, ["unroutable"], unroutable as u64);
        self.count(&names::EVENTS_UNCONFIRMED, [], unconfirmed as u64);
    }

    pub fn feed_messages(&self, taken: usize, put_off: usize, unreadable: usize) {
        for (result, count) in [("taken", taken), ("put_off", put_off), ("unreadable", unreadable)] {
            self.count(&names::FEED_MESSAGES, [result], count as u64);
        }
    }
}
