//! `sluice migrate`: a line per migration for people, one object for machines.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{adopt, duration};
use crate::{
    config::{self, OperatorOptions},
    ledger::migrations::{self, Choice, Migration, Missing, Progress, Standing},
    process,
    supabase::adoption::{self, Class},
};

/// The code that says: pending.
const PENDING: u8 = 3;
/// How often what is pending is looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    config: OperatorOptions,

    /// Only say what is pending and what is missing (a grant, a trigger); exit code 3 if anything
    /// is
    #[arg(long)]
    check: bool,

    /// Wait for a Postgres that does not answer yet, for 5m or for so long (--wait=30s); with
    /// --check, also until nothing is pending and no other migration is under way
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "5m",
        value_parser = duration)]
    wait: Option<Duration>,

    /// One JSON object instead of lines: of the result, which is on standard output. LOG_FORMAT is
    /// of the log alone
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    choices: Choices,
}

/// What the owner of the app decides. Kept in the database: one that is not given stays as it is.
#[derive(Args)]
#[command(next_help_heading = "Who gets an instance")]
pub struct Choices {
    /// Whether sign-ups are queued by a trigger on profiles: on, or off: nobody is queued who is
    /// not queued by SQL. Not given: a trigger that somebody dropped or disabled stays so
    #[arg(long, env = "SIGN_UP_TRIGGER", value_name = "MODE", value_parser = ["on", "off"])]
    sign_up_trigger: Option<String>,

    /// When a user gets an instance: created (at the sign-up) or confirmed (once an address or a
    /// phone number is; costs a look at auth.users at each sign-up, and a trigger there)
    #[arg(long, env = "PROVISION_WHEN", value_name = "MOMENT", value_parser = ["created", "confirmed"])]
    provision_when: Option<String>,

    /// Whether anonymous users get one: on or off (at the same cost)
    #[arg(long, env = "PROVISION_ANONYMOUS", value_name = "MODE", value_parser = ["on", "off"])]
    provision_anonymous: Option<String>,
}

impl Choices {
    fn made(&self) -> Vec<Choice> {
        let given = [
            ("sign_up_trigger", &self.sign_up_trigger),
            ("provision_when", &self.provision_when),
            ("provision_anonymous", &self.provision_anonymous),
        ];
        given.into_iter().filter_map(|(name, value)| Some(Choice { name, value: value.clone()? })).collect()
    }
}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Report {
    applied_now: Vec<AppliedNow>,
    applied: Vec<Migration>,
    pending: Vec<Migration>,
    unknown: Vec<i64>,
    /// What was not as it should be, and is now.
    brought: Vec<String>,
    /// What is not as it should be.
    missing: Vec<Missing>,
    /// What stood in the database before.
    adoption: Vec<Class>,
}

#[derive(Debug, Serialize)]
struct AppliedNow {
    #[serde(flatten)]
    migration: Migration,
    milliseconds: u128,
}

pub fn run(options: Options) -> ExitCode {
    process::run(options.config.parse_session(), |database, shutdown| migrate(database, shutdown, &options))
}

async fn migrate(
    database: config::Database,
    shutdown: CancellationToken,
    options: &Options,
) -> anyhow::Result<ExitCode> {
    let deadline = options.wait.map(|wait| Instant::now() + wait);
    let opening = process::open_session(&database, deadline);
    let mut connection = process::unless_interrupted(&shutdown, opening).await?;
    let mut report = Report::default();
    let standing = if options.check {
        process::unless_interrupted(&shutdown, check(&mut connection, &database, deadline)).await?
    } else {
        let choices = options.choices.made();
        let applied =
            migrations::apply(&mut connection, &choices, |progress| tell(progress, options.json, &mut report));
        // Dropping it closes the connection, which undoes what has not been committed.
        shutdown.run_until_cancelled(applied).await.context("interrupted: migrate again")??
    };
    let Standing { applied, pending, unknown, missing } = standing;
    report = Report { applied, pending, unknown, missing, ..report };
    if report.pending.is_empty() {
        report.adoption = adoption::report(&mut connection).await.context("read the adoption report")?;
    }
    // The server notices a connection that is gone by itself.
    let _ = connection.close().await;

    let lacking = !report.pending.is_empty() || (options.check && !report.missing.is_empty());
    print(&report, options.json).context("write the result")?;
    Ok(if lacking { ExitCode::from(PENDING) } else { ExitCode::SUCCESS })
}

/// How the database stands: at once, or when nothing is pending any more and nobody migrates. A
/// session that is lost meanwhile is opened anew.
async fn check(
    connection: &mut PgConnection,
    database: &config::Database,
    deadline: Option<Instant>,
) -> anyhow::Result<Standing> {
    loop {
        let may_wait = deadline.is_some_and(|deadline| Instant::now() + LOOK_EVERY <= deadline);
        match look(connection).await {
            Ok((standing, done)) if done || !may_wait => return Ok(standing),
            Ok(_) => {}
            Err(migrations::Error::Database(_)) if may_wait => {
                *connection = process::open_session(database, deadline).await?;
            }
            Err(error) => return Err(error.into()),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// How the database stands, and whether that is for good. What a migration under way has not
/// brought about yet is missing.
async fn look(connection: &mut PgConnection) -> Result<(Standing, bool), migrations::Error> {
    let under_way = migrations::under_way(connection).await?;
    let standing = migrations::standing(connection).await?;
    let done = standing.pending.is_empty() && (standing.missing.is_empty() || !under_way);
    Ok((standing, done))
}

fn tell(progress: Progress<'_>, json: bool, report: &mut Report) {
    let said = match progress {
        Progress::Applied { migration, took } => {
            let milliseconds = took.as_millis();
            report.applied_now.push(AppliedNow { migration: migration.clone(), milliseconds });
            format!("applied {} {} ({milliseconds} ms)", migration.version, migration.name)
        }
        Progress::Brought { item } => {
            report.brought.push(item.to_owned());
            format!("brought about: {item}")
        }
        Progress::Locked => {
            return tracing::warn!(
                "the migration met a lock that the app holds and gave up, to let sign-ups pass: it is tried again"
            );
        }
    };
    if !json {
        // A reader that went away does not stop a migration.
        let _ = writeln!(io::stdout(), "{said}");
    }
}

fn print(report: &Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        return writeln!(out);
    }
    let Report { applied_now, applied, pending, unknown, missing, adoption, .. } = report;
    for Migration { version, name } in pending {
        writeln!(out, "pending {version} {name}")?;
    }
    for Missing { item, without, mend } in missing {
        writeln!(out, "missing: {item}: {without}. To mend it: {mend}")?;
    }
    if !unknown.is_empty() {
        let list: Vec<_> = unknown.iter().map(i64::to_string).collect();
        writeln!(out, "a newer program has also applied {}: that does no harm", list.join(", "))?;
    }
    if adoption.iter().any(|class| class.open > 0) {
        writeln!(out, "from before Sluice, and not started without a word:\n{}", adopt::people(adoption))?;
    }
    let (here, now) = (applied.len(), applied_now.len());
    match pending.len() {
        0 if missing.is_empty() => writeln!(out, "up to date: {here} migrations applied, {now} of them now"),
        0 => writeln!(out, "{} missing, see above: {here} migrations applied, {now} of them now", missing.len()),
        pending => writeln!(out, "{pending} pending, {here} applied: run `sluice migrate`"),
    }
}
