//! `sluice adopt`: what stood in the database before Sluice came, and a person's word on each class
//! of it. Nothing old is started without that word.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Context;
use clap::{Args, Subcommand};
use sqlx::{ConnectOptions, PgConnection};

use super::{
    by::ByOptions,
    output::{Column, EXIT_CODES, FAILED, Form, NOTHING_MATCHED, clean, done, line, or_dash, refuse, table},
};
use crate::{
    config::{self, OperatorOptions},
    ledger::By,
    process,
    supabase::adoption::{self, Allowed, Class, Started},
};

#[derive(Subcommand)]
#[command(after_help = EXIT_CODES)]
pub enum Command {
    /// What the first migration found: imported, skipped and why, stuck, failed, waiting, older
    /// users
    Status {
        #[command(flatten)]
        config: OperatorOptions,
        #[command(flatten)]
        form: Form,
    },
    /// Start everybody of a class who waits for it: each gets a pending queue row for the relays
    Start(OfClass),
    /// Leave everybody of a class alone who waits for it; who is set to pending by SQL still starts
    Leave(OfClass),
    /// Take over an instance whose name is not its user's own, with the token that its row has
    Allow {
        /// The instance's name, as `adopt status` shows it
        name: String,
        #[command(flatten)]
        word: Word,
    },
}

/// A person's word on a class.
#[derive(Args)]
pub struct OfClass {
    /// As `adopt status` shows it
    #[arg(value_parser = ["unfinished", "foreign-name", "pending", "pending-spent", "pending-orphan", "stuck", "failed",
        "gone", "older-users"])]
    class: String,
    #[command(flatten)]
    word: Word,
}

/// A person's word.
#[derive(Args)]
pub struct Word {
    #[command(flatten)]
    config: OperatorOptions,
    #[command(flatten)]
    by: ByOptions,
}

/// Why nobody of a class can be started as one.
fn never_starts(class: &str) -> Option<&'static str> {
    match class {
        "foreign-name" => Some("each needs a word of its own: sluice adopt allow NAME"),
        "pending-orphan" => Some("they have no profile, and nobody would see their instance: leave them"),
        _ => None,
    }
}

impl Command {
    pub fn run(self) -> ExitCode {
        match self {
            Self::Status { config, form } => {
                process::read(config.parse(), async |config| show(&mut open(&config).await?, form).await)
            }
            Self::Start(OfClass { class, word }) => word.run(async |database, by| start(database, &class, &by).await),
            Self::Leave(OfClass { class, word }) => word.run(async |database, by| leave(database, &class, &by).await),
            Self::Allow { name, word } => word.run(async |database, by| allow(database, &name, &by).await),
        }
    }
}

impl Word {
    /// A signal ends the wait for the database; a change that has begun comes to its end.
    fn run(&self, obey: impl AsyncFnOnce(PgConnection, By) -> anyhow::Result<ExitCode>) -> ExitCode {
        process::run(self.config.parse(), async |config, shutdown| {
            let database = process::unless_interrupted(&shutdown, open(&config)).await?;
            obey(database, self.by.by()).await
        })
    }
}

async fn open(config: &config::Ledger) -> anyhow::Result<PgConnection> {
    // The checks of every other command: is there a ledger, and are we let in?
    process::open(config).await?;
    config.database.connect("cli").connect().await.context("connect to Postgres: check DATABASE_URL")
}

async fn show(connection: &mut PgConnection, form: Form) -> anyhow::Result<ExitCode> {
    let classes = adoption::report(connection).await.context("read the adoption report")?;
    form.print(&BTreeMap::from([("classes", &classes)]), |_| people(&classes))
}

const CLASSES: &[Column<Class>] = &[
    ("CLASS", |class| class.class.clone()),
    ("USERS", |class| class.users.to_string()),
    ("OPEN", |class| class.open.to_string()),
    ("OLDEST", |class| or_dash(class.oldest.as_ref())),
    ("RETRIES", |class| or_dash(class.most_retries)),
    ("WHAT", |class| class.meaning.clone()),
    ("COMMAND", |class| or_dash(class.command.as_ref().filter(|_| class.open > 0))),
];

/// The report for people: a row for each class, and the names that need a word each.
pub fn people(classes: &[Class]) -> String {
    if classes.is_empty() {
        return "nothing was there before Sluice".to_owned();
    }
    let mut text = table(classes, CLASSES);
    for name in classes.iter().flat_map(|class| &class.names) {
        text.push_str(&format!("\nsluice adopt allow {}", quoted(name)));
    }
    text
}

/// A word for a shell, whatever a stranger called the instance.
fn quoted(name: &str) -> String {
    format!("'{}'", clean(name).replace('\'', r"'\''"))
}

async fn start(mut database: PgConnection, class: &str, by: &By) -> anyhow::Result<ExitCode> {
    if let Some(why) = never_starts(class) {
        return refuse(FAILED, format!("{class} cannot be started: {why}"));
    }
    let started = adoption::start(&mut database, class, &by.actor, by.note.as_deref()).await;
    let Started { users, locked } = started.context("start the class")?;
    if locked == 0 {
        return decided(users, "started");
    }
    line(format!("{users} started"))?;
    refuse(FAILED, format!("{locked} passed over, whose rows somebody has locked: run it again"))
}

async fn leave(mut database: PgConnection, class: &str, by: &By) -> anyhow::Result<ExitCode> {
    let left = adoption::leave(&mut database, class, &by.actor, by.note.as_deref()).await;
    decided(left.context("leave the class alone")?, "left alone")
}

fn decided(users: i64, verb: &str) -> anyhow::Result<ExitCode> {
    line(format!("{users} {verb}"))?;
    match users > 0 {
        true => Ok(ExitCode::SUCCESS),
        false => refuse(NOTHING_MATCHED, "nobody of this class waits for it: `sluice adopt status` shows who does"),
    }
}

async fn allow(mut database: PgConnection, name: &str, by: &By) -> anyhow::Result<ExitCode> {
    let allowed = adoption::allow(&mut database, name, &by.actor, by.note.as_deref()).await;
    let unknown = format!("no instance called {name:?} waits to be allowed: see `sluice adopt status`");
    let taken = format!("another user has an instance called {name}, or no instance can be called that");
    match allowed.context("allow the instance")? {
        Allowed::Allowed => done(format!("{name} is its user's own from now on")),
        Allowed::Unknown => refuse(NOTHING_MATCHED, unknown),
        Allowed::Changed => refuse(FAILED, format!("the row that was called {name} has another name by now")),
        Allowed::Taken => refuse(FAILED, taken),
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
