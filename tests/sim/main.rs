//! The simulator: the real ledger protocol, relay, worker and steps in virtual time, over rows in memory, a queue that loses
//! and the simulated API, with whatever can go wrong going wrong. One seed is one run, and replays exactly.

mod api;
mod chance;
mod checks;
mod client;
mod connection;
mod log;
mod mishaps;
mod neighbours;
mod people;
mod plan;
mod process;
mod queue;
mod relay;
mod simulate;
mod stage;
mod weather;
mod worker;

use log::Keep;
use plan::Plan;
use simulate::simulate;

#[test]
fn seeds() {
    let count: u64 = std::env::var("SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let only: Option<u64> = std::env::var("SIM_SEED").ok().and_then(|n| n.parse().ok());
    let keep = if only.is_some() { Keep::Lines } else { Keep::Counts };
    let seeds = match only { Some(s) => s..s + 1, None => 0..count };
    let mut hits = std::collections::BTreeMap::new();
    let mut bad = 0;
    for seed in seeds {
        let t = std::time::Instant::now();
        let report = simulate(Plan::of(seed), keep);
        for l in &report.lines { println!("{l}"); }
        println!("seed {seed} virtual {:?} wall {:?} {:?}", report.virtual_time, t.elapsed(), report.broken);
        if !report.broken.is_empty() { bad += 1; }
        for (k, v) in report.hits.into_iter().chain(report.quirks) { *hits.entry(k).or_insert(0) += v; }
    }
    println!("{hits:#?}\nbad {bad}");
}
