//! Lost sign-ups: profiles since the adoption of Sluice that have neither queue row nor instance row nor run.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::Notify;
use workflows::whatsapp::provision::PROVISION_INSTANCE;

use super::{Next, Relay};
use crate::{
    ledger::{RelayLedger, postgres::Postgres},
    supabase::sign_ups::{self, BATCH},
};

/// How far back is looked, and how often.
pub(super) struct Search {
    since: Duration,
    tick: Duration,
}

/// The recent ones are looked for all the time. It overlaps even where a relay was away for a while.
pub(super) const RECENT: Search = Search { since: Duration::from_secs(15 * 60), tick: Duration::from_secs(30) };
/// All since the adoption: a hundred years are always enough.
pub(super) const ALL: Search =
    Search { since: Duration::from_secs(100 * 365 * 86_400), tick: Duration::from_secs(3600) };

/// Whether sign-ups are this program's at all.
pub(super) fn is_wanted(ledger: &Postgres) -> bool {
    ledger.registry().all().any(|workflow| workflow.name.as_str() == PROVISION_INSTANCE)
}

/// Says once how many users from before the adoption have nothing of ours: whether they get something is for a person.
pub async fn report_older(ledger: &Postgres) {
    match sign_ups::count_older(ledger).await {
        Ok(0) => {}
        Ok(users) => tracing::info!(users, "users from before the adoption have no instance; they are not started"),
        Err(error) => tracing::warn!(%error, "cannot count the users from before the adoption"),
    }
}

/// Gives each lost sign-up of the last `since` a queue row; intake does the rest. How many there were.
pub async fn find_once(ledger: &Postgres, since: Duration) -> anyhow::Result<u64> {
    let queued = sign_ups::queue_lost(ledger, since).await.context("find lost sign-ups")?;
    if queued > 0 {
        tracing::warn!(queued, "found sign-ups that had no queue row");
    }
    Ok(queued)
}

pub(super) async fn find(relay: Relay, Search { since, tick }: Search) {
    let find = async || {
        let found = find_once(&relay.ledger, since).await?;
        relay.vitals.metrics.lost_sign_ups_found(found);
        if found > 0 {
            relay.doorbell.rung.notify_one();
        }
        Ok(if found >= BATCH { Next::AtOnce } else { Next::AtTick })
    };
    relay.repeat("find lost sign-ups", tick, &Notify::new(), find).await;
}
