//! Resources at which two calls may have met: a worker stood still around a call that creates or deletes, and another one
//! went on. Once the run there has succeeded, another one reads back what there is and mends it.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::Notify;

use super::{Next, Relay};
use crate::ledger::RelayLedger;

/// The most that one round looks at.
const BATCH: usize = 50;
const TICK: Duration = Duration::from_secs(2);

/// How many resources are looked at again.
pub async fn look_again_once<L: RelayLedger>(ledger: &L) -> anyhow::Result<usize> {
    let started = ledger.look_again(BATCH).await.context("look again at doubted resources")?;
    if started > 0 {
        tracing::warn!(started, "calls had outlived their leases: their resources are looked at again");
    }
    Ok(started)
}

pub(super) async fn run(relay: Relay) {
    let look = async || {
        let started = look_again_once(&relay.ledger).await?;
        relay.vitals.metrics.rescued("doubted", started);
        relay.look_if(started > 0);
        Ok(Next::AtTick)
    };
    relay.repeat("look again", TICK, &Notify::new(), look).await;
}
