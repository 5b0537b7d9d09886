//! The scenarios by name. Each file runs one; what all have in common is in `stage`.

mod database;
mod flushall;
mod frozen;
mod killing;
mod loading;
mod mixed;
mod one_kill;
mod outage;
mod poison;

use std::fmt;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use super::{Options, Report};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// FLUSHALL three times in the middle of a burst of 1,000
    Flushall,
    /// SIGKILL of every worker and relay every 300 ms for a minute, during 500 sign-ups
    Killing,
    /// One SIGKILL of the only worker at 40 % of 1,000, at default settings, against an undisturbed
    /// run
    OneKill,
    /// One step that kills whoever runs it, among 31 good ones
    Poison,
    /// The API closes connections, hangs, and answers 500, one after another
    Outage,
    /// The API killed three times in a burst, while it takes a minute to load 200 instances that
    /// its cache hides, and queue rows are set to pending
    Loading,
    /// The API's database restarted ten times in the middle of creates
    Database,
    /// A worker that stands still past its lease while the API holds its creates, and another one
    /// creates the same
    Frozen,
    /// Everything at random, drawn from the seed
    Mixed,
}

/// Settings that make a user cost the API no 2 s of waiting for a QR code.
const NO_QR: (&str, &str) = ("QR_AT_SIGNUP", "false");

impl Scenario {
    /// Runs it on a fleet of its own. An error is the harness' own trouble; what the engine broke
    /// is in the report.
    pub async fn run(self, options: &Options) -> Result<Report> {
        (options.say)(&format!("== {self} (seed {})", options.seed));
        let report = match self {
            Self::Flushall => flushall::run(options).await,
            Self::Killing => killing::run(options).await,
            Self::OneKill => one_kill::run(options).await,
            Self::Poison => poison::run(options).await,
            Self::Outage => outage::run(options).await,
            Self::Loading => loading::run(options).await,
            Self::Database => database::run(options).await,
            Self::Frozen => frozen::run(options).await,
            Self::Mixed => mixed::run(options).await,
        };
        let report = report.with_context(|| format!("run the scenario {self}"))?;
        let attempts: Vec<String> =
            report.verdict.attempts.iter().map(|(ended, count)| format!("{count} {ended}")).collect();
        (options.say)(&format!("   attempts: {}", attempts.join(", ")));
        for note in &report.notes {
            (options.say)(&format!("   {note}"));
        }
        Ok(report)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flushall => "flushall",
            Self::Killing => "killing",
            Self::OneKill => "one-kill",
            Self::Poison => "poison",
            Self::Outage => "outage",
            Self::Loading => "loading",
            Self::Database => "database",
            Self::Frozen => "frozen",
            Self::Mixed => "mixed",
        })
    }
}
