//! The worker: claims due steps, runs them, and settles.
//!
//! `attempt` is one step from claim to settle, and what the tests call; `lease` keeps the leases of
//! the attempts that run; `batch` lets attempts that claim or settle at the same moment share one
//! transaction; `host` knows the API hosts that steps call, and whose failure a failure is;
//! `signals` tells a host's gate what attempts heard, and probes the host. A worker never decides
//! what becomes of a step: it brings an outcome, the ledger's settlement does the rest.

mod attempt;
mod batch;
mod host;
mod lease;
mod log;
mod signals;

use std::{collections::HashMap, convert::Infallible, num::NonZeroUsize, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{Instrument, Span};
use workflows::{breaker::Rules, definition::RENEWAL_TICK, ids::StepName, state::RunState, workflow::Catalog};

pub use self::attempt::{AttemptRunner, Attempted, Dice, Next, Place, Places};
use self::{lease::Leases, signals::Watch};
use crate::{
    ledger::{self, Ask, Due, WorkerLedger},
    name,
    queue::{self, Consumer, Delivery, Hint, HintSink, Queue, Status},
    telemetry::{
        Said, Vitals,
        health::Pulse,
        metrics::{Sample, names},
        spans, trace,
    },
};

/// How a worker process works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The queues it serves.
    pub steps: Vec<StepName>,
    /// How many attempts of each step run at once.
    pub concurrency: NonZeroUsize,
    /// How long attempts may go on after a stop was asked for.
    pub grace: Duration,
    /// When an API host's breaker opens, and how the host is probed.
    pub rules: Rules,
}

/// What a worker works with.
pub struct Deps<L, Q = Queue> {
    pub ledger: L,
    /// The same ledger over a connection of its own: renewals never queue behind claims.
    pub leases: L,
    pub queue: Q,
    /// The workflows whose steps it runs, and the probes of the API hosts that they call.
    pub catalog: Catalog,
    /// Where it leaves what it counts, and its loops' pulses.
    pub vitals: Vitals,
}

/// Runs until `shutdown`. Then nothing more is claimed, attempts that run may end within the grace
/// period, and the rest is handed back, uncounted.
pub async fn run<L: WorkerLedger>(
    settings: Settings,
    deps: Deps<L>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (queue, vitals) = (deps.queue.clone(), deps.vitals.clone());
    vitals.metrics.expect_attempts(deps.catalog.registry().all(), &settings.steps);
    let me = ledger::Worker { name: name::unique("worker") };
    let steps: Vec<_> = settings.steps.iter().map(StepName::as_str).collect();
    tracing::info!(worker = %me.name, ?steps, "ready");
    let consumer = |step: &StepName| {
        let pulse = vitals.health.pulse(format!("worker: consume {step}"));
        queue.consumer(step, settings.concurrency, settings.grace + HAND_BACK, pulse)
    };
    let consumers: Vec<_> = settings.steps.iter().map(|step| (step.clone(), consumer(step))).collect();
    let places = places(&consumers, &shutdown);
    let runner = Arc::new(AttemptRunner::new(deps, me, settings.rules, Arc::new(rand::random::<f64>), places));

    // What runs as long as the worker does. Each of them ends with this function, and this function
    // with each that panics.
    let mut kept = JoinSet::new();
    kept.spawn({
        let (runner, pulse) = (runner.clone(), vitals.health.pulse("worker: renew leases"));
        async move { keep_alive(&runner.leases, || runner.renew_once(), pulse).await }
    });
    for watch in runner.watches() {
        let pulse = vitals.health.pulse(format!("worker: watch the gate of {}", watch.host));
        kept.spawn(async move { watch.run(pulse).await });
    }
    let mut consuming = JoinSet::new();
    for (step, consumer) in consumers {
        show(&step, consumer.status(), &vitals);
        let handler = Handler { runner: runner.clone(), queue: queue.clone(), step };
        consuming.spawn(consumer.run(move |delivery| handler.clone().handle(delivery), shutdown.clone()));
    }
    let _letting_go =
        AbortOnDropHandle::new(tokio::spawn(let_go_after(shutdown, settings.grace, runner.leases.clone())));
    loop {
        let drained = tokio::select! {
            drained = consuming.join_next() => drained,
            Some(Err(panic)) = kept.join_next() => return Err(panic).context("keep leases and watch gates"),
        };
        let Some(drained) = drained else { break };
        let abandoned = drained.context("run a consumer")?;
        if abandoned > 0 {
            tracing::warn!(abandoned, "attempts could not be handed back in time: they are left to their leases");
        }
    }
    for watch in runner.watches() {
        tell_the_last(&watch).await;
    }
    Ok(())
}

