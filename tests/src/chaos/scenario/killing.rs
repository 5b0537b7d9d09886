//! Every worker and every relay dies every 300 ms, for a minute, while users sign up; then, for
//! half as long, one of them in turn, so that each lives long enough to have work in hand.
//! Afterwards all become ready.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{NO_QR, Scenario};
use crate::{
    chaos::{
        Fault, Options, Report,
        record::Record,
        stage::{Layout, Stage, Watch},
    },
    servers::Process,
};

const EVERY: Duration = Duration::from_millis(300);

pub(super) async fn run(options: &Options) -> Result<Report> {
    let users = options.users.unwrap_or(500);
    let over = Duration::from_secs(options.seconds.unwrap_or(60).into());
    let mut stage = Stage::start(options, Layout::WorkerPerStep, &[NO_QR]).await?;
    let mut watch = stage.watch();
    let signing = tokio::spawn(stage.sign_up(users, over.mul_f64(1.4)));

    kill(&mut stage, &mut watch, Who::All, over).await?;
    kill(&mut stage, &mut watch, Who::InTurn, over / 2).await?;
    signing.await??;
    stage.wait_for_all(&mut watch).await?;

    let mut report = Report::of(Scenario::Killing, options.seed, users, &stage).await?;
    report.expect_all_ready();
    report.expect_no_create_of_existing();
    Ok(report)
}

#[derive(Clone, Copy)]
enum Who {
    All,
    InTurn,
}

async fn kill(stage: &mut Stage, watch: &mut Watch, who: Who, over: Duration) -> Result<()> {
    let began = Instant::now();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0.. {
        tick.tick().await;
        if began.elapsed() >= over {
            break;
        }
        let processes = stage.fleet.parts().processes;
        let turn = round % processes.len().max(1);
        let doomed = processes.iter_mut().enumerate().filter(|(at, _)| matches!(who, Who::All) || *at == turn);
        let doomed: Vec<_> = doomed.map(|(_, process)| process).collect();
        try_join_all(doomed.into_iter().map(|(name, process)| kill_one(name, process, &stage.record))).await?;
        watch.counts().await;
    }
    Ok(())
}

async fn kill_one(name: &str, process: &mut Process, record: &Record) -> Result<()> {
    process.kill().await?;
    process.start_again()?;
    let is_relay = name.starts_with("relay");
    record.injected(if is_relay { Fault::RelayKilled } else { Fault::WorkerKilled });
    Ok(())
}
