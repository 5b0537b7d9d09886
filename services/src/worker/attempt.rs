//! One attempt in three phases: claim, run, settle. Whatever ends the run of a step is an outcome:
//! its answer, a panic, a timeout, a lost lease, a process that stops.

#[cfg(test)]
mod tests;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};
use tracing::{Instrument, Span};
use workflows::{
    breaker::Rules,
    calls::{ExclusiveCalls, InFlight},
    definition::{Definition, Reach, Registry, Step},
    ids::StepName,
    outcome::{Class, Failure, HostSignal, Outcome},
    state::RunState,
    workflow::{Catalog, Workflow},
};

use super::{
    Deps,
    batch::Batch,
    host::Hosts,
    lease::{Held, Leases},
    log::log,
    signals::Watch,
};
use crate::{
    ledger::{
        Ask, CarriedOn, Claim, Claimed, Due, DueKey, Error, Lease, Refusal, Result, Settled, Settlement, WholeRun,
        Worker, WorkerLedger,
        settlement::{CarryOn, Quiet, Then},
    },
    telemetry::{
        metrics::{Metrics, names},
        spans, trace,
    },
};

/// Draws shares between 0 and 1.
pub type Dice = Arc<dyn Fn() -> f64 + Send + Sync>;

/// Takes one of the places for attempts of a step, where this process works on it and has one left.
pub type Places = Arc<dyn Fn(&StepName) -> Option<Place> + Send + Sync>;

/// Where an attempt runs, for as long as it is held.
pub type Place = OwnedSemaphorePermit;

/// What came of a hint.
#[derive(Debug)]
pub enum Attempted {
    /// The attempt ended, and the ledger says so: the run's state after it, and what became due by
    /// it.
    Settled { run: RunState, due: Option<Due> },
    /// The attempt ended well, and the step after it is in this process' hands already.
    CarriedOn(Box<Next>),
    /// It was not tried. The step stays due.
    Refused(Refusal),
    /// Somebody else has the step, or had it.
    Stale,
    /// The attempt ended after its lease had, and somebody else has the step now: its late settle
    /// changed nothing.
    Overtaken,
}

/// A step in hand whose attempt has not begun.
#[derive(Debug)]
pub struct Next {
    claim: Box<Claim>,
    /// When its claim was sent.
    asked: Instant,
    place: Place,
    /// The attempt's.
    pub span: Span,
}

/// Makes the attempts of one process.
pub struct AttemptRunner<L> {
    ledger: L,
    /// The ledger over a connection of its own.
    renewals: L,
    catalog: Catalog,
    registry: Registry,
    hosts: Hosts<L>,
    me: Worker,
    pub leases: Arc<Leases>,
    /// With the moment at which the batch was sent.
    claims: Batch<Ask, (Claimed, Instant)>,
    settles: Batch<Settlement, (Settled, Instant)>,
    dice: Dice,
    places: Places,
    pub(super) metrics: Arc<Metrics>,
}

/// How long until the ledger is asked again that could not be asked.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// How long a renewal may take: half a lease.
const RENEWS_WITHIN: Duration = Duration::from_secs(2);

/// A step that was claimed, and what is needed to run and settle it.
struct InHand<'a> {
    claim: Box<Claim>,
    definition: &'a Definition,
    step: &'a Step,
    workflow: &'a dyn Workflow,
    lease: Held,
    /// When the claim was sent.
    asked: Instant,
    /// The attempt's.
    span: Span,
}

/// What the ledger has written of an attempt's end.
struct Written {
    settlement: Settlement,
    run: RunState,
    due: Option<Due>,
    whole: Option<Box<WholeRun>>,
    next: Option<Box<Next>>,
}

/// What this process has ready for the step after the one that it settles.
struct Ready<'a> {
    step: &'a Step,
    place: Place,
    span: Span,
}

