//! Resources at which two calls may have met: a worker stood still around a call that creates or deletes, and another one
//! went on. Once the run there has succeeded, another one reads back what there is and mends it.

use anyhow::Context;

use crate::ledger::RelayLedger;

/// The most that one round looks at.
const BATCH: usize = 50;

/// How many resources are looked at again.
pub async fn look_again_once<L: RelayLedger>(ledger: &L) -> anyhow::Result<usize> {
    let started = ledger.look_again(BATCH).await.context("look again at doubted resources")?;
    if started > 0 {
        tracing::warn!(started, "calls had outlived their leases: their resources are looked at again");
    }
    Ok(started)
}
