//! What nobody holds any more: expired leases, runs past their deadline, public rows that could not be written; and what waits
//! for the API without saying so.

use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;
use tracing::Span;
use workflows::{outcome::Class, state::RunState};

use crate::{
    ledger::{Ledger, Settled, Settlement, settlement::Attempt},
    telemetry::{
        metrics::{Ended, Metrics},
        spans, trace,
    },
};

/// The most that one round rescues.
const BATCH: usize = 200;

/// A question that took longer than this was on its way while the network or Postgres stood still, and the workers' renewals
/// with it: what it found expired may be renewed a moment later. The next round looks again.
const PROMPT: Duration = Duration::from_secs(2);

/// What one round found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rescued {
    pub crashed: usize,
    pub exceeded: usize,
    /// Public rows that still wait to be written.
    pub projections_pending: usize,
    /// Steps that say since this round that they wait for the API.
    pub explained: usize,
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
        exceeded: counted("exceeded", ledger.exceed(host, BATCH).await.context("end runs past their deadline")?),
        projections_pending: ledger.project_pending(BATCH).await.context("write public rows again")?,
        explained: match host {
            Some(host) => ledger.explain(host, BATCH).await.context("say why steps wait")?,
            None => 0,
        },
    };
    Ok(rescued)
}

/// Each expired lease settles as a crash, guarded by its expiry: a worker that renews or settles first wins.
async fn rescue_expired<L: Ledger>(
    ledger: &L,
    dice: &(dyn Fn() -> f64 + Sync),
    metrics: &Metrics,
) -> anyhow::Result<usize> {
    let asked = Instant::now();
    let expired = ledger.expired(BATCH).await.context("find expired leases")?;
    if asked.elapsed() > PROMPT {
        return Ok(0);
    }
    let mut settlements = Vec::with_capacity(expired.len());
    let mut spans = Vec::with_capacity(expired.len());
    for step in &expired {
        // A definition that this build does not know is left to a relay that knows it.
        let Some(workflow) = ledger.registry().find(&step.claim.workflow, step.claim.version) else { continue };
        let span = spans::rescue(&step.claim);
        match Settlement::rescue(step, workflow, dice()) {
            Ok(settlement) => {
                settlements.push(settlement.traced(trace::ids(&span)));
                spans.push(span);
            }
            Err(error) => tracing::error!(run = %step.claim.key.run, %error, "cannot rescue this step: mend its row"),
        }
    }
    if settlements.is_empty() {
        return Ok(0);
    }
    let settled = ledger.settle(&settlements).await.context("settle crashed steps")?;
    let mut rescued = 0;
    for ((settlement, span), settled) in settlements.iter().zip(&spans).zip(settled) {
        if let Settled::Done(state) = settled {
            rescued += 1;
            metrics.attempt_ended(&Ended::of(settlement, state));
            tell(settlement, span, state);
        }
    }
    metrics.leases_lost(rescued);
    Ok(rescued)
}

fn tell(settlement: &Settlement, span: &Span, state: RunState) {
    let Attempt { outcome, class, error, trace_id, .. } = &settlement.attempt;
    let class = class.map(Class::as_str);
    spans::ended(span, outcome, class);
    trace::keep(span);
    let (run, step, state) = (settlement.key.run, &settlement.step, state.as_str());
    let (error, trace_id) = (error.as_deref(), trace_id.as_deref());
    tracing::warn!(%run, %step, trace_id, outcome, class, error, state, "rescued a step whose lease ran out");
}
