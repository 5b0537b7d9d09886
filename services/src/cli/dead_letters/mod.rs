//! `sluice dead-letters`: what needs a person, and what the person does about it.

mod bulk;
mod report;

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use workflows::{
    ids::{RunId, StepName, WorkflowName},
    outcome::Class,
    state::DeathReason,
};

use self::report::Action;
use super::{
    moment::relative,
    on_ledger,
    output::{Column, EXIT_CODES, Form, NOTHING_MATCHED, Page, or_dash, properties, refuse, shortened},
    runs,
};
use crate::{
    config::OperatorOptions,
    ledger::postgres::{
        Postgres,
        read::{self, Letter, LetterFilter, LetterId, RunDetail},
    },
};

#[derive(Subcommand)]
#[command(after_help = EXIT_CODES)]
pub enum Command {
    /// The dead letters that wait for a person, the youngest first
    #[command(after_help = EXIT_CODES)]
    List {
        /// Those that were revived or discarded too
        #[arg(long)]
        resolved: bool,

        #[command(flatten)]
        page: Page,
        #[command(flatten)]
        filter: Box<FilterOptions>,
        #[command(flatten)]
        config: Box<OperatorOptions>,
    },
    /// One dead letter with its run, its steps and every attempt
    #[command(after_help = EXIT_CODES, override_usage = "sluice dead-letters show [OPTIONS] <ID|RUN>")]
    Show {
        /// The number of the dead letter, or the id of its run
        #[arg(value_name = "ID|RUN", value_parser = letter_id)]
        id: LetterId,

        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        config: Box<OperatorOptions>,
    },
    /// Give dead runs a fresh budget: each resumes at the step that failed and keeps what the steps
    /// before it made
    #[command(override_usage = "sluice dead-letters retry [OPTIONS] <ID|RUN>...
       sluice dead-letters retry [OPTIONS] with one filter or several, or --all")]
    Retry(Box<bulk::Bulk>),
    /// End dead runs for good
    #[command(override_usage = "sluice dead-letters discard [OPTIONS] <ID|RUN>...
       sluice dead-letters discard [OPTIONS] with one filter or several, or --all")]
    Discard(Box<bulk::Bulk>),
}

/// Which dead letters; all that is given must fit.
#[derive(Args)]
#[command(next_help_heading = "Filter")]
#[group(id = "filter", multiple = true)]
pub struct FilterOptions {
    /// permanent_error, attempts_exhausted, worker_lost or deadline_exceeded
    #[arg(long, value_name = "REASON", value_parser = label::<DeathReason>)]
    reason: Option<DeathReason>,

    /// The step that failed
    #[arg(long, value_name = "STEP")]
    step: Option<StepName>,

    /// The kind of the last failure, e.g. server_error, key_refused, name_taken
    #[arg(long, value_name = "CLASS", value_parser = label::<Class>)]
    class: Option<Class>,

    /// The workflow
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<WorkflowName>,

    /// Died within so long, e.g. 30m, 24h, 7d
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    since: Option<Duration>,
}

impl FilterOptions {
    fn filter(&self, resolved: bool) -> LetterFilter {
        let Self { reason, class, since, .. } = *self;
        LetterFilter { resolved, reason, step: self.step.clone(), class, workflow: self.workflow.clone(), since }
    }
}

impl Command {
    pub fn run(self) -> ExitCode {
        match self {
            Self::List { resolved, page, filter, config } => on_ledger(&config, async |ledger| {
                let filter = filter.filter(resolved);
                let dead_letters = read::letters(&ledger, &filter, page.asks()).await?;
                page.list(("dead_letters", "no dead letter matches"), dead_letters, LETTERS)
            }),
            Self::Show { id, form, config } => on_ledger(&config, async |ledger| show(&ledger, id, form).await),
            Self::Retry(bulk) => bulk.run(Action::Revive),
            Self::Discard(bulk) => bulk.run(Action::Discard),
        }
    }
}

const LETTERS: &[Column<Letter>] = &[
    ("ID", |letter| letter.id.to_string()),
    ("RUN", |letter| letter.run.to_string()),
    ("STEP", |letter| letter.step.clone()),
    ("REASON", |letter| letter.reason.clone()),
    ("CLASS", |letter| or_dash(letter.class.as_deref())),
    ("DIED", |letter| relative(letter.died_at)),
    ("RESOLVED", |letter| or_dash(resolved(letter))),
    ("SUBJECT", |letter| letter.subject.clone()),
    ("ERROR", |letter| shortened(letter.error.as_deref())),
];

async fn show(ledger: &Postgres, id: LetterId, form: Form) -> anyhow::Result<ExitCode> {
    let Some(letter) = read::letters_by_id(ledger, &[id]).await?.pop() else {
        let text = "there is no such dead letter: `sluice dead-letters list` shows those that are there";
        return refuse(NOTHING_MATCHED, text);
    };
    let run = read::run(ledger, RunId::new(letter.run)).await?;
    let detail = run.context("the run was removed this very moment")?;
    // The one that was asked for, where the run has died more than once.
    let detail = RunDetail { dead_letter: Some(letter.clone()), ..detail };
    form.print(&detail, |detail| {
        // Its run would name this very command as the mend.
        let run = RunDetail { dead_letter: None, ..detail.clone() };
        format!("{}\n\n{}", describe(&letter), runs::describe(&run))
    })
}

fn describe(letter: &Letter) -> String {
    let open = letter.resolved_at.is_none();
    properties([
        ("dead letter", Some(letter.id.to_string())),
        ("reason", Some(letter.reason.clone())),
        ("step", Some(letter.step.clone())),
        ("class", letter.class.clone()),
        ("error", letter.error.clone()),
        ("died", Some(relative(letter.died_at))),
        ("resolved", resolved(letter)),
        ("note", letter.note.clone()),
        ("mend", open.then(|| format!("sluice dead-letters retry {}", letter.id))),
        ("or end it", open.then(|| format!("sluice dead-letters discard {}", letter.id))),
    ])
}

/// What became of it: `revived by ana 3m ago`.
fn resolved(letter: &Letter) -> Option<String> {
    let (resolution, at) = (letter.resolution.as_deref()?, relative(letter.resolved_at?));
    Some(format!("{resolution} by {} {at}", letter.resolved_by.as_deref().unwrap_or("somebody")))
}

/// Its number, or its run's id.
fn letter_id(text: &str) -> Result<LetterId, String> {
    let number = text.parse().map(LetterId::Number).ok();
    let id = number.or_else(|| text.parse().map(LetterId::Run).ok());
    id.ok_or_else(|| "expected the number of a dead letter or the uuid of its run, as `list` shows them".to_owned())
}

/// One of the ledger's labels; the message of a wrong one lists the right ones.
fn label<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| {
        let error = error.to_string();
        let labels = error.split_once("expected ").map_or(error.as_str(), |(_, labels)| labels);
        format!("expected {}", labels.replace('`', ""))
    })
}
