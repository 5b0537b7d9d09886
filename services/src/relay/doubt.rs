//! Instances at which two calls may have met: a worker stood still around a create, and another one went on. Once the run there
//! has succeeded, another one reads back what there is and mends it.

use anyhow::Context;

use crate::ledger::Ledger;

/// The most that one round looks at.
const BATCH: usize = 50;

/// How many instances are looked at again.
pub async fn look_again_once<L: Ledger>(ledger: &L) -> anyhow::Result<usize> {
    let started = ledger.look_again(BATCH).await.context("look again at doubted instances")?;
    if started > 0 {
        tracing::warn!(started, "calls had outlived their leases: their instances are looked at again");
    }
    Ok(started)
}