/// The places for attempts that this process' consumers have: none once it stops.
fn places(consumers: &[(StepName, Consumer)], shutdown: &CancellationToken) -> Places {
    let places: HashMap<_, _> = consumers.iter().map(|(step, consumer)| (step.clone(), consumer.places())).collect();
    let stopping = shutdown.clone();
    Arc::new(move |step| {
        let places = places.get(step).filter(|_| !stopping.is_cancelled())?;
        places.clone().try_acquire_owned().ok()
    })
}

/// How long handing back may take once the grace period is over.
const HAND_BACK: Duration = Duration::from_secs(2);

/// Ends what still runs when the grace period is over: each attempt settles as a defer, so that
/// nothing is counted.
async fn let_go_after(shutdown: CancellationToken, grace: Duration, leases: Arc<Leases>) {
    shutdown.cancelled().await;
    tokio::time::sleep(grace).await;
    leases.let_go();
}

/// What the last attempts heard is worth a moment, but not the grace period.
async fn tell_the_last<L: WorkerLedger>(watch: &Watch<L>) {
    if !matches!(tokio::time::timeout(Duration::from_secs(1), watch.tell()).await, Ok(Ok(_))) {
        tracing::debug!(host = %watch.host, "what the last attempts heard of the API was not told");
    }
}

/// What becomes of the hints of one step.
#[derive(Clone)]
struct Handler<L> {
    runner: Arc<AttemptRunner<L>>,
    queue: Queue,
    step: StepName,
}

impl<L: WorkerLedger> Handler<L> {
    /// One hint: an attempt, and those of the steps after it that this process goes on with.
    async fn handle(self, delivery: Delivery) {
        let Hint { key, trace } = &delivery.hint;
        let span = spans::process(&self.step, *key, trace.as_deref());
        let mut next = self.begin(delivery).instrument(span).await;
        while let Some(step) = next {
            let span = step.span.clone();
            next = self.go_on(*step).instrument(span).await;
        }
    }

    async fn begin(&self, mut delivery: Delivery) -> Option<Box<Next>> {
        let key = delivery.hint.key;
        let span = trace::of_attempt(&Span::current(), delivery.hint.trace.as_deref());
        let attempted = self.runner.attempt(Ask { key, span }, || delivery.acknowledge()).await.inspect_err(|error| {
            tracing::warn!(run = %key.run, position = key.position, %error, "cannot claim: the step is pushed again");
        });
        self.follow(attempted.ok()?).await
    }

    async fn go_on(&self, next: Next) -> Option<Box<Next>> {
        let attempted = self.runner.go_on(next).await.inspect_err(|error| {
            tracing::error!(%error, "cannot run the step: its lease will expire");
        });
        self.follow(attempted.ok()?).await
    }

    /// Pushes what became due by an attempt, or goes on with it.
    async fn follow(&self, attempted: Attempted) -> Option<Box<Next>> {
        match attempted {
            Attempted::CarriedOn(next) => return Some(next),
            Attempted::Settled { run, due } => {
                if !hand_on(&self.queue, run, due).await {
                    self.queue.wake_relay();
                }
            }
            Attempted::Refused(why) => {
                self.runner.metrics.count(&names::CLAIMS_REFUSED, [self.step.as_str(), why.as_str()], 1);
            }
            Attempted::Stale | Attempted::Overtaken => {}
        }
        None
    }
}

/// Pushes what became due; false where a relay is to look. What cannot be pushed now it pushes when
/// it may.
async fn hand_on<S: HintSink>(sink: &S, run: RunState, due: Option<Due>) -> bool {
    let Some(due) = due else { return run != RunState::Active };
    match queue::send(sink, std::slice::from_ref(&due), None).await {
        Ok(report) => report.left == 0,
        Err(error) => {
            tracing::debug!(run = %due.key.run, step = %due.step, %error, "not pushed: the relay does it");
            false
        }
    }
}

