//! Every worker and every relay dies every 300 ms, for a minute, while users sign up. Afterwards all become ready.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{NO_QR, Scenario};
use crate::chaos::{
    Fault, Options, Report,
    stage::{Layout, Stage},
};

const EVERY: Duration = Duration::from_millis(300);

pub(super) async fn run(options: &Options) -> Result<Report> {
    let users = options.users.unwrap_or(500);
    let over = Duration::from_secs(options.seconds.unwrap_or(60).into());
    let mut stage = Stage::start(options, Layout::WorkerPerStep, &[NO_QR]).await?;
    let mut watch = stage.watch();
    let signing = tokio::spawn(stage.sign_up(users, over.mul_f64(0.9)));

    let began = Instant::now();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while began.elapsed() < over {
        tick.tick().await;
        kill_all(&mut stage).await?;
        watch.counts().await;
    }
    signing.await??;
    stage.wait_for_all(&mut watch).await?;

    let mut report = Report::of(Scenario::Killing, options.seed, users, &stage).await?;
    report.expect_all_ready();
    report.expect_no_create_of_existing();
    Ok(report)
}

async fn kill_all(stage: &mut Stage) -> Result<()> {
    let processes = stage.fleet.parts().processes;
    try_join_all(processes.values_mut().map(|process| process.kill())).await?;
    for (name, process) in processes {
        process.start_again()?;
        let is_relay = name.starts_with("relay");
        stage.record.injected(if is_relay { Fault::RelayKilled } else { Fault::WorkerKilled });
    }
    Ok(())
}
