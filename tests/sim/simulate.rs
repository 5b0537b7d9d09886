//! One seed from start to end: the actors, the bad times, the quiet after them, and what came of
//! it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tests::ledger::Attempt;
use tokio::{runtime::Builder, time};
use workflows::state::RunState;

use crate::{
    checks,
    log::{Keep, Log},
    mishaps, people,
    plan::Plan,
    publisher, queue, relay,
    stage::Stage,
    worker,
};

/// How long everything may take to come to its end once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);
/// How many publish events.
const PUBLISHERS: usize = 2;
/// How long those who were overtaken have to do their harm.
const AFTERMATH: Duration = Duration::from_secs(70);

/// What came of one seed.
#[derive(Debug, PartialEq)]
pub struct Report {
    pub seed: u64,
    /// Broken invariants; empty where all is well.
    pub broken: Vec<String>,
    pub virtual_time: Duration,
    pub hits: BTreeMap<&'static str, u64>,
    pub quirks: BTreeMap<&'static str, u64>,
    pub lines: Vec<String>,
    /// Step and outcome of every attempt, in the order in which they ended.
    pub attempts: Vec<(String, String)>,
    /// How the runs ended, oldest first.
    pub states: Vec<RunState>,
}

/// Runs a plan in virtual time.
pub fn simulate(plan: Plan, keep: Keep) -> Report {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O can be built");
    runtime.block_on(run(plan, keep))
}

async fn run(plan: Plan, keep: Keep) -> Report {
    let seed = plan.seed;
    let log = Log::new(keep);
    log.note(|| format!("{plan:?}"));
    let stage = Stage::new(plan, log);
    raise(&stage).await;
    if stage.plan.script.is_empty() {
        time::sleep(stage.plan.bad_times).await;
    } else {
        wait_for_the_end(&stage).await;
    }
    mishaps::end(&stage);
    settle_down(&stage).await;
    let (hits, broken, lines) = stage.log.take();
    let quirks = stage.api.world(|world, _| world.journal().hits());
    let tables = stage.ledger.tables();
    let said = |attempt: &Attempt| (attempt.step.to_string(), attempt.ended.outcome.to_owned());
    let attempts = tables.attempts.iter().map(said).collect();
    let states = tables.runs.values().map(|run| run.state).collect();
    Report { seed, broken, virtual_time: stage.log.now(), hits, quirks, lines, attempts, states }
}

pub async fn raise(stage: &Arc<Stage>) {
    stage.spawn("the API", stage.api.clone().drive());
    stage.spawn("the sweep of the queue", queue::sweep(stage.clone()));
    for number in 0..stage.plan.relays {
        stage.spawn("a relay", relay::keep(stage.clone(), number));
    }
    for number in 0..stage.plan.workers {
        stage.spawn("a worker", worker::keep(stage.clone(), number));
    }
    for number in 0..PUBLISHERS {
        stage.spawn("a publisher", publisher::keep(stage.clone(), number));
    }
    stage.spawn("the checks", checks::watch(stage.clone()));
    people::sign_ups(stage.clone()).await;
    stage.spawn("the mishaps", mishaps::strike(stage.clone()));
}

pub async fn settle_down(stage: &Arc<Stage>) {
    wait_for_the_end(stage).await;
    people::tidy_up(stage).await;
    wait_for_the_end(stage).await;
    let frozen = stage.facts().workers.iter().any(|worker| worker.steady_for().is_zero());
    time::sleep(if frozen { AFTERMATH } else { Duration::from_secs(1) }).await;
    wait_for_the_end(stage).await;
    // Instances that a restart of the API has yet to load.
    time::sleep(Duration::from_secs(6)).await;
    wait_for_the_end(stage).await;
    let began = stage.log.now();
    while !checks::all_published(stage) && stage.log.now() - began < PATIENCE && !stage.log.is_broken() {
        time::sleep(Duration::from_secs(1)).await;
    }
    checks::end(stage);
}

pub async fn wait_for_the_end(stage: &Stage) {
    let began = stage.log.now();
    while !checks::all_ended(stage) && stage.log.now() - began < PATIENCE && !stage.log.is_broken() {
        time::sleep(Duration::from_secs(1)).await;
    }
}
