//! Lost sign-ups: profiles since the adoption of Sluice that have neither queue row nor instance row nor run.

use std::time::Duration;

use anyhow::Context;

use crate::ledger::postgres::Postgres;

/// The recent ones are looked for all the time; this much overlaps even a relay that was away for a while.
pub const RECENT: Duration = Duration::from_secs(15 * 60);
/// All since the adoption: a hundred years are always enough.
pub const ALL: Duration = Duration::from_secs(100 * 365 * 86_400);

pub use crate::supabase::sign_ups::BATCH;

/// Says once how many users from before the adoption have nothing of ours: whether they get something is for a person.
pub async fn report_older(ledger: &Postgres) {
    match ledger.count_older_sign_ups().await {
        Ok(0) => {}
        Ok(users) => tracing::info!(users, "users from before the adoption have no instance; they are not started"),
        Err(error) => tracing::warn!(%error, "cannot count the users from before the adoption"),
    }
}

/// Gives each lost sign-up of the last `since` a queue row; intake does the rest. How many there were.
pub async fn find_once(ledger: &Postgres, since: Duration) -> anyhow::Result<u64> {
    let queued = ledger.queue_lost_sign_ups(since).await.context("find lost sign-ups")?;
    if queued > 0 {
        tracing::warn!(queued, "found sign-ups that had no queue row");
    }
    Ok(queued)
}
