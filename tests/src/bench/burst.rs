//! Many users at once: how many are ready per second, and what each costs. Contenders take turns,
//! round by round, so that whatever else the machine does hits all of them.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    app::App,
    bare::Bare,
    cpu::Cpu,
    stage::{Memory, Setup, Stage},
    stats::median,
    tally::{Counted, Tally},
};

/// What is acknowledged and tidied after the last user is ready counts too.
const GRACE: Duration = Duration::from_millis(500);

/// One of those who take turns.
pub struct Contender {
    pub name: String,
    pub runs: Runs,
}

pub enum Runs {
    Sluice(Setup),
    Loop(Bare),
}

/// One burst.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// From the commit of the sign-ups to the last user who is ready.
    pub per_second: f64,
    /// From before the sign-ups' insert, which is the app's.
    pub per_second_with_insert: f64,
    /// CPU-seconds per 1,000.
    pub cpu: Cpu,
    /// Calls of the API per sign-up.
    pub calls: f64,
    /// Nothing for the loop.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub sluice: Option<Inside>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Inside {
    pub statements: Option<f64>,
    pub transactions: f64,
    pub wal_records: Option<f64>,
    pub wal_bytes: f64,
    pub deadlocks: i64,
    pub memory: Vec<Memory>,
}

/// All rounds of a contender.
#[derive(Clone, Debug, Serialize)]
pub struct Burst {
    pub name: String,
    pub users: usize,
    /// Medians over the rounds.
    pub per_second: f64,
    pub cpu: Cpu,
    /// The rate as a share of the engine-free loop's, round by round; the median.
    pub ratio: Option<f64>,
    pub rounds: Vec<Round>,
}

/// The first contender that is a loop is what the others are measured against.
pub async fn contest(stage: &mut Stage, contenders: &[Contender], users: usize, rounds: usize) -> Result<Vec<Burst>> {
    let mut all = vec![Vec::new(); contenders.len()];
    for round in 0..rounds {
        for step in 0..contenders.len() {
            // Whoever goes first may find a colder machine.
            let index = (step + round) % contenders.len();
            let (Some(contender), Some(mine)) = (contenders.get(index), all.get_mut(index)) else { continue };
            let result = once(stage, &contender.runs, users).await;
            let result = result.with_context(|| format!("{}: a burst of {users}", contender.name))?;
            let total = result.cpu.total().map_or(String::new(), |total| format!(", {total:.2} CPU-s per 1,000"));
            let (number, rate) = (round + 1, result.per_second);
            (stage.say)(&format!("   {}, round {number} of {rounds}: {rate:.0}/s{total}", contender.name));
            mine.push(result);
        }
    }
    let bare = contenders.iter().position(|contender| matches!(contender.runs, Runs::Loop(_)));
    let bare = bare.and_then(|index| all.get(index)).cloned();
    let summary = |(contender, rounds): (&Contender, Vec<Round>)| summary(contender, users, rounds, bare.as_deref());
    Ok(contenders.iter().zip(all).map(summary).collect())
}

fn summary(contender: &Contender, users: usize, rounds: Vec<Round>, bare: Option<&[Round]>) -> Burst {
    let of = |figure: fn(&Round) -> f64| median(&rounds.iter().map(figure).collect::<Vec<_>>());
    let maybe = |figure: fn(&Round) -> Option<f64>| {
        rounds.iter().map(figure).collect::<Option<Vec<_>>>().map(|values| median(&values))
    };
    let ratio = bare.filter(|_| matches!(contender.runs, Runs::Sluice(_))).map(|bare| {
        let ratios = rounds.iter().zip(bare).map(|(mine, bare)| mine.per_second / bare.per_second);
        median(&ratios.collect::<Vec<_>>())
    });
    Burst {
        name: contender.name.clone(),
        users,
        per_second: of(|round| round.per_second),
        cpu: Cpu {
            sluice: of(|round| round.cpu.sluice),
            postgres: maybe(|round| round.cpu.postgres),
            redis: maybe(|round| round.cpu.redis),
            api: of(|round| round.cpu.api),
            bench: of(|round| round.cpu.bench),
        },
        ratio,
        rounds,
    }
}

async fn once(stage: &mut Stage, runs: &Runs, users: usize) -> Result<Round> {
    stage.api.reset().await?;
    match runs {
        Runs::Loop(bare) => through_loop(stage, bare, users).await,
        Runs::Sluice(setup) => through_sluice(stage, setup, users).await,
    }
}

async fn through_loop(stage: &Stage, bare: &Bare, users: usize) -> Result<Round> {
    bare.burst(stage, users.min(200)).await?;
    let before = stage.api.calls().await?;
    let taken = bare.burst(stage, users).await?;
    let calls = (stage.api.calls().await? - before) as f64 / users as f64;
    let rate = users as f64 / taken.seconds;
    let cpu = taken.cpu.per_thousand(taken.users);
    Ok(Round { per_second: rate, per_second_with_insert: rate, cpu, calls, sluice: None })
}

pub async fn through_sluice(stage: &mut Stage, setup: &Setup, users: usize) -> Result<Round> {
    stage.start(setup).await?;
    let mut app = App::connect(&setup.database, 2).await?;
    warm_up(&mut app).await?;

    let calls = stage.api.calls().await?;
    let tally = Tally::begin(&mut stage.site, &setup.database, app.transactions).await?;
    let mut meter = stage.meter();
    meter.excluded.push(app.look_pid());
    let before = meter.read();
    let together = app.together(users).await?;
    app.await_ready(&together.users).await?;
    tokio::time::sleep(GRACE).await;
    let cpu = (meter.read() - before).per_thousand(users);
    let memory = stage.memory();
    stage.stop().await?;
    let calls = (stage.api.calls().await? - calls) as f64 / users as f64;
    let ways = app.ways(&together.users).await?;
    let counted = tally.end(&mut stage.site, app.transactions).await?;
    app.close().await?;

    let last = ways.last().context("nobody is ready")?.ready;
    Ok(Round {
        per_second: users as f64 / (last - together.committed),
        per_second_with_insert: users as f64 / (last - together.began),
        cpu,
        calls,
        sluice: Some(Inside::new(&counted, users, memory)),
    })
}

/// Every connection is open and every statement planned before anything is measured.
pub async fn warm_up(app: &mut App) -> Result<()> {
    let first = app.warm().await?;
    app.await_ready(&first).await?;
    let some = app.together(50).await?;
    app.await_ready(&some.users).await?;
    app.ways(&first).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

impl Inside {
    pub fn new(counted: &Counted, users: usize, memory: Vec<Memory>) -> Self {
        let each = |count: i64| count as f64 / users as f64;
        Self {
            statements: counted.statements.map(each),
            transactions: each(counted.transactions),
            wal_records: counted.wal_records.map(each),
            wal_bytes: each(counted.wal_bytes),
            deadlocks: counted.deadlocks,
            memory,
        }
    }
}
