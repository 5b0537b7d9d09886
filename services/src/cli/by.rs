//! Who changes something by hand, and why: kept in the audit.

use std::{env, process::ExitCode};

use clap::Args;

use super::output::Form;
use crate::{
    config::OperatorOptions,
    ledger::{By, postgres::Postgres},
    process,
};

/// What a command that changes something is told beside what it changes.
#[derive(Args)]
pub struct ChangeOptions {
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    by: ByOptions,
    #[command(flatten)]
    config: OperatorOptions,
}

impl ChangeOptions {
    /// A signal ends the wait for the ledger; a change that has begun comes to its end.
    pub fn run(&self, change: impl AsyncFnOnce(Postgres, By) -> anyhow::Result<ExitCode>) -> ExitCode {
        process::run(self.config.parse(), async |config, shutdown| {
            let ledger = process::unless_interrupted(&shutdown, process::open(&config)).await?;
            change(ledger, self.by.by()).await
        })
    }
}

#[derive(Args)]
#[command(next_help_heading = "Audit")]
pub struct ByOptions {
    /// Who does it [default: the user of this session]
    #[arg(long, value_name = "NAME", value_parser = |text: &str| fits(text, 100))]
    by: Option<String>,

    /// Why
    #[arg(long, value_name = "TEXT", value_parser = |text: &str| fits(text, 1000))]
    note: Option<String>,
}

impl ByOptions {
    pub fn by(&self) -> By {
        By { actor: self.by.clone().unwrap_or_else(session_user), note: self.note.clone() }
    }
}

fn fits(text: &str, most: usize) -> Result<String, String> {
    let text = text.trim();
    match text.is_empty() || text.chars().count() > most || text.chars().any(char::is_control) {
        true => Err(format!("expected 1 to {most} characters in one line")),
        false => Ok(text.to_owned()),
    }
}

/// A container often has no variable for it: then whoever owns this process.
fn session_user() -> String {
    ["USER", "LOGNAME"].into_iter().find_map(|name| fits(&env::var(name).ok()?, 100).ok()).unwrap_or_else(owner)
}

fn owner() -> String {
    let id = rustix::process::geteuid().to_string();
    let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("user {id}"))
}