impl<L: WorkerLedger> AttemptRunner<L> {
    pub fn new<Q>(deps: Deps<L, Q>, me: Worker, rules: Rules, dice: Dice, places: Places) -> Self {
        let registry = deps.catalog.registry();
        let (ledger, worker) = (deps.ledger.clone(), me.clone());
        let claims = Batch::new(move |asked: Vec<Ask>| {
            let (ledger, worker) = (ledger.clone(), worker.clone());
            sent(async move { ledger.claim(&worker, &asked).await })
        });
        let ledger = deps.ledger.clone();
        let settles = Batch::new(move |settlements: Vec<Settlement>| {
            let ledger = ledger.clone();
            sent(async move { ledger.settle(&settlements).await })
        });
        Self {
            hosts: Hosts::new(&deps.catalog, &registry, &deps.ledger, &rules, &dice),
            ledger: deps.ledger,
            renewals: deps.leases,
            catalog: deps.catalog,
            registry,
            me,
            leases: Arc::default(),
            claims,
            settles,
            dice,
            places,
            metrics: deps.vitals.metrics,
        }
    }

    /// One watch per API host that a step calls and that has a probe.
    pub fn watches(&self) -> Vec<Arc<Watch<L>>> {
        self.hosts.watches()
    }

    /// Renews the leases that need it, once. It is the worker's heartbeat too, also where there is
    /// nothing to renew.
    pub async fn renew_once(&self) -> Result<()> {
        let leases = self.leases.due();
        let asked = Instant::now();
        // A connection that has died without a word is given up while another one can still save
        // the leases.
        let renewing = timeout(RENEWS_WITHIN, self.renewals.renew(&self.me, &leases));
        let kept = renewing.await.map_err(|_| Error::Late(RENEWS_WITHIN))??;
        self.leases.renewed(asked, &leases, &kept);
        Ok(())
    }

    /// Makes one attempt of the step that `ask` names. `claimed` is called as soon as the ledger
    /// has answered the claim. The span that it runs in is the attempt's.
    pub async fn attempt(&self, ask: Ask, claimed: impl FnOnce()) -> Result<Attempted> {
        let key = ask.key;
        let (answer, asked) = self.claims.ask(ask).instrument(spans::claim()).await?;
        claimed();
        let claim = match answer {
            Claimed::Yes(claim) => claim,
            Claimed::Refused(why) => {
                tracing::debug!(run = %key.run, position = key.position, why = why.as_str(), "claim refused");
                spans::ended(&Span::current(), "claim_refused", None);
                return Ok(Attempted::Refused(why));
            }
            Claimed::Stale => {
                spans::ended(&Span::current(), "stale", None);
                return Ok(Attempted::Stale);
            }
        };
        self.make(claim, asked).await
    }

    /// Makes the attempt of a step that is in hand already. The span that it runs in is to be
    /// `next.span`.
    pub async fn go_on(&self, next: Next) -> Result<Attempted> {
        let Next { claim, asked, place, .. } = next;
        let attempted = self.make(claim, asked).await;
        drop(place);
        attempted
    }

    async fn make(&self, claim: Box<Claim>, asked: Instant) -> Result<Attempted> {
        let in_hand = self.take(claim, asked)?;
        let InHand { claim, step, lease, .. } = &in_hand;
        let (began, calls) = (Instant::now(), ExclusiveCalls::new(lease));
        let outcome = run(&in_hand, &calls).await;
        let (took, lease_lost, calls) = (began.elapsed(), lease.is_lost(), calls.in_flight());
        self.hosts.hear(step, claim, &outcome);
        let outcome = self.hosts.excuse(step, outcome, asked).await;
        let writing = self.write(&in_hand, outcome, calls.into());
        let Some(written) = writing.instrument(spans::settle(&claim.step)).await? else {
            self.overtaken(&in_hand, calls).await;
            return Ok(Attempted::Overtaken);
        };
        self.metrics.measure(&names::STEP_DURATION, [claim.step.as_str()], took);
        self.metrics.count(&names::LEASES_LOST, [], u64::from(lease_lost));
        Ok(self.settled(&in_hand, written))
    }

