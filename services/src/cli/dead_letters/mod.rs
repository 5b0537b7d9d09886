//! `sluice dead-letters`: what needs a person, and what the person does about it.

mod bulk;
mod report;
mod show;

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use workflows::{
    ids::{StepName, WorkflowName},
    outcome::Class,
    state::DeathReason,
};

use super::{
    moment::relative,
    output::{EXIT_CODES, Form, or_dash, shortened, table},
};
use crate::{
    config::{Operator, OperatorOptions},
    ledger::postgres::read::{self, Letter, LetterFilter, LetterId, Which},
    process,
};

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The dead letters that wait for a person, the youngest first
    List(Box<List>),
    /// One dead letter with its run, its steps and every attempt
    Show(Box<show::Show>),
    /// Give dead runs a fresh budget: each resumes at the step that failed and keeps what the steps before it made
    Retry(Box<bulk::Retry>),
    /// End dead runs for good
    Discard(Box<bulk::Discard>),
}

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
struct List {
    /// Those that were revived or discarded too
    #[arg(long)]
    resolved: bool,

    /// The most to show
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = super::row_limit)]
    limit: usize,

    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    filter: FilterOptions,
    #[command(flatten)]
    config: OperatorOptions,
}

/// Which dead letters; all that is given must fit.
#[derive(Args)]
#[command(next_help_heading = "Filter")]
#[group(id = "filter", multiple = true)]
struct FilterOptions {
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
    fn filter(&self, which: Which) -> LetterFilter {
        let Self { reason, class, since, .. } = *self;
        LetterFilter { which, reason, step: self.step.clone(), class, workflow: self.workflow.clone(), since }
    }
}

pub fn run(options: Options) -> ExitCode {
    match options.command {
        Command::List(list) => process::run(list.config.parse(), async |config, _| list.run(config).await),
        Command::Show(show) => show.run(),
        Command::Retry(retry) => retry.run(),
        Command::Discard(discard) => discard.run(),
    }
}

impl List {
    async fn run(&self, config: Operator) -> anyhow::Result<ExitCode> {
        let ledger = process::open(&config.ledger).await?;
        let filter = self.filter.filter(if self.resolved { Which::All } else { Which::Open });
        let dead_letters = read::letters(&ledger, &filter, self.limit + 1).await?;
        self.form.list(("dead_letters", "no dead letter matches"), dead_letters, self.limit, letters_table)
    }
}

fn letters_table(letters: &[Letter]) -> String {
    table(
        ["ID", "RUN", "STEP", "REASON", "CLASS", "DIED", "RESOLVED", "SUBJECT", "ERROR"],
        letters.iter().map(|letter| {
            [
                letter.id.to_string(),
                letter.run.to_string(),
                letter.step.clone(),
                letter.reason.clone(),
                or_dash(letter.class.as_deref()),
                relative(letter.died_at),
                or_dash(resolved(letter)),
                letter.subject.clone(),
                shortened(letter.error.as_deref()),
            ]
        }),
    )
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
