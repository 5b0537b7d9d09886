//! Redis is wiped three times in the middle of a burst. All become ready, each with one 201, and
//! nobody mends anything.

use std::time::Duration;

use anyhow::Result;

use super::{NO_QR, Scenario};
use crate::chaos::{
    Fault, Options, Report,
    stage::{Layout, Stage},
};

pub(super) async fn run(options: &Options) -> Result<Report> {
    let users = options.users.unwrap_or(1000);
    let mut stage = Stage::start(options, Layout::WorkerPerStep, &[NO_QR]).await?;
    let mut watch = stage.watch();
    let signing = tokio::spawn(stage.sign_up(users, Duration::ZERO));

    for share in [0.2, 0.4, 0.6] {
        let enough = (f64::from(users) * share) as i64;
        stage.wait_until(&mut watch, |counts| counts.ready >= enough).await?;
        stage.fleet.redis.flush_all().await?;
        stage.record.injected(Fault::RedisWiped);
    }
    signing.await??;
    stage.wait_for_all(&mut watch).await?;

    let mut report = Report::of(Scenario::Flushall, options.seed, users, &stage).await?;
    report.expect_all_ready();
    report.expect_no_create_of_existing();
    Ok(report)
}
