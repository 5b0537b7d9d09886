//! The program `sluice`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice::{
    Program, cli,
    config::{AllOptions, FollowOptions, RelayOptions, WorkerOptions},
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
    Relay(Box<Relay>),
    /// Run steps against the Evolution API; any number side by side
    Worker(Box<Worker>),
    /// Publish events to RabbitMQ; any number side by side. Or, for a person: tail, list, replay
    Events(Box<cli::events::Options>),
    /// Keep users' rows true by the events that the Evolution API itself publishes to RabbitMQ
    Follow(Box<Follow>),
    /// Every role in one process
    All(Box<All>),
    /// What stood in the database before Sluice: status, start, leave, allow
    #[command(subcommand)]
    Adopt(cli::adopt::Command),
    /// What needs a person: list, show, retry, discard
    #[command(subcommand)]
    DeadLetters(cli::dead_letters::Command),
    /// Executions of workflows: list, show, cancel, export
    #[command(subcommand)]
    Runs(cli::runs::Command),
    /// What waits, and the gates before it: stats, pause, resume, rate, concurrency
    #[command(subcommand)]
    Queue(cli::queue::Command),
}

#[derive(clap::Args)]
struct Relay {
    #[command(flatten)]
    engine: RelayOptions,
    #[command(flatten)]
    product: whatsapp::DefinitionOptions,
}

#[derive(clap::Args)]
#[command(override_usage = "sluice worker [OPTIONS] <STEP>...")]
struct Worker {
    #[command(flatten)]
    engine: WorkerOptions,
    #[command(flatten)]
    product: whatsapp::WorkflowOptions,
}

#[derive(clap::Args)]
struct Follow {
    #[command(flatten)]
    engine: FollowOptions,
    #[command(flatten)]
    mode: whatsapp::AmqpModeOptions,
    #[command(flatten)]
    product: whatsapp::ReportOptions,
}

#[derive(clap::Args)]
struct All {
    #[command(flatten)]
    engine: AllOptions,
    #[command(flatten)]
    product: whatsapp::WorkflowOptions,
    #[command(flatten)]
    reports: whatsapp::ReportOptions,
}

fn main() -> ExitCode {
    match cli::parse::<Cli>().role {
        Role::Migrate(options) => cli::migrate::run(options),
        Role::Relay(options) => defining(options.product).relay(&options.engine),
        Role::Worker(options) => running(options.product).worker(&options.engine),
        Role::Events(options) => match options.command {
            None => Program::default().events(&options.role),
            Some(command) => command.run(),
        },
        Role::Follow(options) => {
            let Follow { engine, mode, product } = *options;
            let read = move |faults: &mut _| product.read(mode.read(faults), faults);
            Program::default().following(read).follow(&engine)
        }
        Role::All(options) => {
            let All { engine, product, reports } = *options;
            let mode = product.amqp_mode();
            running(product).following(move |faults| reports.read_if_given(mode, faults)).all(&engine)
        }
        Role::Adopt(command) => command.run(),
        Role::DeadLetters(command) => command.run(),
        Role::Runs(command) => command.run(),
        Role::Queue(command) => command.run(),
    }
}

fn defining(product: whatsapp::DefinitionOptions) -> Program {
    Program::default().adding(move |catalog, _, faults| product.add_to(catalog, faults))
}

fn running(product: whatsapp::WorkflowOptions) -> Program {
    Program::default().adding(move |catalog, vitals, faults| product.add_to(catalog, vitals, faults))
}
