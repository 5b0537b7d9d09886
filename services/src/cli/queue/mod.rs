//! `sluice queue`: what waits, and the gates before it.

mod gate;
mod stats;

use std::process::ExitCode;

use clap::Subcommand;

use super::output::EXIT_CODES;

#[derive(Subcommand)]
#[command(after_help = EXIT_CODES)]
pub enum Command {
    /// What waits before each step and each gate, and the dead letters
    Stats(Box<stats::Stats>),
    /// Nothing behind the gate starts until it is resumed; what is running goes on
    #[command(override_usage = "sluice queue pause [OPTIONS] <STEP|--host <HOST>|--workflow <WORKFLOW>>")]
    Pause(Box<gate::Passage>),
    /// End a pause, or a hold that the API asked for (Retry-After); a breaker closes by itself
    #[command(override_usage = "sluice queue resume [OPTIONS] <STEP|--host <HOST>|--workflow <WORKFLOW>>")]
    Resume(Box<gate::Passage>),
    /// How many steps may start per second
    Rate(Box<gate::Rate>),
    /// How many steps may be running at once
    Concurrency(Box<gate::Concurrency>),
}

impl Command {
    pub fn run(self) -> ExitCode {
        match self {
            Self::Stats(stats) => stats.run(),
            Self::Pause(passage) => passage.pause(),
            Self::Resume(passage) => passage.resume(),
            Self::Rate(rate) => rate.run(),
            Self::Concurrency(concurrency) => concurrency.run(),
        }
    }
}
