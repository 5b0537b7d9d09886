//! One step kills whoever runs it: whichever process holds its lease is killed, again and again,
//! until the crash limit ends it as `worker_lost`. Its 31 neighbours share those processes and
//! become ready.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::PgConnection;
use tokio::time::sleep;
use uuid::Uuid;

use super::{NO_QR, Scenario};
use crate::{
    chaos::{
        Fault, Options, Report,
        stage::{Layout, Stage, insert},
    },
    evolution::{Route, Rule, Stage as When, When as Often},
};

/// Ten crashes, each after a lease and a pause.
const PATIENCE: Duration = Duration::from_secs(300);
/// The limits are the default ones; the pauses between crashes are shorter.
const SETTINGS: [(&str, &str); 3] = [NO_QR, ("RETRY_BASE", "100ms"), ("RETRY_CAP", "3s")];

pub(super) async fn run(options: &Options) -> Result<Report> {
    let good = options.users.unwrap_or(32).max(2) - 1;
    let layout = Layout::WholeWorkers { relays: 1, workers: 2 };
    let mut stage = Stage::start(options, layout, &SETTINGS).await?;
    let mut watch = stage.watch();
    let poison = Uuid::new_v4();
    slow_down(&stage, poison);

    let url = stage.fleet.database_url();
    insert(&url, &mut None, poison).await?;
    // New neighbours come as long as it goes on killing.
    let signing = tokio::spawn(stage.sign_up(good, Duration::from_secs(15)));
    kill_who_runs(&mut stage, poison).await?;
    signing.await??;
    stage.wait_for_all(&mut watch).await?;

    let mut report = Report::of(Scenario::Poison, options.seed, good + 1, &stage).await?;
    let ready = report.verdict.ready;
    report.expect(ready == good as usize, || format!("{ready} of {good} good users are ready"));
    let dead = report.verdict.dead.clone();
    let alone = dead.len() == 1 && dead.get("worker_lost") == Some(&1);
    report.expect(alone, || format!("the poison step alone should end as worker_lost, and these died: {dead:?}"));
    let mut session = stage.fleet.connect().await?;
    let died = state_of(&mut session, poison).await?;
    report.expect(died == "dead", || format!("the poison run is {died}"));
    report.expect_no_create_of_existing();
    Ok(report)
}

/// So that the poison is seen running, and its neighbours run beside it.
fn slow_down(stage: &Stage, poison: Uuid) {
    let rule = |name_prefix, ms| Rule {
        route: Some(Route::WebhookSet),
        name_prefix,
        when: Often::Always,
        fault: crate::evolution::Fault::Latency { ms, stage: When::BeforeWork },
    };
    stage.fleet.api.with(|world, _| {
        world.faults_mut().rules = vec![rule(None, 700), rule(Some(format!("user_{poison}")), 20_000)];
    });
}

async fn kill_who_runs(stage: &mut Stage, poison: Uuid) -> Result<()> {
    let mut session = stage.fleet.connect().await?;
    let began = Instant::now();
    while state_of(&mut session, poison).await? != "dead" {
        ensure!(began.elapsed() < PATIENCE, "the poison step was not given up within {PATIENCE:?}");
        if let Some(pid) = who_runs(&mut session, poison).await? {
            // It has its neighbours in hand by now.
            sleep(Duration::from_millis(200)).await;
            let processes = stage.fleet.parts().processes;
            if let Some(process) = processes.values_mut().find(|process| process.pid() == pid) {
                process.kill().await?;
                process.start_again()?;
                stage.record.injected(Fault::WorkerKilled);
                (stage.say)(&format!("   killed process {pid}, which ran the poison step"));
            }
        }
        stage.supervise()?;
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The process that holds the lease of the slow step: a worker's name ends with its process id and
/// a random number.
async fn who_runs(session: &mut PgConnection, poison: Uuid) -> Result<Option<u32>> {
    let worker: Option<String> = sqlx::query_scalar(
        "select step.worker
         from sluice.step
         join sluice.run on run.id = step.run_id
         where run.subject = $1
           and step.state = 'running'
           and step.name = 'configure-webhooks'",
    )
    .bind(poison.to_string())
    .fetch_optional(session)
    .await
    .context("ask who runs the poison step")?;
    let Some(worker) = worker else { return Ok(None) };
    let pid = worker.rsplit('-').nth(1).and_then(|pid| pid.parse().ok());
    Ok(Some(pid.with_context(|| format!("the worker's name {worker:?} holds no process id"))?))
}

async fn state_of(session: &mut PgConnection, poison: Uuid) -> Result<String> {
    let state: Option<String> = sqlx::query_scalar("select state from sluice.run where subject = $1")
        .bind(poison.to_string())
        .fetch_optional(session)
        .await
        .context("ask how the poison run is")?;
    Ok(state.unwrap_or_default())
}
