//! What it costs when nobody signs up.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::{
    app::App,
    burst::warm_up,
    cpu::Cpu,
    stage::{Memory, Setup, Stage},
    tally::Tally,
};

#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    pub seconds: f64,
    /// Percent of one core.
    pub cpu: Cpu,
    /// Postgres and Redis with no role connected, in percent of one core.
    pub servers_alone: Cpu,
    pub transactions_per_second: f64,
    pub statements_per_second: Option<f64>,
    pub memory: Vec<Memory>,
}

/// After the first sign-ups, when all connections are open.
pub async fn idle(stage: &mut Stage, setup: &Setup, seconds: f64) -> Result<Idle> {
    let meter = stage.meter();
    let before = meter.read();
    tokio::time::sleep(Duration::from_secs_f64(seconds / 2.0)).await;
    let servers_alone = (meter.read() - before).percent_of_a_core(seconds / 2.0);

    stage.start(setup).await?;
    let mut app = App::connect(&setup.database, 2).await?;
    warm_up(&mut app).await?;
    // What a burst leaves to be tidied up.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let tally = Tally::begin(&mut stage.site, &setup.database, app.transactions).await?;
    let meter = stage.meter();
    let before = meter.read();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let cpu = (meter.read() - before).percent_of_a_core(seconds);
    let memory = stage.memory();
    stage.stop().await?;
    let counted = tally.end(&mut stage.site, app.transactions).await?;
    app.close().await?;
    Ok(Idle {
        seconds,
        cpu,
        servers_alone,
        transactions_per_second: counted.transactions as f64 / seconds,
        statements_per_second: counted.statements.map(|count| count as f64 / seconds),
        memory,
    })
}
