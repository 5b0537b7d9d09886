//! `make chaos`: real Postgres, Redis and separate processes, users who sign up, and faults on the
//! way; ends with a table of faults × invariants.

#![allow(clippy::print_stdout, reason = "a program that speaks to a person")]

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tests::chaos::{Options, Report, Scenario, markdown};

/// Breaks a Sluice of its own in every way there is, and says which invariants held.
///
/// Each scenario starts a private Postgres, a private Redis, a simulated Evolution API, relays and
/// workers as processes, on free ports of 127.0.0.1; nothing of it is left afterwards. Progress
/// goes to standard error, the table to standard output. Ends with 0 when everything held, with 1
/// when an invariant or a promise of a scenario was broken.
#[derive(Parser)]
#[command(after_help = "Examples:\n  chaos                                every scenario, one after another\n  \
    chaos flushall killing               two of them\n  chaos mixed --seed 7 --seconds 600   ten minutes of a known schedule")]
struct Arguments {
    /// Which scenarios; all where none is named
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// How many users sign up (each scenario has its own default)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    users: Option<u32>,
    /// For how long faults are injected (killing: 60, outage: 20 each, mixed: 120)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: Option<u32>,
    /// Draws the schedule of mixed; random, and printed, where none is given
    #[arg(long)]
    seed: Option<u64>,
    /// The reports as JSON instead of a table, and no progress
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let say: fn(&str) = if arguments.json { |_| {} } else { |text| eprintln!("{text}") };
    let options = Options { users: arguments.users, seconds: arguments.seconds, seed, say };
    let scenarios = match arguments.scenarios.is_empty() {
        true => Scenario::value_variants(),
        false => &arguments.scenarios,
    };
    let mut reports = Vec::new();
    for scenario in scenarios {
        let report = scenario.run(&options).await?;
        if !arguments.json {
            complain(&report);
        }
        reports.push(report);
    }
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&reports).context("write the reports as JSON")?),
        false => println!("\nseed {seed}\n\n{}", markdown(&reports)),
    }
    Ok(if reports.iter().all(Report::held) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What broke, in full for the first few.
fn complain(report: &Report) {
    for broken in &report.broken {
        eprintln!("   BROKEN: {broken}");
    }
    for (invariant, violations) in &report.verdict.violations {
        for violation in violations.iter().take(10) {
            eprintln!("   {invariant} VIOLATED: {violation}");
        }
        if violations.len() > 10 {
            eprintln!("   … and {} more of {invariant}", violations.len() - 10);
        }
    }
}
