//! Retention, in small batches: what ended well long ago goes.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::Notify;

use super::{Next, Relay};
use crate::telemetry::metrics::names;

const TICK: Duration = Duration::from_secs(600);
/// The most rows of a kind that one transaction deletes.
const BATCH: usize = 500;

pub(super) async fn run(relay: Relay) {
    let prune = async || {
        let retention = relay.settings.retention;
        let pruned = relay.ledger.prune(retention, BATCH).await.context("prune what has ended")?;
        if pruned.unpublished > 0 {
            relay.vitals.metrics.count(&names::EVENTS_DROPPED, [], pruned.unpublished);
            tracing::info!(events = pruned.unpublished, ?retention, "dropped events that nobody had published in time");
        }
        Ok(if pruned.rows >= BATCH as u64 { Next::AtOnce } else { Next::AtTick })
    };
    relay.repeat("prune", TICK, &Notify::new(), prune).await;
}
