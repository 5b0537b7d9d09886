//! One attempt: claim, run the step while the lease holds, settle. Whatever happens in between, the step's answer is an
//! outcome: a panic, a timeout and a lost lease are outcomes too.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::time::Instant;
use tracing::{Instrument, Span};
use workflows::{
    breaker::{Rules, Signal},
    definition::{Registry, Step, Workflow},
    evolution::{Evolution, Flight, Guarded},
    outcome::{Class, Failure, HostSignal, Outcome},
    provision,
    state::RunState,
};

use super::{
    Deps,
    batch::Batch,
    blame::{Blame, blame},
    lease::{Held, Leases},
    signals::{Signals, Watch},
    tell::tell,
};
use crate::telemetry::{names, spans, trace};
use crate::{
    ledger::{Claim, Claimed, Key, Lease, Ledger, PutBack, Result, Settled, Settlement, Worker, settlement::Quiet},
    telemetry::metrics::{Ended, Metrics},
};

/// Draws shares between 0 and 1.
pub type Dice = Arc<dyn Fn() -> f64 + Send + Sync>;

/// What came of a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempted {
    /// The attempt ended, and the ledger says so; the run's state after it.
    Settled(RunState),
    /// It was not tried: a gate, a busy resource, an unknown definition.
    PutBack(PutBack),
    /// Somebody else has the step, or had it.
    Stale,
    /// The attempt ended after its lease had, and somebody else has the step now: its late settle changed nothing.
    Overtaken,
}

/// Where attempts are made: the ledger, the API and the leases of one process.
pub struct Bench<L, E> {
    ledger: L,
    api: Arc<E>,
    /// What tells the host's gate what this bench hears.
    watch: Option<Arc<Watch<L, E>>>,
    blames: Batch<Instant, Blame>,
    settings: provision::Settings,
    registry: Arc<Registry>,
    me: Worker,
    leases: Arc<Leases>,
    renewals: L,
    claims: Batch<Key, Claimed>,
    settles: Batch<Settlement, Settled>,
    dice: Dice,
    metrics: Arc<Metrics>,
}

/// How long until the ledger is asked again that could not be asked.
const ASK_AGAIN: Duration = Duration::from_millis(250);

