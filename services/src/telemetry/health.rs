//! Whether the loops of this process still turn. Each loop has a pulse and beats it in every round,
//! and while it waits; a loop that has not beaten for `LIMIT` hangs. Postgres and Redis being away
//! is no reason: loops turn without them.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

/// How long a loop may take for one round. Longer than any statement or call may take.
pub const LIMIT: Duration = Duration::from_secs(30);
/// How often a loop beats while it waits.
const WAITING: Duration = Duration::from_secs(5);

/// The loops of this process. Those that have ended took their beats with them.
#[derive(Default)]
pub struct Health {
    loops: Mutex<Vec<(String, Weak<Mutex<Instant>>)>>,
}

impl Health {
    /// A pulse for a loop of this name, which beats now. It goes with the loop: dropping it says
    /// that the loop has ended.
    pub fn pulse(&self, name: impl Into<String>) -> Pulse {
        let last = Arc::new(Mutex::new(Instant::now()));
        let mut loops = self.loops.lock();
        loops.retain(|(_, last)| last.strong_count() > 0);
        loops.push((name.into(), Arc::downgrade(&last)));
        Pulse(Some(last))
    }

    /// The loops that hang, and for how long each has not beaten.
    pub fn hung(&self) -> Vec<(String, Duration)> {
        let loops = self.loops.lock();
        let hung = loops.iter().filter_map(|(name, last)| {
            let since = last.upgrade()?.lock().elapsed();
            (since > LIMIT).then(|| (name.clone(), since))
        });
        hung.collect()
    }
}

/// One loop's sign of life. The default one tells nobody.
#[derive(Default)]
pub struct Pulse(Option<Arc<Mutex<Instant>>>);

impl Pulse {
    pub fn beat(&self) {
        if let Some(last) = &self.0 {
            *last.lock() = Instant::now();
        }
    }

    /// Beats while the loop waits for what may take any time: a tick, a wake, the end of a drain.
    /// Never for work.
    pub async fn waiting<F: Future>(&self, wait: F) -> F::Output {
        let mut wait = pin!(wait);
        loop {
            self.beat();
            if let Ok(come) = timeout(WAITING, &mut wait).await {
                self.beat();
                return come;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_named_and_one_that_turns_is_not() {
        let health = Arc::<Health>::default();
        let (hangs, turns) = (health.pulse("dispatch"), health.pulse("rescue"));

        sleep(LIMIT).await;
        assert_eq!(health.hung(), []);
        turns.beat();
        sleep(Duration::from_secs(1)).await;

        let hung = [("dispatch".to_owned(), LIMIT + Duration::from_secs(1))];
        assert_eq!(health.hung(), hung);
        hangs.beat();
        assert_eq!(health.hung(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_waits_for_hours_lives() {
        let health = Arc::<Health>::default();
        let pulse = health.pulse("prune");
        let waiting = tokio::spawn(async move { pulse.waiting(sleep(Duration::from_secs(7200))).await });

        for _ in 0..100 {
            sleep(Duration::from_secs(60)).await;
            assert_eq!(health.hung(), []);
        }

        waiting.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn work_inside_a_round_does_not_beat() {
        let health = Arc::<Health>::default();
        let pulse = health.pulse("prune");
        let working = tokio::spawn(async move {
            pulse.waiting(sleep(Duration::from_secs(60))).await;
            std::future::pending::<()>().await;
        });

        sleep(Duration::from_secs(60) + LIMIT + Duration::from_secs(6)).await;

        assert_eq!(health.hung().len(), 1);
        working.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_has_ended_does_not_hang() {
        let health = Arc::<Health>::default();

        drop(health.pulse("listen"));
        sleep(LIMIT * 2).await;

        assert_eq!(health.hung(), []);
    }
}
