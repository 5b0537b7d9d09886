//! Users who come one by one: a steady stream, each sign-up a transaction of its own, and single
//! ones with nobody beside.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    app::{App, Way},
    burst::{Inside, warm_up},
    cpu::Cpu,
    site::Database,
    stage::{Roles, Setup, Stage},
    stats::{Latency, median},
    tally::{Counted, Tally},
};

/// Connections of the app: more than wait for their commits at 400 a second.
const CLIENTS: u32 = 24;
pub const LEAD_IN: f64 = 3.0;

#[derive(Clone, Debug, Serialize)]
pub struct Steady {
    pub roles: Roles,
    /// Sign-ups per second that were asked for, and that were sent.
    pub rate: f64,
    pub sent: f64,
    pub users: usize,
    /// CPU-seconds per 1,000.
    pub cpu: Cpu,
    /// From a sign-up's transaction to its row being `completed`, in milliseconds, by Postgres'
    /// clock.
    pub latency: Latency,
    /// What the app waits for its own transaction, in milliseconds.
    pub commit: Latency,
    /// From the last sign-up to the last user who is ready, in milliseconds: what has piled up.
    pub behind: f64,
    #[serde(flatten)]
    pub inside: Inside,
    /// The same stream with Sluice's trigger off and no role: the app's own part of the above.
    pub app: Option<Alone>,
    /// The same stream through the engine-free loop: its CPU-seconds per 1,000, and Postgres' for
    /// it.
    pub engine_free: Option<f64>,
}

impl Steady {
    /// The CPU, as a multiple of the engine-free loop's.
    pub fn times_the_loop(&self) -> Option<f64> {
        Some(self.cpu.total()? / self.engine_free?)
    }
}

/// The app without Sluice.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Alone {
    /// CPU-seconds of Postgres per 1,000 inserts.
    pub postgres: Option<f64>,
    pub commit: Latency,
    pub wal_records: Option<f64>,
}

/// `seconds` of a stream, after some that are not measured.
pub async fn stream(stage: &mut Stage, setup: &Setup, rate: f64, seconds: f64) -> Result<Steady> {
    stage.api.reset().await?;
    stage.start(setup).await?;
    let mut app = App::connect(&setup.database, CLIENTS).await?;
    warm_up(&mut app).await?;

    let tally = Tally::begin(&mut stage.site, &setup.database, app.transactions).await?;
    let mut meter = stage.meter();
    meter.excluded.push(app.look_pid());
    let lead_in = app.stream(rate, LEAD_IN).await?;
    let before = meter.read();
    let stream = app.stream(rate, seconds).await?;
    app.await_ready(&stream.users).await?;
    let cpu = (meter.read() - before).per_thousand(stream.users.len());
    app.await_ready(&lead_in.users).await?;
    let memory = stage.memory();
    stage.stop().await?;
    let ways = app.ways(&stream.users).await?;
    let counted = tally.end(&mut stage.site, app.transactions).await?;
    app.close().await?;

    let latencies: Vec<f64> = ways.iter().map(Way::milliseconds).collect();
    let last_ready = ways.last().context("nobody is ready")?.ready;
    let last_sign_up = ways.iter().map(|way| way.signed_up).fold(f64::MIN, f64::max);
    Ok(Steady {
        roles: setup.roles,
        rate,
        sent: stream.users.len() as f64 / stream.seconds,
        users: stream.users.len(),
        cpu,
        latency: Latency::of(&latencies),
        commit: Latency::of(&stream.commits),
        behind: (last_ready - last_sign_up) * 1000.0,
        inside: Inside::new(&counted, stream.users.len() + lead_in.users.len(), memory),
        app: None,
        engine_free: None,
    })
}

/// The app's own inserts, nobody served.
pub async fn alone(stage: &mut Stage, database: &Database, rate: f64, seconds: f64) -> Result<Alone> {
    let mut app = App::connect(database, CLIENTS).await?;
    app.run("alter table public.profiles disable trigger user").await?;
    app.warm().await?;
    let tally = Tally::begin(&mut stage.site, database, app.transactions).await?;
    let mut meter = stage.meter();
    meter.excluded.push(app.look_pid());
    let before = meter.read();
    let stream = app.stream(rate, seconds).await?;
    let cpu = (meter.read() - before).per_thousand(stream.users.len());
    let counted: Counted = tally.end(&mut stage.site, app.transactions).await?;
    app.close().await?;
    let wal_records = counted.wal_records.map(|records| records as f64 / stream.users.len() as f64);
    Ok(Alone { postgres: cpu.postgres, commit: Latency::of(&stream.commits), wal_records })
}

/// One user at a time.
#[derive(Clone, Debug, Serialize)]
pub struct Single {
    pub roles: Roles,
    pub users: usize,
    /// By Postgres' clock: from the sign-up's transaction to the row's `processed_at`. In
    /// milliseconds.
    pub latency: Latency,
    /// By the app's clock: from before the insert until another connection sees the row
    /// `completed`. In milliseconds.
    pub seen: Latency,
    /// Where nothing can be batched; with what Sluice does by the clock in that time.
    #[serde(flatten)]
    pub inside: Inside,
}

pub async fn single(stage: &mut Stage, setup: &Setup, users: usize) -> Result<Single> {
    stage.api.reset().await?;
    stage.start(setup).await?;
    let mut app = App::connect(&setup.database, 2).await?;
    warm_up(&mut app).await?;

    let tally = Tally::begin(&mut stage.site, &setup.database, app.transactions).await?;
    let mut served = Vec::new();
    for _ in 0..users {
        let user = app.one().await?;
        app.await_ready(&[user]).await?;
        served.push(user);
        // Not in step with anything that Sluice does by the clock.
        tokio::time::sleep(Duration::from_millis(rand::random_range(5..60))).await;
    }
    let ways: Vec<f64> = app.ways(&served).await?.iter().map(Way::milliseconds).collect();
    let first_look = Duration::from_secs_f64(median(&ways) / 2000.0);
    let mut seen = Vec::new();
    for _ in 0..users.div_ceil(4) {
        seen.push(app.watch_one(first_look).await?);
        tokio::time::sleep(Duration::from_millis(rand::random_range(5..60))).await;
    }
    let memory = stage.memory();
    stage.stop().await?;
    let counted = tally.end(&mut stage.site, app.transactions).await?;
    app.close().await?;
    let inside = Inside::new(&counted, users + seen.len(), memory);
    Ok(Single { roles: setup.roles, users, latency: Latency::of(&ways), seen: Latency::of(&seen), inside })
}
