//! `sluice runs`: every execution of a workflow, whatever became of it.

mod show;
mod waits;

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use workflows::{
    ids::{RunId, StepName, Subject, WorkflowName},
    state::RunState,
    whatsapp::names::UserId,
};

pub(super) use self::show::describe;
use super::{
    by::ChangeOptions,
    moment::relative,
    narrower, on_ledger,
    output::{self, Column, EXIT_CODES, FAILED, Form, NOTHING_MATCHED, Page, done, or_dash, refuse, shortened},
};
use crate::{
    config::OperatorOptions,
    ledger::{
        By, Changed, OperatorLedger,
        postgres::{
            Postgres,
            read::{self, Run, RunFilter},
        },
    },
    supabase,
};

#[derive(Subcommand)]
#[command(after_help = EXIT_CODES)]
pub enum Command {
    /// Runs, the youngest first
    List(Box<List>),
    /// One run with its steps, attempts and announcements
    #[command(after_help = EXIT_CODES, override_usage = "sluice runs show [OPTIONS] <RUN>")]
    Show {
        /// The id of the run
        run: RunId,

        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        config: Box<OperatorOptions>,
    },
    /// End a run: at once, or when the step that is running settles; a dead one is discarded
    #[command(after_help = EXIT_CODES, override_usage = "sluice runs cancel [OPTIONS] <RUN>")]
    Cancel {
        /// The id of the run
        run: RunId,

        #[command(flatten)]
        change: Box<ChangeOptions>,
    },
    /// One run as a JSON document that names nobody: to replay it in the simulator, or for a bug
    /// report
    #[command(after_help = EXIT_CODES, override_usage = "sluice runs export [OPTIONS] <RUN>")]
    Export {
        /// The id of the run
        run: RunId,

        /// In one line
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        config: Box<OperatorOptions>,
    },
}

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct List {
    /// active, succeeded, dead or cancelled
    #[arg(long, value_name = "STATE", help_heading = "Filter", value_parser = state)]
    state: Option<RunState>,

    /// The workflow
    #[arg(long, value_name = "WORKFLOW", help_heading = "Filter")]
    workflow: Option<WorkflowName>,

    /// The current step
    #[arg(long, value_name = "STEP", help_heading = "Filter")]
    step: Option<StepName>,

    /// Whom they are for: a user's id, or another subject; where no run has it, the e-mail address
    /// of a user's profile
    #[arg(long, value_name = "USER|EMAIL", help_heading = "Filter")]
    subject: Option<Subject>,

    /// Started within so long, e.g. 30m, 24h, 7d
    #[arg(long, value_name = "DURATION", help_heading = "Filter", value_parser = super::duration)]
    since: Option<Duration>,

    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    config: OperatorOptions,
}

impl Command {
    pub fn run(self) -> ExitCode {
        match self {
            Self::List(list) => list.run(),
            Self::Show { run, form, config } => {
                on_ledger(&config, async |ledger| match read::run(&ledger, run).await? {
                    Some(detail) => form.print(&detail, describe),
                    None => missing(run),
                })
            }
            Self::Cancel { run, change } => change.run(async |ledger, by| cancel(&ledger, run, &by, change.form).await),
            Self::Export { run, json, config } => on_ledger(&config, async |ledger| export(&ledger, run, json).await),
        }
    }
}

impl List {
    fn run(&self) -> ExitCode {
        on_ledger(&self.config, async |ledger| {
            let runs = match self.filter(&ledger).await? {
                Some(filter) => find(&ledger, &filter, self.page.asks()).await?,
                None => Vec::new(),
            };
            self.page.list(("runs", "no run matches"), runs, RUNS)
        })
    }

    /// None where nobody has the e-mail address.
    async fn filter(&self, ledger: &Postgres) -> anyhow::Result<Option<RunFilter>> {
        let subject = match &self.subject {
            Some(text) if text.as_str().contains('@') && !is_subject(ledger, text).await? => {
                let user = supabase::user_by_email(ledger, text.as_str()).await;
                let user = user.context("look the address up among the profiles: give the user's id instead")?;
                if user.is_none() {
                    output::remark(format!("no run has the subject {text}, and no profile has the address {text}"));
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

/// Whether a run is for this very text: a workflow may take its subjects from anywhere.
async fn is_subject(ledger: &Postgres, text: &Subject) -> anyhow::Result<bool> {
    let only = RunFilter { subject: Some(text.clone()), ..RunFilter::default() };
    Ok(!find(ledger, &only, 1).await?.is_empty())
}

async fn find(ledger: &Postgres, filter: &RunFilter, most: usize) -> anyhow::Result<Vec<Run>> {
    let found = read::runs(ledger, filter, most).await;
    found.map_err(|error| narrower(error, "--state active, --since or --subject"))
}

const RUNS: &[Column<Run>] = &[
    ("RUN", |run| run.id.to_string()),
    ("STATE", |run| run.state.clone()),
    ("WORKFLOW", |run| run.workflow.clone()),
    ("STEP", |run| or_dash(run.step.as_deref())),
    ("STEP STATE", |run| or_dash(run.step_state.as_deref())),
    ("WAITS FOR", |run| shortened(waits::describe(&run.waits_for).as_deref())),
    ("FAILURES", |run| run.failures.to_string()),
    ("STARTED", |run| relative(run.created_at)),
    ("ENDED", |run| or_dash(run.ended_at.map(relative))),
    ("SUBJECT", |run| run.subject.clone()),
    ("ERROR", |run| shortened(run.error.as_deref())),
];

/// What `--json` prints.
#[derive(Serialize)]
struct Cancelled {
    run: RunId,
    /// `cancelled`, `at_settle` or `skipped`.
    result: &'static str,
    text: String,
}

async fn cancel(ledger: &Postgres, run: RunId, by: &By, form: Form) -> anyhow::Result<ExitCode> {
    let (result, text) = match ledger.cancel(run, by).await? {
        Changed::Yes => ("cancelled", format!("run {run} is cancelled")),
        Changed::AtSettle => ("at_settle", format!("run {run} ends when the step that is running settles")),
        Changed::No(state) => {
            ("skipped", format!("run {run} has ended already ({}): nothing to cancel", state.as_str()))
        }
        Changed::Missing => return missing(run),
    };
    form.print(&Cancelled { run, result, text }, |cancelled| cancelled.text.clone())?;
    Ok(ExitCode::from(if result == "skipped" { FAILED } else { 0 }))
}

async fn export(ledger: &Postgres, run: RunId, in_one_line: bool) -> anyhow::Result<ExitCode> {
    let Some(scenario) = read::export(ledger, run).await? else { return missing(run) };
    let text = match in_one_line {
        true => serde_json::to_string(&scenario),
        false => serde_json::to_string_pretty(&scenario),
    };
    done(text.context("write JSON")?)
}

fn missing(run: RunId) -> anyhow::Result<ExitCode> {
    refuse(NOTHING_MATCHED, format!("there is no run {run}: `sluice runs list` shows those that are there"))
}

fn state(text: &str) -> Result<RunState, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected active, succeeded, dead or cancelled".to_owned())
}