    /// Begins to keep the lease of what was claimed.
    fn take(&self, claim: Box<Claim>, asked: Instant) -> Result<InHand<'_>> {
        let span = Span::current();
        spans::claimed(&span, &claim);
        let definition = self.registry.find(&claim.workflow, claim.version);
        let step = definition.and_then(|definition| definition.step(claim.key.position));
        let workflow = self.catalog.workflow(&claim.workflow, claim.version);
        let (Some(definition), Some(step), Some(workflow)) = (definition, step, workflow) else {
            // The ledger refuses what its own registry does not hold, and that is made of the same
            // catalog.
            return Err(Error::Unreadable(format!("a claim of {} {}", claim.workflow, claim.version)));
        };
        let lease = Lease { key: claim.key, length: step.lease };
        let lease = self.leases.hold(lease, asked, step.timeout + step.lease);
        Ok(InHand { claim, definition, step, workflow: &**workflow, lease, asked, span })
    }

    /// Says and counts an attempt whose end is written.
    fn settled(&self, in_hand: &InHand<'_>, written: Written) -> Attempted {
        let InHand { claim, span, asked, .. } = in_hand;
        let Written { settlement, run, due, whole, next } = written;
        log(claim, &settlement, run);
        spans::ended(span, settlement.attempt.outcome, settlement.attempt.class.map(Class::as_str));
        trace::keep(span);
        if let Some(whole) = whole {
            spans::whole(&whole);
        }
        self.metrics.attempt_ended(&settlement, run);
        if run != RunState::Active {
            let labels = [claim.workflow.as_str(), run.as_str()];
            self.metrics.measure(&names::RUN_DURATION, labels, claim.age + asked.elapsed());
        }
        next.map_or(Attempted::Settled { run, due }, Attempted::CarriedOn)
    }

    /// Somebody else had the step before this attempt settled. Where a call of it that creates or
    /// deletes had left, and this process stood still right before it left, nothing kept the two
    /// apart.
    async fn overtaken(&self, in_hand: &InHand<'_>, calls: InFlight) {
        let InHand { claim, span, .. } = in_hand;
        let (run, step, resource) = (claim.key.run, &claim.step, &claim.input.resource);
        tracing::info!(%run, %step, trace_id = trace::id(span), "attempt overtaken: it changed nothing");
        spans::ended(span, "overtaken", None);
        self.metrics.count(&names::STALE_SETTLES, [], 1);
        if calls == InFlight::Never {
            return;
        }
        while let Err(error) = self.ledger.doubt(run).await {
            tracing::warn!(%run, %error, "cannot say yet that two calls may have met");
            tokio::time::sleep(ASK_AGAIN).await;
        }
        tracing::warn!(%run, %step, %resource, "two calls may have met: the resource is looked at again when its run has ended");
    }

    /// Writes the attempt's end, trying again while the ledger cannot be asked: the result of a
    /// call that was made is worth more than the time. None: it came too late and changed nothing.
    async fn write(&self, in_hand: &InHand<'_>, outcome: Outcome, quiet: Quiet) -> Result<Option<Written>> {
        let InHand { claim, definition, span, .. } = in_hand;
        let plan = |outcome| {
            let settlement = Settlement::plan(claim, definition, outcome, quiet, (self.dice)());
            settlement
                .map(|settlement| settlement.traced(trace::ids(span)))
                .map_err(|illegal| Error::Unreadable(illegal.to_string()))
        };
        let (mut settlement, mut unanswered) = (plan(outcome)?, false);
        let mut ready = self.make_ready(in_hand, &mut settlement);
        loop {
            match self.settles.ask(settlement.clone()).await {
                Ok((Settled::Done { run, due, carried_on, whole }, sent)) => {
                    let next = ready.zip(carried_on).map(|(ready, on)| ready.go(in_hand, &settlement, on, sent));
                    return Ok(Some(Written { settlement, run, due, whole, next }));
                }
                Ok((Settled::Stale, _)) => {
                    // It may have been written by a settle of ours whose answer was lost: then
                    // nobody else exports the span. A step that it took in hand comes back when
                    // its lease is over.
                    if unanswered {
                        trace::keep(span);
                    }
                    return Ok(None);
                }
                Ok((Settled::Locked, _)) => {
                    tracing::warn!(run = %claim.key.run, "cannot settle yet: somebody has locked its row");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Ok((Settled::Refused(reason), _)) => {
                    settlement = plan(result_refused(&reason))?;
                    ready = None;
                }
                Err(error) => {
                    tracing::warn!(run = %claim.key.run, %error, "cannot settle yet");
                    unanswered = true;
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }

    /// Asks to go on with the next step, where this process works on it too, has a place left and
    /// the step creates and deletes nothing.
    fn make_ready<'a>(&self, in_hand: &InHand<'a>, settlement: &mut Settlement) -> Option<Ready<'a>> {
        let InHand { claim, definition, .. } = in_hand;
        let Then::Advance { next: name } = &settlement.then else { return None };
        let key = DueKey { run: claim.key.run, position: claim.key.position + 1, generation: 1 };
        let step = definition.step(key.position).filter(|step| step.reach == Reach::Shared)?;
        let place = (self.places)(name)?;
        let span = spans::process(name, key, claim.traceparent.as_deref());
        trace::hold_back(&span);
        let kept = trace::of_attempt(&span, claim.traceparent.as_deref());
        settlement.carry_on = Some(CarryOn { lease: step.lease, span: kept });
        Some(Ready { step, place, span })
    }
}

/// The answers of a batch, each with the moment at which the batch was sent: a lease counts from
/// there.
async fn sent<T>(asking: impl Future<Output = Result<Vec<T>>>) -> Result<Vec<(T, Instant)>> {
    let sent = Instant::now();
    Ok(asking.await?.into_iter().map(|answer| (answer, sent)).collect())
}

impl Ready<'_> {
    /// The step in hand, where the ledger says that it is.
    fn go(self, before: &InHand<'_>, settled: &Settlement, carried_on: CarriedOn, sent: Instant) -> Box<Next> {
        trace::begin(&self.span);
        let InHand { claim, step, asked, .. } = before;
        let output = settled.output.clone().unwrap_or_default();
        let claim = claim.of_next(step.reach, &self.step.name, output, carried_on, sent - *asked);
        Box::new(Next { claim: Box::new(claim), asked: sent, place: self.place, span: self.span })
    }
}

