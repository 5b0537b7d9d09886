//! `sluice runs`: every execution of a workflow, whatever became of it.

mod change;
mod show;
mod waits;

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, Subcommand};
use workflows::{
    ids::{StepName, Subject, WorkflowName},
    state::RunState,
    whatsapp::names::UserId,
};

pub(super) use self::show::describe;
use super::{
    moment::relative,
    narrower,
    output::{self, EXIT_CODES, Form, or_dash, shortened, table},
};
use crate::{
    config::{Operator, OperatorOptions},
    ledger::postgres::{
        Postgres,
        read::{self, Run, RunFilter},
    },
    process,
    supabase::users,
};

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs, the youngest first
    List(Box<List>),
    /// One run with its steps, attempts and announcements
    Show(Box<show::Show>),
    /// End a run: at once, or when the step that is running settles; a dead one is discarded
    Cancel(Box<change::Cancel>),
    /// One run as a JSON document that names nobody: to replay it in the simulator, or for a bug report
    Export(Box<show::Export>),
}

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
struct List {
    /// active, succeeded, dead or cancelled
    #[arg(long, value_name = "STATE", help_heading = "Filter", value_parser = state)]
    state: Option<RunState>,

    /// The workflow
    #[arg(long, value_name = "WORKFLOW", help_heading = "Filter")]
    workflow: Option<WorkflowName>,

    /// The current step
    #[arg(long, value_name = "STEP", help_heading = "Filter")]
    step: Option<StepName>,

    /// Whom they are for: a user's id, or the e-mail address of the user's profile
    #[arg(long, value_name = "USER|EMAIL", help_heading = "Filter")]
    subject: Option<Subject>,

    /// Started within so long, e.g. 30m, 24h, 7d
    #[arg(long, value_name = "DURATION", help_heading = "Filter", value_parser = super::duration)]
    since: Option<Duration>,

    /// The most to show
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = super::row_limit)]
    limit: usize,

    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    config: OperatorOptions,
}

pub fn run(options: Options) -> ExitCode {
    match options.command {
        Command::List(list) => process::run(list.config.parse(), async |config, _| list.run(config).await),
        Command::Show(show) => show.run(),
        Command::Cancel(cancel) => cancel.run(),
        Command::Export(export) => export.run(),
    }
}

impl List {
    async fn run(&self, config: Operator) -> anyhow::Result<ExitCode> {
        let ledger = process::open(&config.ledger).await?;
        let runs = match self.filter(&ledger).await? {
            Some(filter) => {
                let found = read::runs(&ledger, &filter, self.limit + 1).await;
                found.map_err(|error| narrower(error, "--state active, --since or --subject"))?
            }
            None => Vec::new(),
        };
        self.form.list(("runs", "no run matches"), runs, self.limit, runs_table)
    }

    /// None where nobody has the e-mail address.
    async fn filter(&self, ledger: &Postgres) -> anyhow::Result<Option<RunFilter>> {
        let subject = match &self.subject {
            Some(email) if email.as_str().contains('@') => {
                let user = users::by_email(ledger, email.as_str()).await;
                let user = user.context("look the address up among the profiles: give the user's id instead")?;
                if user.is_none() {
                    output::remark(format!("no profile has the address {email}"));
                    return Ok(None);
                }
                user.map(UserId::subject)
            }
            subject => subject.clone(),
        };
        let (workflow, step) = (self.workflow.clone(), self.step.clone());
        Ok(Some(RunFilter { id: None, state: self.state, workflow, step, subject, since: self.since }))
    }
}

fn runs_table(runs: &[Run]) -> String {
    table(
        [
            "RUN",
            "STATE",
            "WORKFLOW",
            "STEP",
            "STEP STATE",
            "WAITS FOR",
            "FAILURES",
            "STARTED",
            "ENDED",
            "SUBJECT",
            "ERROR",
        ],
        runs.iter().map(|run| {
            [
                run.id.to_string(),
                run.state.clone(),
                run.workflow.clone(),
                or_dash(run.step.as_deref()),
                or_dash(run.step_state.as_deref()),
                shortened(waits::describe(&run.waits_for).as_deref()),
                run.failures.to_string(),
                relative(run.created_at),
                or_dash(run.ended_at.map(relative)),
                run.subject.clone(),
                shortened(run.error.as_deref()),
            ]
        }),
    )
}

fn state(text: &str) -> Result<RunState, String> {
    text.parse().map_err(|_| "expected active, succeeded, dead or cancelled".to_owned())
}
