//! `sluice migrate`: a line per migration for people, one object for machines.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use sqlx::Connection;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, MigrateOptions},
    ledger::migrations::{self, Migration, Progress, Standing},
    process,
};

/// The code that says: pending.
const PENDING: u8 = 3;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    config: MigrateOptions,

    /// Only say what is pending; exit code 3 if anything is
    #[arg(long)]
    check: bool,

    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Report {
    applied_now: Vec<AppliedNow>,
    applied: Vec<Migration>,
    pending: Vec<Migration>,
    unknown: Vec<i64>,
}

#[derive(Debug, Serialize)]
struct AppliedNow {
    #[serde(flatten)]
    migration: Migration,
    milliseconds: u128,
}

pub fn run(options: Options) -> ExitCode {
    process::run(options.config.parse(), |config, shutdown| migrate(config, shutdown, options.check, options.json))
}

async fn migrate(
    config: config::Migrate,
    shutdown: CancellationToken,
    check: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut connection = process::open_session(&config.database, "migrate").await?;
    let mut report = Report::default();
    let standing = if check {
        migrations::standing(&mut connection).await?
    } else {
        let applied = migrations::apply(&mut connection, |progress| tell(progress, json, &mut report));
        // Dropping it closes the connection, which undoes what has not been committed.
        shutdown.run_until_cancelled(applied).await.context("interrupted: what was applied stays")??
    };
    // The server notices a connection that is gone by itself.
    let _ = connection.close().await;

    let code = if standing.pending.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(PENDING) };
    print(&standing, report, json).context("write the result")?;
    Ok(code)
}

fn tell(progress: Progress<'_>, json: bool, report: &mut Report) {
    match progress {
        Progress::Applied { migration, took } => {
            let milliseconds = took.as_millis();
            if !json {
                // A reader that went away does not stop a migration.
                let _ = writeln!(io::stdout(), "applied {} {} ({milliseconds} ms)", migration.version, migration.name);
            }
            report.applied_now.push(AppliedNow { migration: migration.clone(), milliseconds });
        }
        Progress::Locked { migration } => {
            let Migration { version, name } = migration;
            tracing::warn!(
                "{version} {name} met a lock that the app holds and gave up, to let sign-ups pass: it is tried again"
            );
        }
    }
}

fn print(standing: &Standing, report: Report, json: bool) -> io::Result<()> {
    let Standing { applied, pending, unknown } = standing.clone();
    let mut out = io::stdout().lock();
    if json {
        let report = Report { applied, pending, unknown, ..report };
        serde_json::to_writer(&mut out, &report)?;
        return writeln!(out);
    }
    for Migration { version, name } in &pending {
        writeln!(out, "pending {version} {name}")?;
    }
    if !unknown.is_empty() {
        let list: Vec<_> = unknown.iter().map(i64::to_string).collect();
        writeln!(out, "a newer program has also applied {}: that does no harm", list.join(", "))?;
    }
    let (here, now) = (applied.len(), report.applied_now.len());
    match pending.len() {
        0 => writeln!(out, "up to date: {here} migrations applied, {now} of them now"),
        pending => writeln!(out, "{pending} pending, {here} applied: run `sluice migrate`"),
    }
}
