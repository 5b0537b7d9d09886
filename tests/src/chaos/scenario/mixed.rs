//! Everything at random, drawn from the seed: SIGKILL every few hundred milliseconds, and Redis,
//! Postgres, the API and RabbitMQ with troubles of their own beside it.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::{NO_QR, Scenario};
use crate::chaos::{
    Options, Report, Schedule, hands, hold,
    stage::{Layout, Stage, Watch},
};

pub(super) async fn run(options: &Options) -> Result<Report> {
    let users = options.users.unwrap_or(1000);
    let over = Duration::from_secs(options.seconds.unwrap_or(120).into());
    let schedule = Schedule::draw(options.seed, over);
    let mut stage = Stage::start(options, Layout::WholeWorkers { relays: 2, workers: 3 }, &[NO_QR]).await?;
    stage.announce().await?;
    let (url, record) = (stage.fleet.database_url(), stage.record.clone());
    hold::install(&url).await?;
    let mut watch = stage.watch();

    let signing = tokio::spawn(stage.sign_up(users, over.mul_f64(0.9)));
    tokio::select! {
        carried_out = hands::carry_out(&schedule, stage.fleet.parts(), &url, &record) => carried_out?,
        () = look_on(&mut watch) => {}
    }
    signing.await??;
    stage.wait_for_all(&mut watch).await?;

    let mut report = Report::of(Scenario::Mixed, options.seed, users, &stage).await?;
    report.expect_all_ready();
    report.expect_no_create_of_existing();
    Ok(report)
}

async fn look_on(watch: &mut Watch) {
    loop {
        watch.counts().await;
        sleep(Duration::from_millis(500)).await;
    }
}
