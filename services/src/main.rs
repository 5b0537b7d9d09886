//! The program `sluice`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice::{
    cli,
    config::{AllOptions, RelayOptions, WorkerOptions},
    process,
};

/// A durable workflow engine on Postgres and Redis: every user who signs up gets a ready WhatsApp instance.
#[derive(Parser)]
#[command(name = "sluice", version, arg_required_else_help = true)]
#[command(after_help = cli::EXAMPLES, after_long_help = format!("{}\n\n{}", cli::EXAMPLES, process::EXIT_CODES))]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Bring the database's schema up to date; safe to run again, and beside `supabase db push`
    Migrate(cli::migrate::Options),
    /// Move sign-ups into runs, due steps into Redis, and what a dead worker held back; any number side by side
    Relay(RelayOptions),
    /// Run steps against the Evolution API; any number side by side
    Worker(WorkerOptions),
    /// Every role in one process
    All(Box<AllOptions>),
    /// What stood in the database before Sluice: status, start, leave, allow
    Adopt(cli::adopt::Options),
    /// What needs a person: list, show, retry, discard
    DeadLetters(cli::dead_letters::Options),
    /// Executions of workflows: list, show, cancel, export
    Runs(cli::runs::Options),
    /// What waits, and the gates before it: stats, pause, resume, rate, concurrency
    Queue(cli::queue::Options),
}

fn main() -> ExitCode {
    match cli::parse::<Cli>().role {
        Role::Migrate(options) => cli::migrate::run(options),
        Role::Relay(options) => process::serve("relay", options.parse(), process::relay),
        Role::Worker(options) => process::serve("worker", options.parse(), process::worker),
        Role::All(options) => process::serve("all", options.parse(), process::all),
        Role::Adopt(options) => cli::adopt::run(options),
        Role::DeadLetters(options) => cli::dead_letters::run(options),
        Role::Runs(options) => cli::runs::run(options),
        Role::Queue(options) => cli::queue::run(options),
    }
}
