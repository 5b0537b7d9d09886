//! The program `sluice`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice::{
    Program, cli,
    config::{AllOptions, RelayOptions, WorkerOptions},
    process, whatsapp,
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
    Relay(Relay),
    /// Run steps against the Evolution API; any number side by side
    Worker(Box<Worker>),
    /// Every role in one process
    All(Box<All>),
    /// What stood in the database before Sluice: status, start, leave, allow
    Adopt(cli::adopt::Options),
    /// What needs a person: list, show, retry, discard
    DeadLetters(cli::dead_letters::Options),
    /// Executions of workflows: list, show, cancel, export
    Runs(cli::runs::Options),
    /// What waits, and the gates before it: stats, pause, resume, rate, concurrency
    Queue(cli::queue::Options),
}

#[derive(clap::Args)]
struct Relay {
    #[command(flatten)]
    product: whatsapp::DefinitionOptions,
    #[command(flatten)]
    engine: RelayOptions,
}

#[derive(clap::Args)]
struct Worker {
    #[command(flatten)]
    product: whatsapp::WorkflowOptions,
    #[command(flatten)]
    engine: WorkerOptions,
}

#[derive(clap::Args)]
struct All {
    #[command(flatten)]
    product: whatsapp::WorkflowOptions,
    #[command(flatten)]
    engine: AllOptions,
}

fn main() -> ExitCode {
    match cli::parse::<Cli>().role {
        Role::Migrate(options) => cli::migrate::run(options),
        Role::Relay(Relay { product, engine }) => {
            Program::default().adding(move |catalog, _, faults| product.add_to(catalog, faults)).relay(&engine)
        }
        Role::Worker(options) => provisioning(options.product).worker(&options.engine),
        Role::All(options) => provisioning(options.product).all(&options.engine),
        Role::Adopt(options) => cli::adopt::run(options),
        Role::DeadLetters(options) => cli::dead_letters::run(options),
        Role::Runs(options) => cli::runs::run(options),
        Role::Queue(options) => cli::queue::run(options),
    }
}

fn provisioning(product: whatsapp::WorkflowOptions) -> Program {
    Program::default().adding(move |catalog, vitals, faults| product.add_to(catalog, vitals, faults))
}
