//! What nobody holds any more: expired leases, hints that never came to a claim, runs past their deadline, public rows that
//! could not be written; and what waits for the API without saying so.

use std::time::Duration;

use anyhow::Context;

use crate::{
    ledger::{Ledger, Settled, Settlement},
    telemetry::metrics::{Ended, Metrics},
};

/// The most that one round rescues.
const BATCH: usize = 200;

/// How long a dispatched step may wait in Redis before it is dispatched again under a new token. Redis' losses are noticed
/// by other means within seconds: this is for what those do not see. A queue that is this long behind only repeats hints.
const STRAY_AFTER: Duration = Duration::from_secs(120);

/// What one round found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rescued {
    pub crashed: usize,
    pub stray: usize,
    pub exceeded: usize,
    /// Public rows that still wait to be written.
    pub projections_pending: usize,
    /// Steps that say since this round that they wait for the API.
    pub explained: usize,
}

impl Rescued {
    pub fn due_again(&self) -> usize {
        self.crashed + self.stray
    }
}

/// `host` is the API's; `dice` draws shares between 0 and 1.
pub async fn rescue_once<L: Ledger>(
    ledger: &L,
    host: Option<&str>,
    dice: &(dyn Fn() -> f64 + Sync),
    metrics: &Metrics,
) -> anyhow::Result<Rescued> {
    // Counted one by one: what is done is done, whatever becomes of the rest.
    let counted = |kind, count| {
        metrics.rescued(kind, count);
        count
    };
    let rescued = Rescued {
        crashed: counted("crashed", rescue_expired(ledger, dice, metrics).await?),
        stray: counted("stray", ledger.lose_older(STRAY_AFTER).await.context("find stray steps")?),
        exceeded: counted("exceeded", ledger.exceed(host, BATCH).await.context("end runs past their deadline")?),
        projections_pending: ledger.project_pending(BATCH).await.context("write public rows again")?,
        explained: match host {
            Some(host) => ledger.explain(host, BATCH).await.context("say why steps wait")?,
            None => 0,
        },
    };
    if rescued.due_again() + rescued.exceeded > 0 {
        let Rescued { crashed, stray, exceeded, .. } = rescued;
        tracing::warn!(crashed, stray, exceeded, "rescued");
    }
    Ok(rescued)
}

/// Each expired lease settles as a crash, guarded by its expiry: a worker that renews or settles first wins.
async fn rescue_expired<L: Ledger>(
    ledger: &L,
    dice: &(dyn Fn() -> f64 + Sync),
    metrics: &Metrics,
) -> anyhow::Result<usize> {
    let expired = ledger.expired(BATCH).await.context("find expired leases")?;
    let mut settlements = Vec::with_capacity(expired.len());
    for step in &expired {
        // A definition that this build does not know is left to a relay that knows it.
        let Some(workflow) = ledger.registry().find(&step.claim.workflow, step.claim.version) else { continue };
        settlements.push(Settlement::rescue(step, workflow, dice()).context("plan a rescue")?);
    }
    if settlements.is_empty() {
        return Ok(0);
    }
    let settled = ledger.settle(&settlements).await.context("settle crashed steps")?;
    let mut rescued = 0;
    for (settlement, settled) in settlements.iter().zip(settled) {
        if let Settled::Done(run) = settled {
            metrics.attempt_ended(&Ended::of(settlement, run));
            rescued += 1;
        }
    }
    metrics.leases_lost(rescued);
    Ok(rescued)
}
