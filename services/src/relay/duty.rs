//! How a duty is repeated: at each tick, at each wake, and at once where it says that there is more. A duty is never
//! dropped in the middle of a round: a relay that stops has pushed what it dispatched.

use std::{future::Future, time::Duration};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::telemetry::health::Pulse;

/// When the next round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    AtOnce,
    /// At the next wake, or at the next tick.
    AtTick,
}

/// The pause after a first failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Repeats a duty until `shutdown`, whatever becomes of a round. The pulse beats in each round and while the duty rests.
pub async fn repeat<F, Fut>(
    what: &'static str,
    tick: Duration,
    wake: &Notify,
    shutdown: CancellationToken,
    pulse: Pulse,
    duty: F,
) where
    F: Fn() -> Fut + Send,
    Fut: Future<Output = anyhow::Result<Next>> + Send,
{
    let mut next = Next::AtOnce;
    let mut pause = FIRST_PAUSE;
    loop {
        let rest = shutdown.run_until_cancelled(timeout(tick, wake.notified()));
        if next == Next::AtTick && pulse.waiting(rest).await.is_none() {
            return;
        }
        pulse.beat();
        if shutdown.is_cancelled() {
            return;
        }
        next = match duty().await {
            Ok(next) => {
                pause = FIRST_PAUSE;
                next
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "cannot {what}; trying again");
                shutdown.run_until_cancelled(sleep(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                Next::AtTick
            }
        };
    }
}
