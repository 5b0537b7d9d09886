//! The API is away for a while, in three ways one after another, while users sign up. No run dies
//! of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::{NO_QR, Scenario};
use crate::chaos::{
    Fault, Options, Report, hands,
    stage::{Layout, Stage},
};

const KINDS: [Fault; 3] = [Fault::ApiRefuses, Fault::ApiHangs, Fault::ApiFails];

pub(super) async fn run(options: &Options) -> Result<Report> {
    let each = options.users.unwrap_or(300).div_ceil(3);
    let lasts = Duration::from_secs(options.seconds.unwrap_or(20).into());
    let mut stage = Stage::start(options, Layout::WorkerPerStep, &[NO_QR]).await?;
    let mut notes = Vec::new();
    for fault in KINDS {
        let after = go_through(&mut stage, fault, each, lasts).await?;
        notes.push(format!("{fault}: {lasts:?} of it, all ready {after:.1} s after its end"));
    }

    let mut report = Report::of(Scenario::Outage, options.seed, each * 3, &stage).await?;
    notes.push(format!("{} attempts counted as failures", report.failures()));
    report.notes = notes;
    let dead = report.verdict.dead.clone();
    report.expect(dead.is_empty(), || format!("an outage made dead letters: {dead:?}"));
    report.expect_all_ready();
    report.expect_no_create_of_existing();
    Ok(report)
}

/// How many seconds after the outage's end the last user was ready.
async fn go_through(stage: &mut Stage, fault: Fault, users: u32, lasts: Duration) -> Result<f64> {
    let mut watch = stage.watch();
    let before = watch.counts().await.unwrap_or_default();
    let enough = before.ready + i64::from(users / 10);
    // Some are served before, some are under way, some sign up while it lasts.
    let signing = tokio::spawn(stage.sign_up(users, lasts));
    stage.wait_until(&mut watch, |counts| counts.ready >= enough).await?;
    stage.fleet.api.with(|world, _| world.faults_mut().outage = hands::outage(fault));
    sleep(lasts).await;
    stage.fleet.api.with(|world, _| world.faults_mut().outage = None);
    stage.record.injected(fault);
    let ended = SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?.as_secs_f64();
    signing.await??;
    stage.wait_for_all(&mut watch).await?;

    let mut session = stage.fleet.connect().await?;
    let last: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from max(processed_at))::float8 from public.evolution_instance_creation_queue",
    )
    .fetch_one(&mut session)
    .await
    .context("read when the last user became ready")?;
    Ok((last.unwrap_or(ended) - ended).max(0.0))
}
