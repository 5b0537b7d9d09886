//! Lost sign-ups: profiles since the adoption of Sluice that have neither queue row nor instance row nor run.

use std::time::Duration;

use anyhow::Context;

use crate::ledger::postgres::Postgres;

/// The recent ones are looked for all the time; this much overlaps even a relay that was away for a while.
pub const RECENT: Duration = Duration::from_secs(15 * 60);
/// All since the adoption: a hundred years are always enough.
pub const ALL: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Gives each lost sign-up of the last `since` a queue row; intake does the rest. How many there were.
pub async fn find_once(ledger: &Postgres, since: Duration) -> anyhow::Result<u64> {
    let queued = ledger.queue_lost_sign_ups(since).await.context("find lost sign-ups")?;
    if queued > 0 {
        tracing::warn!(queued, "found sign-ups that had no queue row");
    }
    Ok(queued)
}
