//! `sluice queue`: what waits, and the gates before it.

mod gate;
mod stats;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output::EXIT_CODES;

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What waits before each step and each gate, and the dead letters
    Stats(Box<stats::Stats>),
    /// Nothing behind the gate starts until it is resumed; what is running goes on
    Pause(Box<gate::Pause>),
    /// End a pause, or a hold that the API asked for (Retry-After); a breaker closes by itself
    Resume(Box<gate::Resume>),
    /// How many steps may start per second
    Rate(Box<gate::Rate>),
    /// How many steps may be running at once
    Concurrency(Box<gate::Concurrency>),
}

pub fn run(options: Options) -> ExitCode {
    match options.command {
        Command::Stats(stats) => stats.run(),
        Command::Pause(pause) => pause.run(),
        Command::Resume(resume) => resume.run(),
        Command::Rate(rate) => rate.run(),
        Command::Concurrency(concurrency) => concurrency.run(),
    }
}
