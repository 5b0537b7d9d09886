//! Counters into delays. Randomness comes in as a share between 0 and 1, so that a seed replays.

use std::time::Duration;

use crate::state::{Limits, Spent};

/// How a step is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// The delay after the first failure.
    pub base: Duration,
    /// What each further failure multiplies the delay by.
    pub factor: f64,
    /// The longest delay.
    pub cap: Duration,
    pub limits: Limits,
}

impl Default for Retry {
    /// Rides out a bad quarter of an hour: 30 failures take 14 to 26 minutes.
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            factor: 2.0,
            cap: Duration::from_secs(60),
            limits: Limits { failures: 30, crashes: 10, send_backs: 3 },
        }
    }
}

/// The longest delay between two defers. Short, since what defers is often over at once: a gate, an
/// API that is loading.
const DEFER_CAP: Duration = Duration::from_secs(30);

impl Retry {
    /// The delay after a failure; `spent` counts it already.
    pub fn after_failure(&self, spent: Spent, jitter: f64) -> Duration {
        equal_jitter(self.growing(spent.failures, self.cap), jitter)
    }

    /// The delay after a crash: none after the first, since most crashes are deployments and
    /// evictions; then it grows, so that a step which kills its worker soon leaves its neighbours
    /// alone.
    pub fn after_crash(&self, spent: Spent, jitter: f64) -> Duration {
        match spent.crashes {
            0 | 1 => Duration::ZERO,
            crashes => equal_jitter(self.growing(crashes - 1, self.cap), jitter),
        }
    }

    /// The delay after a defer, never less than what the other side asked for.
    pub fn after_defer(&self, spent: Spent, asked: Option<Duration>, jitter: f64) -> Duration {
        match asked {
            // Not all at the same moment: up to a fifth on top.
            Some(asked) => asked + asked.mul_f64(0.2 * jitter.clamp(0.0, 1.0)),
            None => equal_jitter(self.growing(spent.defers, DEFER_CAP), jitter),
        }
    }

    fn growing(&self, times: u32, cap: Duration) -> Duration {
        let exponent = times.saturating_sub(1).min(64) as i32;
        let seconds = self.base.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        Duration::from_secs_f64(seconds.min(cap.as_secs_f64()))
    }
}

/// Half of the delay is sure, the other half is drawn: neighbours spread, and nobody comes back at
/// once.
pub(super) fn equal_jitter(delay: Duration, jitter: f64) -> Duration {
    delay.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_no_further() {
        let retry = Retry::default();

        let delays: Vec<u64> = [1, 2, 3, 7, 30].map(spent).map(|s| retry.after_failure(s, 1.0).as_secs()).to_vec();

        assert_eq!(delays, [1, 2, 4, 60, 60]);
    }

    #[test]
    fn the_default_budget_rides_out_a_bad_quarter_of_an_hour() {
        let retry = Retry::default();

        let failures = 1..retry.limits.failures;
        let lasts = |jitter| failures.clone().map(|count| retry.after_failure(spent(count), jitter)).sum::<Duration>();
        let (shortest, middle) = (lasts(0.0), lasts(0.5));

        assert!(shortest > Duration::from_secs(12 * 60), "{shortest:?}");
        assert!(middle > Duration::from_secs(15 * 60), "{middle:?}");
    }

    #[test]
    fn the_first_crash_costs_no_time() {
        let retry = Retry::default();

        assert_eq!(retry.after_crash(Spent { crashes: 1, ..Spent::default() }, 1.0), Duration::ZERO);
        assert!(retry.after_crash(Spent { crashes: 5, ..Spent::default() }, 0.0) >= Duration::from_secs(4));
    }

    #[test]
    fn a_defer_waits_at_least_as_long_as_it_was_asked_to() {
        let retry = Retry::default();
        let asked = Duration::from_secs(90);

        assert!(retry.after_defer(Spent::default(), Some(asked), 0.0) >= asked);
        assert!(retry.after_defer(Spent { defers: 50, ..Spent::default() }, None, 1.0) <= DEFER_CAP);
    }

    fn spent(failures: u32) -> Spent {
        Spent { failures, ..Spent::default() }
    }
}