/// Keeps the leases of all attempts of this process, and its heartbeat: looks at each tick, and
/// where a renewal is wanted before its time. One that failed is made again at once, over a new
/// connection where its own was lost, and then at each tick: a worker whose session has ended, or
/// that has lost a lease, is alive only by the beat that follows.
async fn keep_alive<F>(leases: &Leases, renew: impl Fn() -> F, pulse: Pulse) -> Infallible
where
    F: Future<Output = ledger::Result<()>>,
{
    let mut tick = tokio::time::interval(RENEWAL_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut beat, mut said) = (None, Said::default());
    let mut failed = false;
    loop {
        if !failed {
            tokio::select! {
                biased;
                _ = tick.tick() => {}
                () = leases.wanted() => {}
            }
        }
        pulse.beat();
        if beat.is_some_and(|at: Instant| !leases.must_renew(at.elapsed())) {
            failed = false;
            continue;
        }
        let asked = Instant::now();
        match renew().await {
            Ok(()) => (beat, said, failed) = (Some(asked), Said::default(), false),
            Err(error) => {
                failed = !failed;
                if said.is_news(&error) {
                    tracing::warn!(%error, "cannot renew leases");
                }
            }
        }
    }
}

/// Shows how a consumer does among the metrics.
fn show(step: &StepName, status: watch::Receiver<Status>, vitals: &Vitals) {
    let step = step.to_string();
    vitals.metrics.read_from(move || {
        let status = status.borrow();
        let step = [step.as_str()];
        vec![
            Sample::of(&names::CONSUMER_UP, step, status.up),
            Sample::of(&names::CONSUMER_REBUILDS, step, status.rebuilds as f64),
            Sample::of(&names::CONSUMER_PANICS, step, status.panics as f64),
            Sample::of(&names::CONSUMER_ABANDONED, step, status.abandoned as f64),
            Sample::of(&names::CONSUMER_GARBLED, step, status.garbled as f64),
            Sample::of(&names::HINTS_HANDED_BACK, step, status.handed_back as f64),
        ]
    });
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use workflows::ids::RunId;

    use super::*;
    use crate::queue::{Error, Pushed};

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_that_failed_is_made_again_at_once_and_then_at_each_tick() {
        let (leases, began, asked) = (Leases::default(), Instant::now(), Mutex::new(Vec::new()));
        let renew = || {
            let mut asked = asked.lock();
            asked.push(began.elapsed().as_millis());
            std::future::ready(if (2..=4).contains(&asked.len()) { Err(ledger::Error::Panicked) } else { Ok(()) })
        };

        let beats = keep_alive(&leases, renew, Pulse::default());
        let _ = tokio::time::timeout(Duration::from_secs(6), beats).await;

        assert_eq!(*asked.lock(), [0, 2_500, 2_500, 3_000, 3_000, 5_500]);
    }

    /// A queue that answers every push so.
    struct Answering(fn() -> Result<Pushed, Error>);

    impl HintSink for Answering {
        async fn push(&self, _: &StepName, hints: &[Hint], _: Option<usize>) -> Result<Vec<Pushed>, Error> {
            hints.iter().map(|_| self.0()).collect()
        }
    }

    fn due() -> Option<Due> {
        let key = ledger::DueKey { run: RunId::new(uuid::Uuid::nil()), position: 1, generation: 1 };
        let (step, workflow) = ("verify".parse().unwrap(), "greeting".parse().unwrap());
        Some(Due { key, step, workflow, traceparent: None, linked: None })
    }

    #[tokio::test]
    async fn a_relay_is_woken_only_for_what_could_not_be_pushed() {
        let late = || Err(Error::Late { what: "push hints", after: Duration::from_secs(2) });
        let (takes, knows) = (Answering(|| Ok(Pushed::New)), Answering(|| Ok(Pushed::Known)));
        let (is_full, fails) = (Answering(|| Ok(Pushed::Left)), Answering(late));

        for (what, queue, run, due, is_done) in [
            ("a new hint", &takes, RunState::Active, due(), true),
            ("a hint that is there already", &knows, RunState::Active, due(), true),
            ("a queue that is full", &is_full, RunState::Active, due(), false),
            ("a push that fails", &fails, RunState::Active, due(), false),
            ("a run that waits", &takes, RunState::Active, None, false),
            ("a run that has ended", &takes, RunState::Succeeded, None, true),
        ] {
            assert_eq!(hand_on(queue, run, due).await, is_done, "{what}");
        }
    }
}
