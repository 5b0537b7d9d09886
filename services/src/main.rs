//! The program `sluice`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice::{
    Program, cli,
    config::{AllOptions, FollowOptions, RelayOptions, WorkerOptions},
    process, whatsapp,
};

/// A durable workflow engine on Postgres and Redis: every user who signs up gets a ready WhatsApp
/// instance.
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
    /// Move sign-ups into runs, due steps into Redis, and what a dead worker held back; any number
    /// side by side
    Relay {
        #[command(flatten)]
        engine: Box<RelayOptions>,
        #[command(flatten)]
        product: Box<whatsapp::DefinitionOptions>,
    },
    /// Run steps against the Evolution API; any number side by side
    #[command(override_usage = "sluice worker [OPTIONS] <STEP>...")]
    Worker {
        #[command(flatten)]
        engine: Box<WorkerOptions>,
        #[command(flatten)]
        product: Box<whatsapp::WorkflowOptions>,
    },
    /// Publish events to RabbitMQ; any number side by side. Or, for a person: tail, list, replay
    Events(Box<cli::events::Options>),
    /// Keep users' rows true by the events that the Evolution API itself publishes to RabbitMQ
    Follow {
        #[command(flatten)]
        engine: Box<FollowOptions>,
        #[command(flatten)]
        mode: whatsapp::AmqpModeOptions,
        #[command(flatten)]
        product: whatsapp::ReportOptions,
    },
    /// Every role in one process
    All {
        #[command(flatten)]
        engine: Box<AllOptions>,
        #[command(flatten)]
        product: Box<whatsapp::WorkflowOptions>,
        #[command(flatten)]
        reports: whatsapp::ReportOptions,
    },
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

fn main() -> ExitCode {
    match cli::parse::<Cli>().role {
        Role::Migrate(options) => cli::migrate::run(options),
        Role::Relay { engine, product } => {
            let program = Program::default().adding(move |catalog, _, faults| product.add_to(catalog, faults));
            whatsapp::with_duties(program).relay(&engine)
        }
        Role::Worker { engine, product } => running(*product).worker(&engine),
        Role::Events(options) => match options.command {
            None => Program::default().events(&options.role),
            Some(command) => command.run(),
        },
        Role::Follow { engine, mode, product } => {
            let read = move |faults: &mut _| product.read(mode.read(faults), faults);
            Program::default().following(read).follow(&engine)
        }
        Role::All { engine, product, reports } => {
            let mode = product.amqp_mode();
            let program = whatsapp::with_duties(running(*product));
            program.following(move |faults| reports.read_if_given(mode, faults)).all(&engine)
        }
        Role::Adopt(command) => command.run(),
        Role::DeadLetters(command) => command.run(),
        Role::Runs(command) => command.run(),
        Role::Queue(command) => command.run(),
    }
}

fn running(product: whatsapp::WorkflowOptions) -> Program {
    Program::default().adding(move |catalog, vitals, faults| product.add_to(catalog, vitals, faults))
}
