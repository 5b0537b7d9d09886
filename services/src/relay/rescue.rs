//! What nobody holds any more: expired leases, runs past their deadline, public rows that could not
//! be written; what waits for an API without saying so; and resources at which two calls may have
//! met.

use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::Span;
use workflows::{outcome::Class, state::RunState};

use super::{Next, Relay};
use crate::{
    ledger::{Due, Error, Expired, RelayLedger, Settled, Settlement, settlement::Attempt},
    telemetry::{
        metrics::{Metrics, names},
        spans, trace,
    },
};

/// While steps are running, whose leases may end.
const TICK: Duration = Duration::from_millis(500);
const QUIET_TICK: Duration = Duration::from_secs(1);
/// While the session of a worker that has steps in hand has ended, until their leases end too.
const GONE_TICK: Duration = Duration::from_millis(100);

/// The most that one round rescues.
const BATCH: usize = 200;

/// The most resources that one round looks at again.
const LOOKS: usize = 50;

/// A list of expired leases that took longer is ignored: the network or Postgres stood still, and
/// the workers' renewals with it, which may arrive a moment later. The next round looks again.
const PROMPT: Duration = Duration::from_secs(2);

/// What one round found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Steps whose lease ran out.
    pub crashed: usize,
    pub exceeded: usize,
    /// Steps that say since this round that they wait for an API, or say it no longer.
    pub explained: usize,
    /// Doubted resources that are looked at again.
    pub doubted: usize,
    /// Whether no step was running.
    pub quiet: bool,
    /// Whether a worker that has steps in hand has no session any more.
    pub gone: bool,
    /// What became due by it, and may be pushed at once.
    pub due: Vec<Due>,
}

/// Rations a look that may take long for nothing: over time that takes no more than a twentieth of
/// it.
#[derive(Default)]
pub struct Ration(Mutex<Option<Instant>>);

impl Ration {
    /// Looks, if it is time to. What it finds was worth the time.
    async fn spend(&self, look: impl Future<Output = anyhow::Result<usize>>) -> anyhow::Result<usize> {
        let asked = Instant::now();
        if self.0.lock().is_some_and(|next| asked < next) {
            return Ok(0);
        }
        let found = look.await?;
        *self.0.lock() = (found == 0).then(|| Instant::now() + 19 * asked.elapsed());
        Ok(found)
    }
}

/// `dice` draws shares between 0 and 1. `late` rations the look for late runs: those that stand
/// behind a closed gate are read in each. What the database refuses harms only the part that asked
/// for it: the first refusal comes with what the others found.
pub async fn rescue_once<L: RelayLedger>(
    ledger: &L,
    dice: &(dyn Fn() -> f64 + Sync),
    metrics: &Metrics,
    late: &Ration,
) -> anyhow::Result<(Rescued, Option<anyhow::Error>)> {
    let asked = Instant::now();
    let upkeep = ledger.upkeep().await.context("look for what nobody holds")?;
    let mut rescued = Rescued { quiet: !upkeep.running, gone: upkeep.gone, ..Rescued::default() };
    let mut refused = None;
    // Counted one by one: what is done is done, whatever becomes of the rest.
    let mut ended = 0;
    if upkeep.gone {
        let leases = ledger.end_leases().await.context("end the leases of workers that are gone");
        ended = unless_refused(leases, &mut refused)?;
    }
    if upkeep.expired || ended > 0 {
        let expired = rescue_expired(ledger, asked, dice, metrics).await;
        (rescued.crashed, rescued.due) = unless_refused(expired, &mut refused)?;
        metrics.count(&names::RESCUED, ["crashed"], rescued.crashed as u64);
    }
    if upkeep.late {
        rescued.exceeded = unless_refused(late.spend(end_late(ledger)).await, &mut refused)?;
        metrics.count(&names::RESCUED, ["exceeded"], rescued.exceeded as u64);
    }
    if upkeep.cancelled {
        unless_refused(tell_of_cancelled(ledger).await, &mut refused)?;
    }
    if upkeep.unwritten {
        let pending = ledger.project_pending(BATCH).await.context("write public rows again");
        unless_refused(pending, &mut refused)?;
    }
    if upkeep.untold {
        let explained = ledger.explain(BATCH).await.context("say why steps wait");
        rescued.explained = unless_refused(explained, &mut refused)?;
    }
    if upkeep.doubted {
        rescued.doubted = unless_refused(look_again(ledger).await, &mut refused)?;
        metrics.count(&names::RESCUED, ["doubted"], rescued.doubted as u64);
    }
    Ok((rescued, refused))
}

/// Nothing where the database refused to answer, which is kept if it is the first time. Any other
/// error ends the round: it is the connection's, or says that the database takes too long.
fn unless_refused<T: Default>(result: anyhow::Result<T>, first: &mut Option<anyhow::Error>) -> anyhow::Result<T> {
    const QUERY_CANCELED: &str = "57014";
    result.or_else(|error| match error.downcast_ref() {
        Some(Error::Database(sqlx::Error::Database(said))) if said.code().as_deref() != Some(QUERY_CANCELED) => {
            first.get_or_insert(error);
            Ok(T::default())
        }
        _ => Err(error),
    })
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
            metrics.attempt_ended(settlement, run);
            end_spans(step, asked, settlement, span);
            if let Some(whole) = whole {
                spans::whole(&whole);
            }
            log(settlement, run);
        }
    }
    metrics.count(&names::LEASES_LOST, [], rescued as u64);
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

/// A worker stood still around a call that creates or deletes, and another one went on. Once the
/// run there has succeeded, another one reads back what there is and mends it. How many there were.
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
    // Where the ledger was away, its workers were too: they get one lease's time to renew before
    // they count as gone.
    let in_touch = Mutex::new(Instant::now());
    let late = Ration::default();
    let lease = relay.ledger.registry().longest_lease();
    let rescue = async || {
        if in_touch.lock().elapsed() > lease {
            relay.ledger.ping().await?;
            relay.shutdown.run_until_cancelled(sleep(lease)).await;
            *in_touch.lock() = Instant::now();
            return Ok(Next::AtTick);
        }
        let (rescued, refused) = rescue_once(&relay.ledger, &rand::random::<f64>, &relay.vitals.metrics, &late).await?;
        *in_touch.lock() = Instant::now();
        relay.push(rescued.due).await;
        relay.look_if(rescued.doubted > 0);
        match refused {
            Some(error) => Err(error),
            None if rescued.explained >= BATCH => Ok(Next::AtOnce),
            None if rescued.gone => Ok(Next::After(GONE_TICK)),
            None if rescued.quiet => Ok(Next::After(QUIET_TICK)),
            None => Ok(Next::AtTick),
        }
    };
    relay.repeat("rescue", TICK, &Notify::new(), rescue).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_that_finds_nothing_takes_a_twentieth_of_the_time() {
        let (ration, second) = (Ration::default(), Duration::from_secs(1));
        let looks = AtomicUsize::new(0);
        let look = async |found| {
            let looking = async {
                looks.fetch_add(1, Ordering::Relaxed);
                sleep(second).await;
                Ok(found)
            };
            assert_eq!(ration.spend(looking).await.unwrap(), found);
            looks.load(Ordering::Relaxed)
        };

        let (found, in_vain, at_once) = (look(1).await, look(0).await, look(0).await);
        sleep(18 * second).await;
        let early = look(0).await;
        sleep(second).await;

        assert_eq!((found, in_vain, at_once, early, look(0).await), (1, 2, 2, 2, 3));
    }
}
