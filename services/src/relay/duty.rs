//! How a duty is repeated: at each tick, at each wake, and at once where it says that there is
//! more. A duty is never dropped in the middle of a round: a relay that stops has pushed what its
//! last round made due.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ledger::postgres::Postgres,
    telemetry::{Said, chain, health::Pulse, metrics::Metrics},
};

/// What a product has each relay do beside the engine's duties. Relays do it side by side, and any
/// may be killed in a round.
pub trait Duty: Send + Sync + 'static {
    /// As in "cannot {what}".
    fn what(&self) -> &'static str;
    /// From the end of a round to the next one.
    fn tick(&self) -> Duration;
    /// An error is logged, and the next round comes within 32 seconds.
    fn round<'a>(&'a self, ledger: &'a Postgres, metrics: &'a Metrics) -> BoxFuture<'a, anyhow::Result<Next>>;
}

/// When the next round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    AtOnce,
    /// At the next wake, or after so long.
    After(Duration),
    /// At the next wake, or at the next tick.
    AtTick,
}

/// The pause after a first failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// When a duty that failed is tried again at the latest, beside that pause: its tick may be an
/// hour.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Repeats a duty until `shutdown`, whatever becomes of a round. The pulse beats in each round and
/// while the duty rests.
pub(super) async fn repeat<Fut>(
    what: &'static str,
    tick: Duration,
    wake: &Notify,
    shutdown: &CancellationToken,
    pulse: Pulse,
    duty: impl Fn() -> Fut,
) where
    Fut: Future<Output = anyhow::Result<Next>>,
{
    let mut next = Next::AtOnce;
    let mut pause = FIRST_PAUSE;
    let mut said = Said::default();
    loop {
        let rest = match next {
            Next::AtOnce => Duration::ZERO,
            Next::After(rest) => rest,
            Next::AtTick => tick,
        };
        if !rest.is_zero() {
            let resting = shutdown.run_until_cancelled(timeout(rest, wake.notified()));
            pulse.waiting(resting).await;
        }
        pulse.beat();
        if shutdown.is_cancelled() {
            return;
        }
        next = match duty().await {
            Ok(next) => {
                (pause, said) = (FIRST_PAUSE, Said::default());
                next
            }
            Err(error) => {
                let error = chain(error.as_ref());
                if said.is_news(&error) {
                    tracing::warn!(error, "cannot {what}; trying again");
                }
                shutdown.run_until_cancelled(sleep(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                Next::After(tick.min(AFTER_FAILURE))
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::Instant;

    use super::*;

    const TICK: Duration = Duration::from_secs(60);

    /// Runs `rounds` rounds of a duty that answers `next`, and says how long they took.
    async fn took(rounds: usize, next: Next, wake: Arc<Notify>) -> Duration {
        let (shutdown, done, began) = (CancellationToken::new(), AtomicUsize::new(0), Instant::now());
        let duty = async || {
            if done.fetch_add(1, Ordering::Relaxed) + 1 == rounds {
                shutdown.cancel();
            }
            Ok(next)
        };
        repeat("test", TICK, &wake, &shutdown, Pulse::default(), duty).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_duty_comes_round_when_it_says_so() {
        let pause = Duration::from_millis(50);

        assert_eq!(took(3, Next::AtOnce, Arc::default()).await, Duration::ZERO);
        assert_eq!(took(3, Next::After(pause), Arc::default()).await, 2 * pause);
        assert_eq!(took(3, Next::AtTick, Arc::default()).await, 2 * TICK);
    }

    /// Its tick may be an hour.
    #[tokio::test(start_paused = true)]
    async fn a_duty_that_failed_is_tried_again_within_half_a_minute() {
        let (shutdown, rounds, began) = (CancellationToken::new(), AtomicUsize::new(0), Instant::now());
        let duty = async || {
            anyhow::ensure!(rounds.fetch_add(1, Ordering::Relaxed) > 0, "no database");
            shutdown.cancel();
            Ok(Next::AtTick)
        };

        repeat("test", TICK * 60, &Notify::new(), &shutdown, Pulse::default(), duty).await;

        assert_eq!((rounds.load(Ordering::Relaxed), began.elapsed()), (2, FIRST_PAUSE + AFTER_FAILURE));
    }

    #[tokio::test(start_paused = true)]
    async fn wakes_that_gather_during_a_round_make_one_round_more() {
        let wake = Arc::new(Notify::new());
        wake.notify_one();
        wake.notify_one();

        assert_eq!(took(3, Next::AtTick, wake).await, TICK);
    }
}
