//! `make bench`: what Sluice gives and what it costs, with real servers and separate processes, as
//! ratios to an engine-free loop in the same run. Ends with tables, and with 1 where the figures
//! are void.

#![allow(clippy::print_stdout, reason = "a program that speaks to a person")]

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tests::bench::{Given, Options, Part, Roles, Scale, publish, run, text};
use url::Url;

/// Measures Sluice: rate, CPU, latency, statements, memory.
///
/// It starts a private Postgres (fsync and synchronous_commit on), a private Redis, a simulated
/// Evolution API and `sluice` as processes, on free ports of 127.0.0.1; nothing of it is left
/// afterwards. Progress goes to standard error, the tables to standard output.
#[derive(Parser)]
#[command(after_help = "Examples:\n  bench                          everything: some 30 minutes\n  \
    bench --quick                  what a change usually moves: under two minutes\n  \
    bench --quick burst steady     two of the parts, small\n  \
    bench --layout all steady      with every role in one process\n  \
    bench --publish docs           everything, into docs/performance.md and docs/plots")]
struct Arguments {
    /// Which parts; all where none is named (with --quick: burst, steady, single, idle)
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Fewer and shorter
    #[arg(long)]
    quick: bool,
    /// Which processes there are, where a part does not choose by itself [default: a process per
    /// role, and beside it in the parts steady and single a pair]
    #[arg(long, value_enum)]
    layout: Option<Layout>,
    /// Users of a burst, instead of 2,000 and 10,000
    #[arg(long, value_delimiter = ',')]
    users: Vec<usize>,
    /// Sign-ups a second of the steady streams, instead of 50, 100, 200, 400
    #[arg(long, value_delimiter = ',')]
    rates: Vec<f64>,
    /// How long each stream is measured
    #[arg(long)]
    seconds: Option<f64>,
    /// How often the contenders of a burst take turns
    #[arg(long)]
    rounds: Option<usize>,
    /// How many sign up at once, or wait for their time, in the part waiting
    #[arg(long)]
    waiting: Option<usize>,
    /// How many runs have finished in the part history
    #[arg(long)]
    history: Option<usize>,
    /// A Postgres to measure instead of a private one: a superuser's URL. Databases and roles are
    /// made there; Supabase's roles (anon and others) stay
    #[arg(long, env = "BENCH_POSTGRES_URL", hide_env_values = true)]
    postgres: Option<Url>,
    /// A Redis to measure instead of a private one. Keys that begin with sluice_bench_ stay
    #[arg(long, env = "BENCH_REDIS_URL", hide_env_values = true)]
    redis: Option<Url>,
    /// The figures as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// The directory of performance.md, whose figures and plots are written anew
    #[arg(long, value_name = "DIRECTORY")]
    publish: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Layout {
    /// A relay, and one worker of every step
    Pair,
    /// Every role in one process
    All,
}

const QUICK: [Part; 4] = [Part::Burst, Part::Steady, Part::Single, Part::Idle];

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let report = run(&arguments.options()).await?;
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&report).context("write the figures as JSON")?),
        false => println!("\n{}", text(&report)),
    }
    if let Some(docs) = &arguments.publish {
        publish(&report, docs)?;
    }
    Ok(if report.void.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Arguments {
    fn options(&self) -> Options {
        let parts = match (self.parts.is_empty(), self.quick) {
            (false, _) => self.parts.clone(),
            (true, true) => QUICK.to_vec(),
            (true, false) => Part::value_variants().to_vec(),
        };
        Options {
            parts,
            scale: self.scale(),
            roles: match self.layout {
                None => Roles::USUAL,
                Some(Layout::Pair) => Roles::Pair,
                Some(Layout::All) => Roles::All(1),
            },
            given: Given { postgres: self.postgres.clone(), redis: self.redis.clone() },
            say: |text| eprintln!("{text}"),
        }
    }

    fn scale(&self) -> Scale {
        let mut scale = if self.quick { Scale::quick() } else { Scale::full() };
        if !self.users.is_empty() {
            scale.bursts.clone_from(&self.users);
        }
        if !self.rates.is_empty() {
            scale.rates.clone_from(&self.rates);
        }
        scale.seconds = self.seconds.unwrap_or(scale.seconds);
        scale.rounds = self.rounds.unwrap_or(scale.rounds);
        scale.waiting = self.waiting.unwrap_or(scale.waiting);
        scale.history = self.history.unwrap_or(scale.history);
        scale
    }
}