impl<L: Ledger, E: Evolution + Send + Sync + 'static> Bench<L, E> {
    pub fn new<Q>(deps: Deps<L, E, Q>, me: Worker, leases: Arc<Leases>, rules: Rules, dice: Dice) -> Self {
        let api = Arc::new(deps.api);
        let watch = me.host.clone().map(|host| {
            Arc::new(Watch {
                host,
                ledger: deps.ledger.clone(),
                api: api.clone(),
                signals: Signals::default(),
                rules,
                dice: dice.clone(),
            })
        });
        let (asked, watching) = (api.clone(), watch.clone());
        let blames = Batch::new(move |began: Vec<Instant>| {
            let (api, watch) = (asked.clone(), watching.clone());
            async move { Ok(blame(&*api, watch.as_deref(), rules.patience, &began).await) }
        });
        let (ledger, worker) = (deps.ledger.clone(), me.clone());
        let claims = Batch::new(move |keys: Vec<Key>| {
            let (ledger, worker) = (ledger.clone(), worker.clone());
            async move { ledger.claim(&worker, &keys).await }
        });
        let ledger = deps.ledger.clone();
        let settles = Batch::new(move |settlements: Vec<Settlement>| {
            let ledger = ledger.clone();
            async move { ledger.settle(&settlements).await }
        });
        Self {
            ledger: deps.ledger,
            api,
            watch,
            blames,
            settings: deps.settings,
            registry: deps.registry,
            me,
            leases,
            renewals: deps.leases,
            claims,
            settles,
            dice,
            metrics: deps.vitals.metrics,
        }
    }

    /// The watch over the API's host, where it has one.
    pub fn watch(&self) -> Option<Arc<Watch<L, E>>> {
        self.watch.clone()
    }

    /// Moves every lease of this process on, once.
    pub async fn renew_once(&self) -> Result<()> {
        let leases = self.leases.due();
        let asked = Instant::now();
        let kept = self.renewals.renew(&self.me, &leases).await?;
        self.leases.renewed(asked, &leases, &kept);
        Ok(())
    }

    /// Makes one attempt of the step that `key` names. `claimed` is called as soon as the ledger has answered the claim. The
    /// span that it runs in is the attempt's.
    pub async fn attempt(&self, key: Key, claimed: impl FnOnce()) -> Result<Attempted> {
        let asked = Instant::now();
        let span = Span::current();
        let answer = self.claims.ask(key).instrument(spans::claim()).await?;
        claimed();
        let claim = match answer {
            Claimed::Yes(claim) => claim,
            Claimed::PutBack(why) => {
                tracing::debug!(run = %key.run, ?why, "put back");
                spans::ended(&span, "put_back", None);
                return Ok(Attempted::PutBack(why));
            }
            Claimed::Stale => {
                spans::ended(&span, "stale", None);
                return Ok(Attempted::Stale);
            }
        };
        span.record(names::WORKFLOW, claim.workflow.as_str());
        span.record(names::ATTEMPT, i64::from(claim.attempt));
        let Some((workflow, step)) = self.definition(&claim) else {
            // The claim was admitted by the same registry; only a bug comes here, and the lease ends it.
            return Ok(Attempted::Overtaken);
        };
        let lease = Lease { key, length: step.lease };
        let held = self.leases.hold(lease, asked, step.timeout + step.lease);
        let began = Instant::now();
        let (outcome, flight) = self.outcome(&claim, step, &held).await;
        let (lost, took) = (held.is_lost(), began.elapsed());
        self.hear(key, &outcome);
        let outcome = self.excuse(outcome, asked).await;
        let settling = self.settle(&claim, workflow, outcome, flight.into(), &span);
        let settled = settling.instrument(spans::settle(&claim.step)).await?;
        match &settled {
            Attempted::Settled(run) => {
                self.metrics.step_took(&claim.step, took);
                self.metrics.leases_lost(usize::from(lost));
                if *run == RunState::Succeeded && claim.workflow.as_str() == provision::PROVISION_INSTANCE {
                    self.metrics.ready_after(claim.age + asked.elapsed());
                }
            }
            Attempted::Overtaken => {
                self.metrics.stale_settle();
                if flight != Flight::None {
                    self.doubt(&claim).await;
                }
            }
            Attempted::PutBack(_) | Attempted::Stale => {}
        }
        Ok(settled)
    }

    fn definition(&self, claim: &Claim) -> Option<(&Workflow, &Step)> {
        let workflow = self.registry.find(&claim.workflow, claim.version)?;
        Some((workflow, workflow.step(claim.key.position)?))
    }

    /// Runs the step, as long as the lease holds and no longer than its timeout.
    async fn outcome(&self, claim: &Claim, step: &Step, held: &Held) -> (Outcome, Flight) {
        let api = Guarded::new(&*self.api, || held.permission());
        let running = AssertUnwindSafe(provision::run(&step.name, &api, &claim.given, &self.settings)).catch_unwind();
        // A lease that is over goes first: after a freeze both may be ready, and then nothing more is to be sent.
        let outcome = tokio::select! {
            biased;
            () = held.lost() => lease_lost(),
            () = held.let_go() => handed_back(),
            ended = tokio::time::timeout(step.timeout, running) => match ended {
                Ok(Ok(Some(outcome))) => outcome,
                Ok(Ok(None)) => unknown_step(step),
                Ok(Err(_)) => Outcome::Retry(Failure::new(Class::Panicked, "the step's code panicked: see the worker's log")),
                Err(_) => timed_out(step),
            },
        };
        (outcome, api.flight())
    }

    /// Somebody else had the step before this attempt settled, and a call of it that creates or deletes had left. If this
    /// process stood still right before it left, nothing kept the two apart.
    async fn doubt(&self, claim: &Claim) {
        let run = claim.key.run;
        while let Err(error) = self.ledger.doubt(run).await {
            tracing::warn!(%run, %error, "cannot say yet that two calls may have met");
            tokio::time::sleep(ASK_AGAIN).await;
        }
        tracing::warn!(%run, step = %claim.step, "two calls may have met: the instance is looked at again when its run has ended");
    }

    fn hear(&self, key: Key, outcome: &Outcome) {
        let heard = match outcome {
            Outcome::Success { .. } => HostSignal::Healthy,
            Outcome::Retry(failure)
            | Outcome::Defer { failure, .. }
            | Outcome::SendBack { failure, .. }
            | Outcome::Permanent(failure) => failure.host,
        };
        if let (Some(watch), Some(signal)) = (&self.watch, Signal::of(key.run, heard)) {
            watch.signals.hear(signal);
        }
    }

    /// A failure that the host is to blame for is not counted. Asked at every such failure, and not only after some: then an
    /// hour's outage costs even a lone run nothing, whom no breaker protects, while a run that fails on its own still dies.
    async fn excuse(&self, outcome: Outcome, began: Instant) -> Outcome {
        let Outcome::Retry(mut failure) = outcome else { return outcome };
        // The API's own trouble with its database comes as a 400 too, in the middle of a create.
        let suspect = failure.host == HostSignal::Failing || failure.class == Class::ServerError;
        if !suspect || !matches!(self.blames.ask(began).await, Ok(Blame::Host)) {
            return Outcome::Retry(failure);
        }
        failure = failure.and("not counted: the API as a whole does not work");
        Outcome::Defer { failure, after: None }
    }

    /// Settles, trying again while the ledger cannot be asked: the result of a call that was made is worth more than the
    /// time. A settle that comes too late changes nothing.
    async fn settle(
        &self,
        claim: &Claim,
        workflow: &Workflow,
        outcome: Outcome,
        quiet: Quiet,
        span: &Span,
    ) -> Result<Attempted> {
        let plan = |outcome| {
            let settlement = Settlement::plan(claim, workflow, outcome, quiet, (self.dice)());
            settlement
                .map(|settlement| settlement.traced(trace::ids(span)))
                .map_err(|illegal| crate::ledger::Error::Unreadable(illegal.to_string()))
        };
        let mut settlement = plan(outcome)?;
        loop {
            match self.settles.ask(settlement.clone()).await {
                Ok(Settled::Done(state)) => {
                    tell(claim, &settlement, state);
                    self.metrics.attempt_ended(&Ended::of(&settlement, state));
                    spans::ended(span, settlement.attempt.outcome, settlement.attempt.class.map(Class::as_str));
                    return Ok(Attempted::Settled(state));
                }
                Ok(Settled::Stale) => {
                    tracing::info!(run = %claim.key.run, step = %claim.step, trace_id = trace::id(span), "attempt overtaken: it changed nothing");
                    spans::ended(span, "overtaken", None);
                    return Ok(Attempted::Overtaken);
                }
                Ok(Settled::Refused(reason)) => {
                    let text = format!("the ledger refuses the step's result: {reason}");
                    let failure = Failure::new(Class::Unreadable, text.replace('\0', ""));
                    settlement = plan(Outcome::Retry(failure))?;
                }
                Err(error) => {
                    tracing::warn!(run = %claim.key.run, %error, "cannot settle yet");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }
}

fn unknown_step(step: &Step) -> Outcome {
    let failure = Failure::new(Class::Unknown, format!("this build has no code for the step {}", step.name));
    Outcome::Defer { failure, after: Some(Duration::from_secs(5)) }
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
