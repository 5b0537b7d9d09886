//! `sluice adopt`: what stood in the database before Sluice came, and a person's word on each class of it. Nothing old is started
//! without that word.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use sqlx::{ConnectOptions, PgConnection};

use super::{
    by::ByOptions,
    output::{EXIT_CODES, FAILED, Form, clean, line, nothing_matched, or_dash, remark, table},
};
use crate::{
    config::{self, OperatorOptions},
    ledger::migrations::adoption::{self, Allowed, Class, Started},
    process,
};

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// What the first migration found: imported, skipped and why, stuck, failed, waiting, older users
    Status(Status),
    /// Start everybody of a class who waits for it: each gets a pending queue row for the relays
    Start(Word),
    /// Leave everybody of a class alone who waits for it; who is set to pending by SQL still starts
    Leave(Word),
    /// Take over an instance whose name is not its user's own, with the token that its row has
    Allow(Allow),
}

#[derive(Args)]
struct Status {
    #[command(flatten)]
    config: OperatorOptions,
    #[command(flatten)]
    form: Form,
}

#[derive(Args)]
struct Word {
    /// As `adopt status` shows it
    class: ClassName,
    #[command(flatten)]
    config: OperatorOptions,
    #[command(flatten)]
    by: ByOptions,
}

#[derive(Args)]
struct Allow {
    /// The instance's name, as `adopt status` shows it
    name: String,
    #[command(flatten)]
    config: OperatorOptions,
    #[command(flatten)]
    by: ByOptions,
}

/// The classes on which somebody may have a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ClassName {
    Unfinished,
    ForeignName,
    Pending,
    PendingSpent,
    PendingOrphan,
    Stuck,
    Failed,
    Gone,
    OlderUsers,
}

impl ClassName {
    fn text(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Why nobody of it can be started as a class.
    fn never_starts(self) -> Option<&'static str> {
        match self {
            Self::ForeignName => Some("each needs a word of its own: sluice adopt allow NAME"),
            Self::PendingOrphan => Some("they have no profile, and nobody would see their instance: leave them"),
            _ => None,
        }
    }
}

pub fn run(options: Options) -> ExitCode {
    match options.verb {
        Verb::Status(status) => {
            process::run(status.config.parse(), async |config, _| show(&mut open(&config).await?, status.form).await)
        }
        Verb::Start(word) => {
            process::run(word.config.parse(), async |config, _| start(&config, word.class, &word.by).await)
        }
        Verb::Leave(word) => {
            process::run(word.config.parse(), async |config, _| leave(&config, word.class, &word.by).await)
        }
        Verb::Allow(allow) => {
            process::run(allow.config.parse(), async |config, _| take(&config, &allow.name, &allow.by).await)
        }
    }
}

async fn open(config: &config::Operator) -> anyhow::Result<PgConnection> {
    // The checks of every other command: is there a ledger, and are we let in?
    process::open(&config.ledger).await?;
    config.ledger.database.connect("sluice-cli").connect().await.context("connect to Postgres: check DATABASE_URL")
}

async fn show(connection: &mut PgConnection, form: Form) -> anyhow::Result<ExitCode> {
    let classes = adoption::report(connection).await.context("read the adoption report")?;
    form.print(&Report { classes: &classes }, |report| people(report.classes))?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Report<'a> {
    classes: &'a [Class],
}

/// The report for people: a row for each class, and the names that need a word each.
pub fn people(classes: &[Class]) -> String {
    if classes.is_empty() {
        return "nothing was there before Sluice".to_owned();
    }
    let rows = classes.iter().map(|class| {
        [
            class.class.clone(),
            class.users.to_string(),
            class.open.to_string(),
            or_dash(class.oldest.as_ref()),
            or_dash(class.most_retries),
            class.meaning.clone(),
            or_dash(class.command.as_ref().filter(|_| class.open > 0)),
        ]
    });
    let mut text = table(["CLASS", "USERS", "OPEN", "OLDEST", "RETRIES", "WHAT", "COMMAND"], rows);
    for name in classes.iter().flat_map(|class| &class.names) {
        text.push_str(&format!("\nsluice adopt allow {}", quoted(name)));
    }
    text
}

/// A word for a shell, whatever a stranger called the instance.
fn quoted(name: &str) -> String {
    format!("'{}'", clean(name).replace('\'', r"'\''"))
}

async fn start(config: &config::Operator, class: ClassName, by: &ByOptions) -> anyhow::Result<ExitCode> {
    if let Some(why) = class.never_starts() {
        remark(format!("{} cannot be started: {why}", class.text()));
        return Ok(ExitCode::from(FAILED));
    }
    let by = by.by();
    let mut connection = open(config).await?;
    let started = adoption::start(&mut connection, &class.text(), &by.actor, by.note.as_deref()).await;
    let Started { users, locked } = started.context("start the class")?;
    if locked == 0 {
        return decided(users, "started");
    }
    line(format!("{users} started"))?;
    remark(format!("{locked} passed over, whose rows somebody has locked: run it again"));
    Ok(ExitCode::from(FAILED))
}

async fn leave(config: &config::Operator, class: ClassName, by: &ByOptions) -> anyhow::Result<ExitCode> {
    let by = by.by();
    let mut connection = open(config).await?;
    let left = adoption::leave(&mut connection, &class.text(), &by.actor, by.note.as_deref()).await;
    decided(left.context("leave the class alone")?, "left alone")
}

fn decided(users: i64, verb: &str) -> anyhow::Result<ExitCode> {
    line(format!("{users} {verb}"))?;
    if users > 0 {
        return Ok(ExitCode::SUCCESS);
    }
    remark("nobody of this class waits for it: `sluice adopt status` shows who does");
    Ok(nothing_matched())
}

async fn take(config: &config::Operator, name: &str, by: &ByOptions) -> anyhow::Result<ExitCode> {
    let by = by.by();
    let mut connection = open(config).await?;
    let allowed =
        adoption::allow(&mut connection, name, &by.actor, by.note.as_deref()).await.context("allow the instance")?;
    match allowed {
        Allowed::Allowed => {
            line(format!("{name} is its user's own from now on"))?;
            Ok(ExitCode::SUCCESS)
        }
        Allowed::Unknown => {
            remark(format!("no instance called {name:?} waits to be allowed: see `sluice adopt status`"));
            Ok(nothing_matched())
        }
        Allowed::Changed => {
            remark(format!("the row that was called {name} has another name by now"));
            Ok(ExitCode::from(FAILED))
        }
        Allowed::Taken => {
            remark(format!("another user has an instance called {name}, or no instance can be called that"));
            Ok(ExitCode::from(FAILED))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_copied_into_a_shell_is_one_word_of_it() {
        assert_eq!(quoted("the shop"), "'the shop'");
        assert_eq!(quoted("it's; rm -r .\n"), r"'it'\''s; rm -r . '");
    }
}