/// Runs the step, as long as the lease holds and no longer than its timeout.
async fn run(in_hand: &InHand<'_>, calls: &ExclusiveCalls<'_>) -> Outcome {
    let InHand { step, lease, .. } = in_hand;
    let running = AssertUnwindSafe(answer(in_hand, calls)).catch_unwind();
    // A lease that is over goes first: after a freeze both may be ready, and then nothing more is
    // to be sent.
    tokio::select! {
        biased;
        () = lease.lost() => lease_lost(),
        () = lease.let_go() => handed_back(),
        ended = timeout(step.timeout, running) => match ended {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => panicked(),
            Err(_) => timed_out(step),
        },
    }
}

/// What the workflow answers. A run's input may come from anybody: it is checked before the first
/// step runs.
async fn answer<'a>(in_hand: &'a InHand<'_>, calls: &'a ExclusiveCalls<'a>) -> Outcome {
    let InHand { claim, step, workflow, .. } = in_hand;
    if claim.key.position == 0
        && let Err(problem) = workflow.validate(&claim.input.input)
    {
        return Outcome::Permanent(Failure::new(Class::Rejected, format!("the run's input is refused: {problem}")));
    }
    workflow.run(&step.name, &claim.input, calls).await.unwrap_or_else(|| unknown_step(step))
}

fn unknown_step(step: &Step) -> Outcome {
    let failure = Failure::new(Class::Unknown, format!("this build has no code for the step {}", step.name));
    Outcome::Defer { failure, after: Some(Duration::from_secs(5)) }
}

fn panicked() -> Outcome {
    Outcome::Retry(Failure::new(Class::Panicked, "the step's code panicked: see the worker's log"))
}

fn timed_out(step: &Step) -> Outcome {
    let text = format!("the attempt took longer than the step's timeout of {:?}", step.timeout);
    Outcome::Retry(Failure::new(Class::TimedOut, text).with_host(HostSignal::Failing))
}

fn handed_back() -> Outcome {
    let text = "the worker was told to stop and its grace period is over: handed back";
    Outcome::Defer { failure: Failure::new(Class::LeaseTooShort, text), after: Some(Duration::ZERO) }
}

fn lease_lost() -> Outcome {
    let text = "the lease was lost: Postgres could not be asked in time, or another worker has the step";
    Outcome::Defer { failure: Failure::new(Class::LeaseTooShort, text), after: None }
}

fn result_refused(reason: &str) -> Outcome {
    let text = format!("the ledger refuses the step's result: {reason}").replace('\0', "");
    Outcome::Retry(Failure::new(Class::Unreadable, text))
}
