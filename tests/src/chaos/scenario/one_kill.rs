//! One SIGKILL of the only worker process when 40 % are done, and a new one at once, at default
//! settings: compared with an undisturbed run, no more than a lease and a moment are lost.

use std::time::Duration;

use anyhow::Result;

use super::Scenario;
use crate::chaos::{
    Fault, Options, Report,
    stage::{Layout, Stage},
};

/// A lease of 4 s, half a second until the relay looks, and what a start takes.
const MAY_COST: f64 = 6.0;

pub(super) async fn run(options: &Options) -> Result<Report> {
    let users = options.users.unwrap_or(1000);
    let (undisturbed, _) = serve(options, users, Kill::Nobody).await?;
    let (disturbed, stage) = serve(options, users, Kill::AtFortyPercent).await?;

    let mut report = Report::of(Scenario::OneKill, options.seed, users, &stage).await?;
    let difference = disturbed - undisturbed;
    report.notes.push(format!(
        "undisturbed {undisturbed:.1} s, with one kill {disturbed:.1} s: {difference:.1} s more, {MAY_COST:.0} s allowed"
    ));
    // Most of what came after the kill was work that was left: what the kill cost is the
    // difference.
    report.verdict.recovered_after = Some(difference.max(0.0));
    report.expect(difference <= MAY_COST, || format!("one kill costs {difference:.1} s"));
    report.expect_all_ready();
    report.expect_no_create_of_existing();
    Ok(report)
}

#[derive(PartialEq)]
enum Kill {
    Nobody,
    AtFortyPercent,
}

/// How long all users took, from the first sign-up to the last ready.
async fn serve(options: &Options, users: u32, kill: Kill) -> Result<(f64, Stage)> {
    let mut stage = Stage::start(options, Layout::WholeWorkers { relays: 1, workers: 1 }, &[]).await?;
    let mut watch = stage.watch();
    let signing = tokio::spawn(stage.sign_up(users, Duration::ZERO));
    if kill == Kill::AtFortyPercent {
        let enough = i64::from(users) * 2 / 5;
        stage.wait_until(&mut watch, |counts| counts.ready >= enough).await?;
        stage.fleet.replace("worker-1").await?;
        stage.record.injected(Fault::WorkerKilled);
    }
    signing.await??;
    stage.wait_for_all(&mut watch).await?;
    let report = Report::of(Scenario::OneKill, options.seed, users, &stage).await?;
    Ok((report.verdict.seconds, stage))
}
