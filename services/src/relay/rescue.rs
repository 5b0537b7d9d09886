//! What nobody holds any more: expired leases, runs past their deadline, public rows that could not be written; and what waits
//! for an API without saying so.

use std::time::Duration;

use anyhow::Context;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tracing::Span;
use workflows::{definition::LEASE, outcome::Class, state::RunState};

use super::{Next, Relay};
use crate::{
    ledger::{Due, RelayLedger, Settled, Settlement, settlement::Attempt},
    telemetry::{
        metrics::{Ended, Metrics},
        spans, trace,
    },
};

const TICK: Duration = Duration::from_millis(500);

/// The most that one round rescues.
const BATCH: usize = 200;

/// A list of expired leases that took longer is ignored: the network or Postgres stood still, and the workers' renewals with
/// it, which may arrive a moment later. The next round looks again.
const PROMPT: Duration = Duration::from_secs(2);

/// What one round found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Steps whose lease ran out.
    pub crashed: usize,
    pub exceeded: usize,
    /// Public rows that still wait to be written.
    pub projections_pending: usize,
    /// Steps that say since this round that they wait for an API, or say it no longer.
    pub explained: usize,
    /// What became due by it, and may be pushed at once.
    pub due: Vec<Due>,
}

/// `dice` draws shares between 0 and 1.
pub async fn rescue_once<L: RelayLedger>(
    ledger: &L,
    dice: &(dyn Fn() -> f64 + Sync),
    metrics: &Metrics,
) -> anyhow::Result<Rescued> {
    // Counted one by one: what is done is done, whatever becomes of the rest.
    let (crashed, due) = rescue_expired(ledger, dice, metrics).await?;
    metrics.rescued("crashed", crashed);
    let exceeded = ledger.exceed(BATCH).await.context("end runs past their deadline")?;
    metrics.rescued("exceeded", exceeded);
    Ok(Rescued {
        crashed,
        exceeded,
        projections_pending: ledger.project_pending(BATCH).await.context("write public rows again")?,
        explained: ledger.explain(BATCH).await.context("say why steps wait")?,
        due,
    })
}

/// Settles each expired lease, guarded by its expiry: a worker that renews or settles first wins.
async fn rescue_expired<L: RelayLedger>(
    ledger: &L,
    dice: &(dyn Fn() -> f64 + Sync),
    metrics: &Metrics,
) -> anyhow::Result<(usize, Vec<Due>)> {
    let asked = Instant::now();
    let expired = ledger.expired(BATCH).await.context("find expired leases")?;
    if asked.elapsed() > PROMPT {
        return Ok((0, Vec::new()));
    }
    let mut settlements = Vec::with_capacity(expired.len());
    let mut spans = Vec::with_capacity(expired.len());
    for step in &expired {
        // A definition that this build does not know is left to a relay that knows it.
        let Some(workflow) = ledger.registry().find(&step.workflow, step.version) else { continue };
        let span = spans::rescue(step);
        match Settlement::rescue(step, workflow, dice()) {
            Ok(settlement) => {
                settlements.push(settlement.traced(trace::ids(&span)));
                spans.push(span);
            }
            Err(error) => tracing::error!(run = %step.key.run, %error, "cannot rescue this step: mend its row"),
        }
    }
    if settlements.is_empty() {
        return Ok((0, Vec::new()));
    }
    let settled = ledger.settle(&settlements).await.context("settle steps whose lease ran out")?;
    let (mut rescued, mut became_due) = (0, Vec::new());
    for ((settlement, span), settled) in settlements.iter().zip(&spans).zip(settled) {
        if let Settled::Done { run, due } = settled {
            rescued += 1;
            became_due.extend(due);
            metrics.attempt_ended(&Ended::of(settlement, run));
            log(settlement, span, run);
        }
    }
    metrics.leases_lost(rescued);
    Ok((rescued, became_due))
}

fn log(settlement: &Settlement, span: &Span, state: RunState) {
    let Attempt { outcome, class, error, trace_id, .. } = &settlement.attempt;
    let class = class.map(Class::as_str);
    spans::ended(span, outcome, class);
    trace::keep(span);
    let (run, step, state) = (settlement.key.run, &settlement.step, state.as_str());
    let (error, trace_id) = (error.as_deref(), trace_id.as_deref());
    tracing::warn!(%run, %step, trace_id, outcome, class, error, state, "rescued a step whose lease ran out");
}

pub(super) async fn run(relay: Relay) {
    // Where the ledger was away, its workers were too: they get one lease's time to renew before they count as gone.
    let (in_touch, seen) = watch::channel(Instant::now());
    let rescue = async || {
        let mut next = Next::AtTick;
        if seen.borrow().elapsed() > LEASE {
            relay.ledger.ping().await?;
            relay.shutdown.run_until_cancelled(sleep(LEASE)).await;
        } else {
            let rescued = rescue_once(&relay.ledger, &rand::random::<f64>, &relay.vitals.metrics).await?;
            relay.push(rescued.due).await;
            if rescued.explained >= BATCH {
                next = Next::AtOnce;
            }
        }
        in_touch.send_replace(Instant::now());
        Ok(next)
    };
    relay.repeat("rescue", TICK, &Notify::new(), rescue).await;
}
