//! Worker processes: the real attempt runner and the real leases; consuming, renewing and dying as
//! the role does it.

use std::{sync::Arc, time::Duration};

use sluice::{
    ledger::{self, Ask, Due},
    queue,
    telemetry::health::Pulse,
    worker::{AttemptRunner, Attempted, Deps, Places},
};
use tokio::{
    sync::Semaphore,
    task::AbortHandle,
    time::{self, Instant, MissedTickBehavior},
};
use workflows::{breaker::Rules, definition::RENEWAL_TICK, ids::StepName, state::RunState};

use crate::{chance::Chance, connection::Connection, process::Process, queue::Line, stage::Stage, weather::Pusher};

/// How long a worker waits for the bell of its queue before it looks by itself.
const POLL: Duration = Duration::from_secs(5);

type Runner = AttemptRunner<Connection>;

/// Keeps a worker running: whenever it is killed, another starts a little later.
pub async fn keep(stage: Arc<Stage>, number: usize) {
    let chance = stage.chance(&format!("supervisor of worker {number}"));
    for life in 0_u32.. {
        let process = Process::start(format!("worker-{number}.{life}"), stage.log.clone());
        stage.facts().workers.push(process.clone());
        let tasks = start(&stage, &process);
        process.killed().await;
        // Behind a transaction pooler nobody hears of it.
        if chance.percent(75) {
            stage.ledger.end_session(&process.name);
        }
        for task in tasks {
            task.abort();
        }
        stage.facts().workers.retain(|other| !Arc::ptr_eq(other, &process));
        time::sleep(chance.millis(50, 5_000)).await;
    }
}

fn start(stage: &Arc<Stage>, process: &Arc<Process>) -> Vec<AbortHandle> {
    let dice = stage.chance(&format!("{} dice", process.name));
    let deps = Deps {
        ledger: Connection::new(stage.clone(), process.clone(), "ledger"),
        leases: Connection::new(stage.clone(), process.clone(), "leases"),
        queue: (),
        catalog: stage.catalog(process),
        vitals: Default::default(),
    };
    let me = ledger::Worker { name: process.name.clone() };
    let dice = Arc::new(move || dice.share());
    let runner = Arc::new(Runner::new(deps, me, Rules::default(), dice, places(stage, process)));
    let mut tasks = vec![stage.spawn("renewals", renew(runner.clone(), process.clone()))];
    for watch in runner.watches() {
        tasks.push(stage.spawn("the watch over the host", async move { match watch.run(Pulse::default()).await {} }));
    }
    for step in stage.registry.queues() {
        for slot in 0..stage.plan.slots {
            let consumer = Consumer {
                chance: stage.chance(&format!("{} {step} {slot}", process.name)),
                line: Line::new(Pusher::Worker, stage.clone(), process.clone(), &format!("queue of {step} {slot}")),
                stage: stage.clone(),
                process: process.clone(),
                runner: runner.clone(),
                step: step.clone(),
            };
            tasks.push(stage.spawn("a consumer", consumer.run()));
        }
    }
    tasks
}

/// Half of the attempts that could be gone on from find no place for the next step.
fn places(stage: &Stage, process: &Process) -> Places {
    let chance = stage.chance(&format!("{} places", process.name));
    let places = Arc::new(Semaphore::new(stage.plan.slots));
    Arc::new(move |_| places.clone().try_acquire_owned().ok().filter(|_| chance.percent(50)))
}

async fn renew(runner: Arc<Runner>, process: Arc<Process>) {
    let mut tick = time::interval(RENEWAL_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beat: Option<Instant> = None;
    let mut failed = false;
    loop {
        if !failed {
            tokio::select! {
                biased;
                _ = tick.tick() => {}
                () = runner.leases.wanted() => {}
            }
        }
        process.pass().await;
        if beat.is_some_and(|at| !runner.leases.must_renew(at.elapsed())) {
            failed = false;
            continue;
        }
        let asked = Instant::now();
        if runner.renew_once().await.is_ok() {
            (beat, failed) = (Some(asked), false);
        } else {
            failed = !failed;
        }
    }
}

/// One place of one queue.
struct Consumer {
    stage: Arc<Stage>,
    process: Arc<Process>,
    runner: Arc<Runner>,
    line: Line,
    step: StepName,
    chance: Chance,
}

impl Consumer {
    async fn run(self) {
        loop {
            self.once().await;
        }
    }

    async fn once(&self) {
        let Self { stage, process, runner, step, chance, .. } = self;
        process.pass().await;
        let away = stage.weather.queue_is_away();
        let Some(hint) = (!away).then(|| stage.redis.fetch(process, step)).flatten() else {
            stage.redis.wait(step, POLL).await;
            return;
        };
        // Between the fetch and the claim, a process may die with the hint in its hands.
        time::sleep(chance.millis(1, 3)).await;
        let ask = Ask { key: hint.key, span: None };
        let mut attempted = runner.attempt(ask, || stage.redis.acknowledge(process, &hint)).await;
        while let Ok(Attempted::CarriedOn(next)) = attempted {
            attempted = runner.go_on(*next).await;
        }
        match attempted {
            Ok(Attempted::Settled { run, due }) => self.hand_on(run, due).await,
            Ok(Attempted::Overtaken) => stage.log.hit("attempt.overtaken"),
            Ok(Attempted::CarriedOn(_) | Attempted::Refused(_) | Attempted::Stale) => {}
            Err(_) => {
                // A delivery that is dropped is acknowledged.
                stage.redis.acknowledge(process, &hint);
                stage.log.hit("claim.failed");
            }
        }
    }

    /// Pushes what became due. What cannot be pushed now a relay pushes when it may.
    async fn hand_on(&self, run: RunState, due: Option<Due>) {
        let pushed = match &due {
            Some(due) => {
                queue::send(&self.line, std::slice::from_ref(due), None).await.is_ok_and(|sent| sent.left == 0)
            }
            None => run != RunState::Active,
        };
        if !pushed && !self.stage.weather.queue_is_away() {
            self.stage.relay_bell.notify_one();
        }
    }
}
