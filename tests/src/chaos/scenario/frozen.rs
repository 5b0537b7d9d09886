//! The one hole in I3, made on purpose. The API holds the creates of one worker, that worker stands
//! still past its lease, and another one creates the same names: beside the held ones, before them,
//! or in the middle of them, after the look at the name and before the row. The last kind takes a
//! good instance away after its run has succeeded, and nobody but the worker that stood still can
//! know. Every user still ends with exactly one good instance.

use std::{collections::BTreeSet, time::Duration};

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
/// So that the worker which has most has one of each kind.
const FEWEST: u32 = 6;
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than it takes; what is held is let go by hand.
const HELD_MS: u64 = 600_000;

pub(super) async fn run(options: &Options) -> Result<Report> {
    let count = options.users.unwrap_or(12).clamp(FEWEST, MOST);
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
        finish(&stage, name, &at_work(&stage, name, 1).await?[..1]).await?;
    }
    let met = meet(&stage, &mut session, &names).await;
    // Whatever came of it: nobody stays frozen.
    process(&mut stage, worker)?.resume()?;
    stage.record.frozen(Frozen { pid: worker, from, to: Moment::now(&stage.fleet.api) });
    stage.record.injected(Fault::WorkerFrozen);
    met?;
    looked_at_again(&mut session, names.len()).await?;
    let mut watch = stage.watch();
    stage.wait_for_all(&mut watch).await?;
    report(options, count, &names, &stage).await
}

async fn report(options: &Options, users: u32, names: &[String], stage: &Stage) -> Result<Report> {
    let mut report = Report::of(Scenario::Frozen, options.seed, users, stage).await?;
    let (held, met) = (names.len(), report.verdict.overlaps_of_frozen);
    let taken = stage.fleet.api.with(|world, _| {
        let destroyed = world.journal().destroyed().filter(|gone| gone.answered_201);
        destroyed.map(|gone| gone.name.clone()).collect::<BTreeSet<_>>()
    });
    report.notes.push(format!(
        "the known hole: {held} creates of a frozen worker were held, {met} calls met one of them, {} good instances were \
         destroyed meanwhile and brought back",
        taken.len()
    ));
    report.expect(met >= held as u64, || format!("{held} creates were held, and only {met} calls met one"));
    let missed =
        names.iter().enumerate().filter(|(number, name)| Kind::of(*number) == Kind::Within && !taken.contains(*name));
    let missed: Vec<_> = missed.map(|(_, name)| name.as_str()).collect();
    report.expect(missed.is_empty(), || format!("the late creates of {missed:?} were to destroy what had succeeded"));
    report.expect_all_ready();
    report.expect_no_create_of_existing();
    Ok(report)
}

/// How two creates of one name meet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Both go on at once.
    Beside,
    /// The frozen worker's comes when the other has finished.
    After,
    /// The frozen worker's has found the name free, and its row comes when the other's run has
    /// succeeded.
    Within,
}

impl Kind {
    fn of(number: usize) -> Self {
        [Self::Within, Self::After, Self::Beside][number % 3]
    }
}

/// The first two creates of each name wait at the API, and the first once more before its row.
fn hold(stage: &Stage, names: &[String]) {
    let rule =
        |name: &String, when, fault| Rule { route: Some(Route::Create), name_prefix: Some(name.clone()), when, fault };
    let rules = names.iter().flat_map(|name| {
        let arrival = Hold::Latency { ms: HELD_MS, stage: When::BeforeWork };
        [rule(name, Often::Next(2), arrival), rule(name, Often::Next(1), Hold::LateRow { ms: HELD_MS })]
    });
    stage.fleet.api.with(|world, _| world.faults_mut().rules = rules.collect());
}

/// Another worker's create of each name comes while the frozen one's is held.
async fn meet(stage: &Stage, session: &mut PgConnection, names: &[String]) -> Result<()> {
    for (number, name) in names.iter().enumerate() {
        let calls = at_work(stage, name, 2).await?;
        let (frozen, other) = calls.split_at(1);
        match Kind::of(number) {
            Kind::Beside => finish(stage, name, &calls).await?,
            Kind::After => {
                finish(stage, name, other).await?;
                succeeded(session, name).await?;
                finish(stage, name, frozen).await?;
            }
            Kind::Within => {
                let checked = until(PATIENCE, async || {
                    stage.fleet.api.with(|world, _| {
                        let checked = world.has_checked(frozen[0]);
                        if !checked {
                            world.let_go(frozen[0]);
                        }
                        checked.then_some(())
                    })
                });
                checked.await.with_context(|| format!("the create of {name} did not look at the name"))?;
                finish(stage, name, other).await?;
                succeeded(session, name).await?;
                finish(stage, name, frozen).await?;
            }
        }
    }
    Ok(())
}

/// The creates of this name at the API, the oldest first, once there are so many.
async fn at_work(stage: &Stage, name: &str, count: usize) -> Result<Vec<Ticket>> {
    let calls = until(PATIENCE, async || {
        Some(stage.fleet.api.with(|world, _| world.at_work(name))).filter(|calls| calls.len() >= count)
    });
    calls.await.with_context(|| format!("{count} creates of {name} did not come within {PATIENCE:?}"))
}

/// Lets these calls go, wherever they are held, until the API has finished them.
async fn finish(stage: &Stage, name: &str, calls: &[Ticket]) -> Result<()> {
    let over = until(PATIENCE, async || {
        stage.fleet.api.with(|world, _| {
            let at_work = world.at_work(name);
            let left: Vec<_> = calls.iter().filter(|call| at_work.contains(call)).collect();
            left.iter().for_each(|call| world.let_go(**call));
            left.is_empty().then_some(())
        })
    });
    over.await.with_context(|| format!("the API did not finish the creates of {name}"))
}

/// The worker that stood still has said of what it had in hand that it is in doubt, and a run has
/// begun there.
async fn looked_at_again(session: &mut PgConnection, held: usize) -> Result<()> {
    let looks = until(PATIENCE, async || {
        let looks = sqlx::query_scalar("select count(*) from sluice.run where internal");
        let looks: i64 = looks.fetch_one(&mut *session).await.ok()?;
        (looks >= held as i64).then_some(())
    });
    looks.await.with_context(|| format!("{held} instances were in doubt, and not all were looked at again"))
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

async fn succeeded(session: &mut PgConnection, name: &str) -> Result<()> {
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
