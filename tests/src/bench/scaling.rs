//! Whether more workers do more work: the burst with 1, 2 and 4 workers of each step, each with few
//! attempts at once, against an API that takes its time. Workers then wait more than they compute,
//! and their number bounds the rate until the CPU does.

use anyhow::Result;

use super::{
    api::{Api, Times},
    burst::{Burst, Contender, Runs, contest},
    stage::{Roles, Setup, Stage},
};

/// How long the API takes for each call.
pub const LATENCY_MS: u64 = 50;
/// Attempts of a worker at once. So few that two cores are not full with two workers.
pub const CONCURRENCY: u32 = 4;
/// Workers of each step. Each doubles the one before it.
pub const WORKERS: [u32; 3] = [1, 2, 4];
/// The CPU is full where it is busier than this, in percent of all cores: then the rate says
/// nothing of the workers.
pub const FULL: f64 = 90.0;

/// One contender for each number of workers, in their order.
pub async fn scaling(stage: &mut Stage, users: usize, rounds: usize) -> Result<Vec<Burst>> {
    stage.api = Api::start(Times::Slow { ms: LATENCY_MS }).await?;
    let mut contenders = Vec::new();
    for workers in WORKERS {
        let setup = Setup::new(Roles::Separate { relays: 1, workers }, &stage.new_database().await?);
        let setup = setup.set("WORKER_CONCURRENCY", CONCURRENCY);
        contenders.push(Contender { name: workers.to_string(), runs: Runs::Sluice(setup) });
    }
    let bursts = contest(stage, &contenders, users, rounds).await?;
    stage.api = Api::start(Times::None).await?;
    Ok(bursts)
}

/// How busy the machine was with all of it, the simulated API and the bench too, in percent of so
/// many cores.
pub fn busy(burst: &Burst, cores: usize) -> Option<f64> {
    let per_thousand = burst.cpu.total()? + burst.cpu.api + burst.cpu.bench;
    Some(per_thousand * burst.per_second / 1000.0 / cores as f64 * 100.0)
}

/// Each with how many times the rate it has of the one before it.
pub fn doublings(bursts: &[Burst]) -> impl Iterator<Item = (&Burst, f64)> {
    bursts.iter().zip(bursts.iter().skip(1)).map(|(half, burst)| (burst, burst.per_second / half.per_second))
}
