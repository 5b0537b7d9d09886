//! How steps are tried again, and how long they and their run may take. Relays and workers must be told the same: both
//! judge what a failure or a crash comes to.

use std::{sync::Arc, time::Duration};

use clap::Args;
use workflows::{definition::Registry, policy::Retry, provision, state::Limits};

use super::Faults;
use crate::evolution::Timeouts;

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Args)]
#[command(next_help_heading = "Retries and deadlines (the same for relay and workers)")]
pub struct WorkflowOptions {
    /// The delay after a step's first failure; half of each delay is random
    #[arg(long, env = "RETRY_BASE", value_name = "DURATION", default_value = "1s")]
    retry_base: String,

    /// What each further failure multiplies the delay by
    #[arg(long, env = "RETRY_FACTOR", value_name = "NUMBER", default_value = "2")]
    retry_factor: String,

    /// The longest delay
    #[arg(long, env = "RETRY_CAP", value_name = "DURATION", default_value = "60s")]
    retry_cap: String,

    /// How often a step may fail before its run is a dead letter; 30 rides out about a quarter of an hour, 3 is what the
    /// replaced set-up did. Outages, rate limits and pauses do not count
    #[arg(long, env = "RETRY_LIMIT", value_name = "NUMBER", default_value = "30")]
    retry_limit: String,

    /// How often a step may lose its worker before its run is a dead letter
    #[arg(long, env = "CRASH_LIMIT", value_name = "NUMBER", default_value = "10")]
    crash_limit: String,

    /// How long one attempt of a step may take: longer than one call that creates (15s)
    #[arg(long, env = "STEP_TIMEOUT", value_name = "DURATION", default_value = "90s")]
    step_timeout: String,

    /// How long a run may take before it is a dead letter, not counting the time that a pause, a limit or an outage held
    /// it
    #[arg(long, env = "RUN_DEADLINE", value_name = "DURATION", default_value = "24h")]
    run_deadline: String,
}

/// Every workflow that this build knows, for what asks for names only.
pub(super) fn with_defaults() -> Arc<Registry> {
    registry(Retry::default(), Duration::from_secs(90), DAY)
}

fn registry(retry: Retry, timeout: Duration, deadline: Duration) -> Arc<Registry> {
    Arc::new(Registry::new(vec![provision::definition(retry, timeout, deadline)]))
}

impl WorkflowOptions {
    /// Every workflow that this build knows, with these settings.
    pub(super) fn read(&self, faults: &mut Faults) -> Option<Arc<Registry>> {
        let retry = self.retry(faults);
        let timeout = Duration::from_millis(1)..=Duration::from_secs(600);
        let timeout = faults.duration("STEP_TIMEOUT", &self.step_timeout, timeout);
        let deadline = faults.duration("RUN_DEADLINE", &self.run_deadline, Duration::from_secs(1)..=30 * DAY);
        let timeout = timeout.filter(|timeout| {
            let create = Timeouts::default().create;
            if *timeout <= create {
                let problem =
                    format!("is not longer than one call that creates ({create:?}), so every slow one would be cut");
                faults.add("STEP_TIMEOUT", &self.step_timeout, problem);
            }
            *timeout > create
        });
        let (retry, timeout, deadline) = (retry?, timeout?, deadline?);
        if deadline <= timeout {
            let problem =
                format!("is not longer than one attempt (STEP_TIMEOUT {}): make it longer", self.step_timeout);
            faults.add("RUN_DEADLINE", &self.run_deadline, problem);
            return None;
        }
        Some(registry(retry, timeout, deadline))
    }

    fn retry(&self, faults: &mut Faults) -> Option<Retry> {
        let delay = Duration::from_millis(1)..=DAY;
        let base = faults.duration("RETRY_BASE", &self.retry_base, delay.clone());
        let factor = faults.number("RETRY_FACTOR", &self.retry_factor, 1.0..=100.0);
        let cap = faults.duration("RETRY_CAP", &self.retry_cap, delay);
        let failures = faults.number("RETRY_LIMIT", &self.retry_limit, 1..=10_000);
        let crashes = faults.number("CRASH_LIMIT", &self.crash_limit, 1..=10_000);
        if let (Some(base), Some(cap)) = (base, cap)
            && cap < base
        {
            let problem = format!("is shorter than the first delay (RETRY_BASE {}): make it longer", self.retry_base);
            faults.add("RETRY_CAP", &self.retry_cap, problem);
            return None;
        }
        let limits = Limits { failures: failures?, crashes: crashes?, ..Retry::default().limits };
        Some(Retry { base: base?, factor: factor?, cap: cap?, limits })
    }
}
