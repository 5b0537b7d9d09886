//! Links to a broker, one after the other, for as long as it takes.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Address, Deps, Trouble};
use crate::telemetry::{Said, health::Pulse, metrics::Metrics};

pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A link that held for so long was a good one: what ends it is news.
const STEADY: Duration = Duration::from_secs(30);

/// Who needs a link, and works with it.
pub(super) struct Keeper<'a> {
    pub deps: Deps,
    pub pulse: Pulse,
    pub shutdown: CancellationToken,
    pub address: &'a Address,
    /// What becomes of the events while there is no link.
    pub meanwhile: &'static str,
    /// Is told when there is one, and when there no longer is.
    pub connected: fn(&Metrics, bool),
    /// Is called at the first one: from then on the role does what it is for.
    pub ready: &'a (dyn Fn() + Sync),
}

impl Keeper<'_> {
    /// None: shutdown came meanwhile.
    pub async fn pause(&self, pause: Duration) -> Option<()> {
        self.pulse.waiting(self.shutdown.run_until_cancelled(sleep(pause))).await
    }

    /// Runs until `shutdown`. `work` returns why its link is lost; none where shutdown came.
    pub async fn keep<L>(&self, open: impl AsyncFn() -> Result<L, Trouble>, work: impl AsyncFn(L) -> Option<Trouble>) {
        let (mut pause, mut said, mut is_news) = (FIRST_PAUSE, Said::default(), true);
        let mut first = true;
        while !self.shutdown.is_cancelled() {
            self.pulse.beat();
            let trouble = match self.pulse.waiting(open()).await {
                Ok(link) => {
                    if is_news {
                        tracing::info!(broker = %self.address, "connected to the broker");
                    }
                    is_news = false;
                    (self.connected)(&self.deps.vitals.metrics, true);
                    if std::mem::take(&mut first) {
                        (self.ready)();
                    }
                    let began = Instant::now();
                    let trouble = work(link).await;
                    (self.connected)(&self.deps.vitals.metrics, false);
                    if began.elapsed() > STEADY {
                        (pause, said) = (FIRST_PAUSE, Said::default());
                    }
                    trouble
                }
                Err(trouble) => Some(trouble),
            };
            let Some(trouble) = trouble else { return };
            if said.is_news(&trouble) {
                tracing::warn!(broker = %self.address, "{}: {trouble}", self.meanwhile);
                is_news = true;
            }
            self.pause(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
