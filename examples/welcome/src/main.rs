//! A shop that welcomes its customers: three steps against a mailing service, started from SQL.
//! Nothing of Sluice's own product is in this program, and nothing of it is asked for.
//!
//! ```sql
//! select sluice.start('welcome', 'customer-7', '{"email": "ada@example.com", "list": "news"}');
//! ```

mod mailer;
mod workflow;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice::{
    Program, cli,
    config::{AllOptions, RelayOptions, WorkerOptions},
};
use workflows::workflow::Catalog;

use self::{mailer::Mailer, workflow::Welcome};

/// Welcomes the customers of a shop.
#[derive(Parser)]
struct Cli {
    /// Where the mailing service is, e.g. http://127.0.0.1:9000
    #[arg(long, env = "MAILER_URL", global = true, default_value = "http://127.0.0.1:9000")]
    mailer: String,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Move requests into runs and due steps into Redis
    Relay(RelayOptions),
    /// Run steps: create-contact, join-list, send-welcome
    Worker(WorkerOptions),
    /// Both in one process
    All(AllOptions),
}

fn main() -> ExitCode {
    let Cli { mailer, role } = cli::parse();
    // reqwest takes the process' provider for TLS; a second installation is refused, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mailer = match Mailer::new(&mailer) {
        Ok(mailer) => mailer,
        Err(problem) => {
            eprintln!("welcome cannot start: --mailer {problem}");
            return ExitCode::from(2);
        }
    };
    let program = Program::new(Catalog::default().with(Welcome::new(mailer.clone())).probing(mailer));
    match role {
        Role::Relay(options) => program.relay(&options),
        Role::Worker(options) => program.worker(&options),
        Role::All(options) => program.all(&options),
    }
}
