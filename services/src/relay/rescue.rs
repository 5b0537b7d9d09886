//! What nobody holds any more: expired leases, runs past their deadline, public rows that could not
//! be written; what waits for an API without saying so; and resources at which two calls may have met.

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
    ledger::{Due, Expired, RelayLedger, Settled, Settlement, settlement::Attempt},
    telemetry::{
        metrics::{Ended, Metrics},
        spans, trace,
    },
};

/// While steps are running, whose leases may end.
const TICK: Duration = Duration::from_millis(500);
const QUIET_TICK: Duration = Duration::from_secs(1);

/// The most that one round rescues.
const BATCH: usize = 200;

/// The most resources that one round looks at again.
const LOOKS: usize = 50;

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
    /// Doubted resources that are looked at again.
    pub doubted: usize,
    /// Whether no step was running.
    pub quiet: bool,
    /// What became due by it, and may be pushed at once.
    pub due: Vec<Due>,
}

/// `dice` draws shares between 0 and 1.
pub async fn rescue_once<L: RelayLedger>(
    ledger: &L,
    dice: &(dyn Fn() -> f64 + Sync),
    metrics: &Metrics,
) -> anyhow::Result<Rescued> {
    let asked = Instant::now();
    let upkeep = ledger.upkeep().await.context("look for what nobody holds")?;
    let mut rescued = Rescued { quiet: !upkeep.running, ..Rescued::default() };
    // Counted one by one: what is done is done, whatever becomes of the rest.
    if upkeep.expired {
        (rescued.crashed, rescued.due) = rescue_expired(ledger, asked, dice, metrics).await?;
        metrics.rescued("crashed", rescued.crashed);
    }
    if upkeep.late {
        rescued.exceeded = end_late(ledger).await?;
        metrics.rescued("exceeded", rescued.exceeded);
    }
    if upkeep.cancelled {
        tell_of_cancelled(ledger).await?;
    }
    if upkeep.unwritten {
        rescued.projections_pending = ledger.project_pending(BATCH).await.context("write public rows again")?;
    }
    if upkeep.untold {
        rescued.explained = ledger.explain(BATCH).await.context("say why steps wait")?;
    }
    if upkeep.doubted {
        rescued.doubted = look_again(ledger).await?;
        metrics.rescued("doubted", rescued.doubted);
    }
    Ok(rescued)
}

/// Settles each expired lease, guarded by its expiry: a worker that renews or settles first wins.
/// `asked` is when the round began.
async fn rescue_expired<L: RelayLedger>(
    ledger: &L,
    asked: Instant,
    dice: &(dyn Fn() -> f64 + Sync),
    metrics: &Metrics,
) -> anyhow::Result<(usize, Vec<Due>)> {
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
                let own = step.span.as_ref().map(|own| own.ids.clone());
                settlements.push(settlement.traced(own.or_else(|| trace::ids(&span))));
                spans.push((step, span));
            }
            Err(error) => tracing::error!(run = %step.key.run, %error, "cannot rescue this step: mend its row"),
        }
    }
    if settlements.is_empty() {
        return Ok((0, Vec::new()));
    }
    let settled = ledger.settle(&settlements).await.context("settle steps whose lease ran out")?;
    let (mut rescued, mut became_due) = (0, Vec::new());
    for ((settlement, (step, span)), settled) in settlements.iter().zip(&spans).zip(settled) {
        if let Settled::Done { run, due, whole, .. } = settled {
            rescued += 1;
            became_due.extend(due);
            metrics.attempt_ended(&Ended::of(settlement, run));
            end_spans(step, asked, settlement, span);
            if let Some(whole) = whole {
                spans::whole(&whole);
            }
            log(settlement, run);
        }
    }
    metrics.leases_lost(rescued);
    Ok((rescued, became_due))
}

/// The attempt's own span, which its worker cannot export, and that of its rescue; where the
/// attempt's is not known, the rescue's alone says how it ended. `asked` is when the expired leases
/// were.
fn end_spans(expired: &Expired, asked: Instant, settlement: &Settlement, rescue: &Span) {
    let (outcome, class) = (settlement.attempt.outcome, settlement.attempt.class.map(Class::as_str));
    match &expired.span {
        Some(own) => {
            let age = expired.age + asked.elapsed();
            spans::ended(&spans::lost(expired, own, age), outcome, class);
            spans::came_of(rescue, outcome, class);
        }
        None => {
            spans::ended(rescue, outcome, class);
            spans::failed(rescue);
        }
    }
    trace::keep(rescue);
}

/// Ends runs past their deadline. How many.
async fn end_late<L: RelayLedger>(ledger: &L) -> anyhow::Result<usize> {
    let ended = ledger.exceed(BATCH).await.context("end runs past their deadline")?;
    for whole in &ended {
        let (run, trace_id) = (whole.run, trace::id(&spans::whole(whole)));
        tracing::warn!(%run, trace_id, "run died of its deadline: it needs a person");
    }
    Ok(ended.len())
}

/// A run that a person cancels, or whose subject is gone, ends by SQL alone, which exports no span.
/// Asked where nobody traces, too: else they would wait until somebody does.
async fn tell_of_cancelled<L: RelayLedger>(ledger: &L) -> anyhow::Result<()> {
    let ended = ledger.spans_that_wait(BATCH).await.context("look for runs that were cancelled")?;
    ended.iter().for_each(|whole| drop(spans::whole(whole)));
    Ok(())
}

/// A worker stood still around a call that creates or deletes, and another one went on. Once the run
/// there has succeeded, another one reads back what there is and mends it. How many there were.
async fn look_again<L: RelayLedger>(ledger: &L) -> anyhow::Result<usize> {
    let started = ledger.look_again(LOOKS).await.context("look again at doubted resources")?;
    if started > 0 {
        tracing::warn!(started, "calls had outlived their leases: their resources are looked at again");
    }
    Ok(started)
}

fn log(settlement: &Settlement, state: RunState) {
    let Attempt { outcome, class, error, trace_id, .. } = &settlement.attempt;
    let class = class.map(Class::as_str);
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
            relay.look_if(rescued.doubted > 0);
            if rescued.explained >= BATCH {
                next = Next::AtOnce;
            } else if rescued.quiet {
                next = Next::After(QUIET_TICK);
            }
        }
        in_touch.send_replace(Instant::now());
        Ok(next)
    };
    relay.repeat("rescue", TICK, &Notify::new(), rescue).await;
}
