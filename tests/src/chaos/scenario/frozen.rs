//! The one hole in I3, made on purpose. The API holds the creates of one worker, that worker stands still past its lease, and
//! another one creates the same names: half of them while the first create is held, half beside it. Every user still ends
//! with exactly one good instance, or is counted as left by the hole.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{NO_QR, Scenario};
use crate::{
    chaos::{
        Fault, Options, Report,
        record::{Frozen, Moment},
        stage::{Layout, Stage, insert},
    },
    evolution::{Fault as Hold, Route, Rule, Stage as When, Ticket, When as Often},
    servers::{Process, until},
};

/// All of them are held at once, and a worker takes 50: more would wait behind those for ever.
const MOST: u32 = 40;
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than it takes; what is held is let go by hand.
const HELD_MS: u64 = 600_000;

pub(super) async fn run(options: &Options) -> Result<Report> {
    let count = options.users.unwrap_or(8).min(MOST);
    let mut stage = Stage::start(options, Layout::WholeWorkers { relays: 1, workers: 2 }, &[NO_QR]).await?;
    let users: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
    let all: Vec<String> = users.iter().map(|user| format!("user_{user}")).collect();
    hold(&stage, &all);
    let (url, mut session) = (stage.fleet.database_url(), None);
    for user in users {
        insert(&url, &mut session, user).await?;
    }
    for name in &all {
        at_work(&stage, name, 1).await?;
    }

    let mut session = stage.fleet.connect().await?;
    let (worker, names) = who_has_most(&mut session).await?;
    let from = Moment::now(&stage.fleet.api);
    process(&mut stage, worker)?.pause()?;
    for name in all.iter().filter(|name| !names.contains(name)) {
        let_go(&stage, &at_work(&stage, name, 1).await?);
    }
    let met = meet(&stage, &mut session, &names).await;
    // Whatever came of it: nobody stays frozen.
    process(&mut stage, worker)?.resume()?;
    stage.record.frozen(Frozen { pid: worker, from, to: Moment::now(&stage.fleet.api) });
    stage.record.injected(Fault::WorkerFrozen);
    met?;
    let mut watch = stage.watch();
    stage.wait_for_all(&mut watch).await?;
    report(options, count, names.len(), &stage).await
}

async fn report(options: &Options, users: u32, held: usize, stage: &Stage) -> Result<Report> {
    let mut report = Report::of(Scenario::Frozen, options.seed, users, stage).await?;
    let (met, left) = (report.overlaps_of_frozen, report.left_by_frozen.len());
    let destroyed =
        stage.fleet.api.with(|world, _| world.journal().destroyed().filter(|gone| gone.answered_201).count());
    report.notes.push(format!(
        "the known hole: {held} creates of a frozen worker were held, {met} calls met one of them, {destroyed} answered \
         instances were destroyed meanwhile, {left} were left so"
    ));
    report.expect(met >= held as u64, || format!("{held} creates were held, and only {met} calls met one"));
    report.expect_all_ready();
    report.expect_no_create_of_existing();
    Ok(report)
}

/// The first two creates of each name wait at the API.
fn hold(stage: &Stage, names: &[String]) {
    let rules = names.iter().map(|name| Rule {
        route: Some(Route::Create),
        name_prefix: Some(name.clone()),
        when: Often::Next(2),
        fault: Hold::Latency { ms: HELD_MS, stage: When::BeforeWork },
    });
    stage.fleet.api.with(|world, _| world.faults_mut().rules = rules.collect());
}

/// Another worker's create of each name comes while the frozen one's is held. Then both go on at once, or the frozen one's
/// comes after the other worker has finished.
async fn meet(stage: &Stage, session: &mut PgConnection, names: &[String]) -> Result<()> {
    for (number, name) in names.iter().enumerate() {
        let calls = at_work(stage, name, 2).await?;
        if number % 2 == 0 {
            let_go(stage, &calls);
        } else {
            let_go(stage, &calls[1..]);
            finished(session, name).await?;
            let_go(stage, &calls[..1]);
        }
    }
    let over = until(PATIENCE, async || {
        let at_work = |name: &String| stage.fleet.api.with(|world, _| !world.at_work(name).is_empty());
        (!names.iter().any(at_work)).then_some(())
    });
    over.await.context("the API did not finish the creates that met")
}

/// The creates of this name at the API, the oldest first, once there are so many.
async fn at_work(stage: &Stage, name: &str, count: usize) -> Result<Vec<Ticket>> {
    let calls = until(PATIENCE, async || {
        Some(stage.fleet.api.with(|world, _| world.at_work(name))).filter(|calls| calls.len() >= count)
    });
    calls.await.with_context(|| format!("{count} creates of {name} did not come within {PATIENCE:?}"))
}

fn let_go(stage: &Stage, calls: &[Ticket]) {
    stage.fleet.api.with(|world, _| calls.iter().for_each(|call| world.let_go(*call)));
}

/// The process whose worker has most creates in hand, and their names.
async fn who_has_most(session: &mut PgConnection) -> Result<(u32, Vec<String>)> {
    let (worker, names): (String, Vec<String>) = sqlx::query_as(
        "select step.worker, array_agg(run.resource)
         from sluice.step
         join sluice.run on run.id = step.run_id
         where step.state = 'running'
           and step.name = 'create-instance'
         group by step.worker
         order by count(*) desc
         limit 1",
    )
    .fetch_one(session)
    .await
    .context("ask who has creates in hand")?;
    let pid = worker.rsplit('-').nth(1).and_then(|pid| pid.parse().ok());
    Ok((pid.with_context(|| format!("the worker's name {worker:?} holds no process id"))?, names))
}

fn process(stage: &mut Stage, pid: u32) -> Result<&mut Process> {
    let mut processes = stage.fleet.parts().processes.values_mut();
    processes.find(|process| process.pid() == pid).with_context(|| format!("no process of this fleet is {pid}"))
}

async fn finished(session: &mut PgConnection, name: &str) -> Result<()> {
    let completed = until(PATIENCE, async || {
        let state: Option<String> = sqlx::query_scalar("select state from sluice.run where resource = $1")
            .bind(name)
            .fetch_optional(&mut *session)
            .await
            .ok()?;
        state.filter(|state| state != "active")
    });
    let state = completed.await.with_context(|| format!("the run on {name} did not end within {PATIENCE:?}"))?;
    ensure!(state == "succeeded", "the run on {name} is {state} while its first create is held");
    Ok(())
}
