//! The simulator: the real ledger protocol, relay, worker and steps in virtual time, over rows in
//! memory, a queue that loses and the simulated API, with whatever can go wrong going wrong. One
//! seed is one run, and replays exactly.
//!
//! `SIM_SEED=n` replays one seed with its trace, `SIM_SEEDS=n` sets how many there are,
//! `SIM_FIRST=n` with which to begin.

mod api;
mod chance;
mod checks;
mod client;
mod connection;
mod guards;
mod log;
mod mishaps;
mod neighbours;
mod outages;
mod people;
mod plan;
mod process;
mod publisher;
mod queue;
mod quiet;
mod relay;
mod report;
mod scenarios;
mod script;
mod simulate;
mod stage;
mod weather;
mod worker;

use std::{
    io::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use log::Keep;
use plan::Plan;
use report::Total;
use simulate::simulate;

/// How many seeds there are where nobody says otherwise: about a minute on two cores.
const SEEDS: u64 = 10_000;

#[test]
fn every_invariant_holds_in_every_seed() {
    if let Some(seed) = number("SIM_SEED") {
        return show(seed);
    }
    let first = number("SIM_FIRST").unwrap_or(0);
    let last = first + number("SIM_SEEDS").unwrap_or(SEEDS);

    let total = run(first, last);

    say(&total.text());
    let failures: Vec<String> = total
        .broken
        .iter()
        .take(5)
        .map(|(seed, broken)| report::failure(*seed, broken, &simulate(Plan::of(*seed), Keep::Lines).lines))
        .collect();
    say(&failures.join("\n"));
    assert!(total.broken.is_empty(), "{} seeds broke: {:?}", total.broken.len(), total.broken.keys());
    assert_eq!(total.never_met(), Vec::<&str>::new(), "these were never met");
}

#[test]
fn a_seed_replays_to_the_letter() {
    for seed in [3, 14, 159, 265] {
        let first = simulate(Plan::of(seed), Keep::Lines);
        let second = simulate(Plan::of(seed), Keep::Lines);

        assert!(first.lines.len() > 20, "seed {seed} has hardly a trace");
        assert_eq!(first, second, "seed {seed}");
    }
}

/// Runs the seeds on as many threads as there are cores; after a few failures no more are begun.
fn run(first: u64, last: u64) -> Total {
    let total = Mutex::new(Total::new());
    let next = AtomicU64::new(first);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= last || total.lock().unwrap_or_else(PoisonError::into_inner).broken.len() > 20 {
                return;
            }
            let report = simulate(Plan::of(seed), Keep::Counts);
            total.lock().unwrap_or_else(PoisonError::into_inner).add(report);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn show(seed: u64) {
    let report = simulate(Plan::of(seed), Keep::Lines);
    say(&report.lines.join("\n"));
    say("\n");
    assert_eq!(report.broken, Vec::<String>::new(), "seed {seed} broke");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}: expected a number")))
}

/// Past the test harness, which keeps what is printed from those who pass.
fn say(text: &str) {
    let written = std::io::stdout().write_all(text.as_bytes());
    assert!(written.is_ok(), "cannot print: {written:?}");
}
