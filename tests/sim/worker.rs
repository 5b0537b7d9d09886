//! Worker processes: the real bench of attempts and the real leases; consuming, renewing and dying as the role does it.

use std::{sync::Arc, time::Duration};

use sluice::{
    ledger::{self, Key},
    telemetry::health::Pulse,
    worker::{Attempted, Bench, Deps, Leases},
};
use tokio::{
    task::AbortHandle,
    time::{self, MissedTickBehavior},
};
use workflows::{breaker::Rules, definition::RENEWAL, ids::StepName};

use crate::{
    chance::Chance,
    client::Client,
    connection::Connection,
    process::Process,
    stage::{HOST, Stage},
};

/// How long a worker waits for the bell of its queue before it looks by itself.
const POLL: Duration = Duration::from_secs(5);
/// How long a worker may be silent before what it fetched is handed back.
const SILENT: Duration = Duration::from_secs(5);

type SimBench = Bench<Connection, Client>;

/// Keeps a worker running: whenever it is killed, another starts a little later.
pub async fn keep(stage: Arc<Stage>, number: usize) {
    let chance = stage.chance(&format!("supervisor of worker {number}"));
    for life in 0_u32.. {
        let process = Process::start(format!("worker-{number}.{life}"), stage.log.clone());
        stage.facts().workers.push(process.clone());
        let tasks = start(&stage, &process);
        process.killed().await;
        for task in tasks {
            task.abort();
        }
        stage.facts().workers.retain(|other| !Arc::ptr_eq(other, &process));
        hand_back_later(&stage, process);
        time::sleep(chance.millis(50, 5_000)).await;
    }
}

fn start(stage: &Arc<Stage>, process: &Arc<Process>) -> Vec<AbortHandle> {
    let dice = stage.chance(&format!("{} dice", process.name));
    let deps = Deps {
        ledger: Connection::new(stage.clone(), process.clone(), "ledger"),
        leases: Connection::new(stage.clone(), process.clone(), "leases"),
        queue: (),
        api: Client::new(stage.clone(), process.clone()),
        settings: stage.settings.clone(),
        registry: stage.registry.clone(),
        vitals: Default::default(),
    };
    let me = ledger::Worker { name: process.name.clone(), host: Some(HOST.to_owned()) };
    let bench =
        Arc::new(Bench::new(deps, me, Arc::new(Leases::default()), Rules::default(), Arc::new(move || dice.share())));
    let watch = bench.watch().expect("a worker with a host watches it");
    let mut tasks = vec![stage.spawn("renewals", renew(bench.clone(), process.clone()))];
    tasks.push(stage.spawn("the watch over the host", async move { watch.run(Pulse::default()).await }));
    for step in stage.registry.queues() {
        for slot in 0..stage.plan.slots {
            let chance = stage.chance(&format!("{} {step} {slot}", process.name));
            let consumer = consume(stage.clone(), process.clone(), bench.clone(), step.clone(), chance);
            tasks.push(stage.spawn("a consumer", consumer));
        }
    }
    tasks
}

async fn renew(bench: Arc<SimBench>, process: Arc<Process>) {
    let mut tick = time::interval(RENEWAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        process.pass().await;
        let _ = bench.renew_once().await;
    }
}

async fn consume(stage: Arc<Stage>, process: Arc<Process>, bench: Arc<SimBench>, step: StepName, chance: Chance) {
    loop {
        process.pass().await;
        let away = stage.weather.queue_is_away();
        let Some(hint) = (!away).then(|| stage.redis.fetch(&process, &step)).flatten() else {
            stage.redis.wait(&step, POLL).await;
            continue;
        };
        // Between the fetch and the claim, a process may die with the hint in its hands.
        time::sleep(chance.millis(1, 3)).await;
        let key = Key { run: hint.run, position: hint.position, token: hint.token };
        let attempted = bench.attempt(key, || stage.redis.acknowledge(&process, &hint)).await;
        match attempted {
            Ok(Attempted::Settled(_) | Attempted::PutBack(_)) => {
                if !stage.weather.queue_is_away() {
                    stage.relay_bell.notify_one();
                }
            }
            Ok(Attempted::Overtaken) => stage.log.hit("attempt.overtaken"),
            Ok(Attempted::Stale) => {}
            Err(_) => {
                // A delivery that is dropped is acknowledged.
                stage.redis.acknowledge(&process, &hint);
                stage.log.hit("claim.failed");
            }
        }
    }
}

fn hand_back_later(stage: &Arc<Stage>, process: Arc<Process>) {
    let on = stage.clone();
    stage.spawn("a sweep", async move {
        time::sleep(SILENT).await;
        on.redis.hand_back(&process);
    });
}
