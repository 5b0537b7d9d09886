//! Lost sign-ups: profiles since the adoption of Sluice that have neither queue row nor instance
//! row nor run.

use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use super::sign_ups::{self, BATCH};
use crate::{
    ledger::postgres::Postgres,
    relay::{Duty, Next},
    telemetry::metrics::{Metrics, names},
};

/// Looks for the lost sign-ups of the last `since`, at each `tick`.
pub struct Finder {
    since: Duration,
    tick: Duration,
    /// Whether the users from before the adoption were reported; none where another finder reports
    /// them.
    reported: Option<OnceCell<()>>,
}

impl Finder {
    /// The recent ones are looked for all the time. It overlaps even where a relay was away for a
    /// while.
    pub fn of_recent() -> Self {
        Self { since: Duration::from_secs(15 * 60), tick: Duration::from_secs(30), reported: None }
    }

    /// All since the adoption: a hundred years are always enough.
    pub fn of_all() -> Self {
        let (since, tick) = (Duration::from_secs(100 * 365 * 86_400), Duration::from_secs(3600));
        Self { since, tick, reported: Some(OnceCell::new()) }
    }
}

impl Duty for Finder {
    fn what(&self) -> &'static str {
        "find lost sign-ups"
    }

    fn tick(&self) -> Duration {
        self.tick
    }

    fn round<'a>(&'a self, ledger: &'a Postgres, metrics: &'a Metrics) -> BoxFuture<'a, anyhow::Result<Next>> {
        Box::pin(async move {
            if let Some(reported) = self.reported.as_ref().filter(|reported| !reported.initialized()) {
                reported.get_or_init(|| report_older(ledger)).await;
                return Ok(Next::AtOnce);
            }
            let found = find_once(ledger, self.since).await?;
            metrics.count(&names::LOST_SIGN_UPS_FOUND, [], found);
            Ok(if found >= BATCH { Next::AtOnce } else { Next::AtTick })
        })
    }
}

/// Says how many users from before the adoption have nothing of ours: whether they get something is
/// for a person.
async fn report_older(ledger: &Postgres) {
    match sign_ups::count_older(ledger).await {
        Ok(0) => {}
        Ok(users) => tracing::info!(users, "users from before the adoption have no instance; they are not started"),
        Err(error) => tracing::warn!(%error, "cannot count the users from before the adoption"),
    }
}

/// Gives each lost sign-up of the last `since` a queue row; intake does the rest. How many there
/// were.
pub async fn find_once(ledger: &Postgres, since: Duration) -> anyhow::Result<u64> {
    let queued = sign_ups::queue_lost(ledger, since).await.context("find lost sign-ups")?;
    if queued > 0 {
        tracing::warn!(queued, "found sign-ups that had no queue row");
    }
    Ok(queued)
}
