//! How steps are tried again, and how long they and their run may take. Relays and workers must be
//! told the same: both judge what a failure or a crash comes to.

use std::time::Duration;

use clap::Args;
use workflows::{definition::Definition, policy::Retry, state::Limits, whatsapp::provision};

use crate::{config::Faults, evolution::Timeouts};

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Args)]
#[command(next_help_heading = "Retries and deadlines (the same for relay and workers)")]
pub struct RetryOptions {
    /// The delay after a step's first failure; half of each delay is random
    #[arg(long, env = "RETRY_BASE", value_name = "DURATION", default_value = "1s")]
    retry_base: String,

    /// What each further failure multiplies the delay by
    #[arg(long, env = "RETRY_FACTOR", value_name = "NUMBER", default_value = "2")]
    retry_factor: String,

    /// The longest delay
    #[arg(long, env = "RETRY_CAP", value_name = "DURATION", default_value = "60s")]
    retry_cap: String,

    /// How often a step may fail before its run is a dead letter; 30 rides out about a quarter of
    /// an hour, 3 is what the replaced set-up did. Outages, rate limits and pauses do not count
    #[arg(long, env = "RETRY_LIMIT", value_name = "NUMBER", default_value = "30")]
    retry_limit: String,

    /// How often a step may lose its worker before its run is a dead letter
    #[arg(long, env = "CRASH_LIMIT", value_name = "NUMBER", default_value = "10")]
    crash_limit: String,

    /// How long one attempt of a step may take: longer than one call that creates (15s)
    #[arg(long, env = "STEP_TIMEOUT", value_name = "DURATION", default_value = "90s")]
    step_timeout: String,

    /// How long a run may take before it is a dead letter, not counting the time that a pause, a
    /// limit or an outage held it
    #[arg(long, env = "RUN_DEADLINE", value_name = "DURATION", default_value = "24h")]
    run_deadline: String,
}

impl RetryOptions {
    /// The workflow as data. What left a fault has a stand-in, so that the rest can be checked too.
    pub(super) fn definition(&self, host: &str, faults: &mut Faults) -> Definition {
        let retry = self.retry(faults).unwrap_or_default();
        let (timeout, deadline) = self.times(faults).unwrap_or((DAY, DAY));
        provision::definition(retry, timeout, deadline, host)
    }

    /// How long an attempt may take, and how long a run.
    fn times(&self, faults: &mut Faults) -> Option<(Duration, Duration)> {
        let timeout = Duration::from_millis(1)..=Duration::from_secs(600);
        let timeout = faults.duration("STEP_TIMEOUT", &self.step_timeout, timeout);
        let deadline = faults.duration("RUN_DEADLINE", &self.run_deadline, Duration::from_secs(1)..=30 * DAY);
        let create = Timeouts::default().create;
        if timeout.is_some_and(|timeout| timeout <= create) {
            let problem =
                format!("is not longer than one call that creates ({create:?}), so every slow one would be cut");
            return faults.refuse("STEP_TIMEOUT", &self.step_timeout, problem);
        }
        let (timeout, deadline) = (timeout?, deadline?);
        if deadline <= timeout {
            let problem =
                format!("is not longer than one attempt (STEP_TIMEOUT {}): make it longer", self.step_timeout);
            return faults.refuse("RUN_DEADLINE", &self.run_deadline, problem);
        }
        Some((timeout, deadline))
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
            return faults.refuse("RETRY_CAP", &self.retry_cap, problem);
        }
        let limits = Limits { failures: failures?, crashes: crashes?, ..Retry::default().limits };
        Some(Retry { base: base?, factor: factor?, cap: cap?, limits })
    }
}
