//! Whether the loops of this process still turn. Each loop has a pulse and beats it in every round, and while it waits; a loop
//! that has not beaten for `LIMIT` hangs. Postgres and Redis being away is no reason: loops turn without them.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// How long a loop may take for one round. Longer than any statement or call may take.
pub const LIMIT: Duration = Duration::from_secs(30);
/// How often a loop beats while it waits.
const WAITING: Duration = Duration::from_secs(5);

/// The pulses of this process.
#[derive(Default)]
pub struct Health {
    beats: Mutex<Beats>,
}

#[derive(Default)]
struct Beats {
    next: u64,
    last: BTreeMap<u64, (String, Instant)>,
}

/// A loop that has not beaten for too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hung {
    pub name: String,
    pub since: Duration,
}

impl Health {
    /// A pulse for a loop of this name, which beats now. It goes with the loop: dropping it says that the loop has ended.
    pub fn pulse(self: &Arc<Self>, name: impl Into<String>) -> Pulse {
        let mut beats = self.lock();
        let number = beats.next;
        beats.next += 1;
        beats.last.insert(number, (name.into(), Instant::now()));
        Pulse { health: Some(self.clone()), number }
    }

    /// The loops that hang.
    pub fn hung(&self) -> Vec<Hung> {
        let beats = self.lock();
        let silent = beats.last.values().map(|(name, last)| Hung { name: name.clone(), since: last.elapsed() });
        silent.filter(|hung| hung.since > LIMIT).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Beats> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One loop's sign of life. The default one tells nobody.
#[derive(Default)]
pub struct Pulse {
    health: Option<Arc<Health>>,
    number: u64,
}

impl Pulse {
    pub fn beat(&self) {
        let Some(health) = &self.health else { return };
        if let Some((_, last)) = health.lock().last.get_mut(&self.number) {
            *last = Instant::now();
        }
    }

    /// Beats while the loop waits for what may take any time: a tick, a wake, the end of a drain. Never for work.
    pub async fn waiting<F: Future>(&self, wait: F) -> F::Output {
        let mut wait = pin!(wait);
        loop {
            self.beat();
            tokio::select! {
                biased;
                come = &mut wait => {
                    self.beat();
                    return come;
                }
                () = sleep(WAITING) => {}
            }
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if let Some(health) = &self.health {
            health.lock().last.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_named_and_one_that_turns_is_not() {
        let health = Arc::<Health>::default();
        let (hangs, turns) = (health.pulse("dispatch"), health.pulse("rescue"));

        sleep(LIMIT).await;
        assert_eq!(health.hung(), []);
        turns.beat();
        sleep(Duration::from_secs(1)).await;

        let hung = [Hung { name: "dispatch".to_owned(), since: LIMIT + Duration::from_secs(1) }];
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
