//! `sluice runs show` and `export`: one run, for whoever mends it and for whoever must not know whose it is.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use workflows::ids::RunId;

use super::waits;
use crate::{
    cli::{
        moment::{relative, span},
        output::{self, EXIT_CODES, Form, or_dash, properties, table},
    },
    config::{Operator, OperatorOptions},
    ledger::postgres::read::{self, Attempt, Event, RunDetail, Step},
    process,
};

#[derive(Args)]
#[command(after_help = EXIT_CODES, override_usage = "sluice runs show [OPTIONS] <RUN>")]
pub(super) struct Show {
    /// The id of the run
    #[arg(value_name = "RUN")]
    run: RunId,

    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    config: OperatorOptions,
}

#[derive(Args)]
#[command(after_help = EXIT_CODES, override_usage = "sluice runs export [OPTIONS] <RUN>")]
pub(super) struct Export {
    /// The id of the run
    #[arg(value_name = "RUN")]
    run: RunId,

    /// In one line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: OperatorOptions,
}

impl Show {
    pub(super) fn run(self) -> ExitCode {
        process::run(self.config.parse(), async |config, _| self.show(config).await)
    }

    async fn show(&self, config: Operator) -> anyhow::Result<ExitCode> {
        let ledger = process::open(&config.ledger).await?;
        let Some(detail) = read::run(&ledger, self.run).await? else { return Ok(missing(self.run)) };
        self.form.print(&detail, describe)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Export {
    pub(super) fn run(self) -> ExitCode {
        process::run(self.config.parse(), async |config, _| self.export(config).await)
    }

    async fn export(&self, config: Operator) -> anyhow::Result<ExitCode> {
        let ledger = process::open(&config.ledger).await?;
        let Some(scenario) = read::export(&ledger, self.run).await? else { return Ok(missing(self.run)) };
        let text = match self.json {
            true => serde_json::to_string(&scenario),
            false => serde_json::to_string_pretty(&scenario),
        };
        output::line(text.context("write JSON")?)?;
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn missing(run: RunId) -> ExitCode {
    output::remark(format!("there is no run {run}: `sluice runs list` shows those that are there"));
    output::nothing_matched()
}

/// A run for people.
pub(in crate::cli) fn describe(detail: &RunDetail) -> String {
    let mut parts = vec![head(detail), steps_table(&detail.steps), attempts_table(&detail.attempts)];
    if !detail.events.is_empty() {
        parts.push(events_table(&detail.events));
    }
    parts.join("\n\n")
}

const SECOND_LOOK: &str = "a second look: two calls of an earlier run may have met";

fn head(detail: &RunDetail) -> String {
    let run = &detail.run;
    let is_dead = run.state == "dead";
    let letter = detail.dead_letter.as_ref().filter(|letter| is_dead && letter.resolved_at.is_none());
    let asked = run.cancel_by.as_ref().map(|by| match &run.cancel_reason {
        Some(reason) => format!("asked for by {by}: {reason}"),
        None => format!("asked for by {by}"),
    });
    properties([
        ("run", Some(run.id.to_string())),
        ("workflow", Some(format!("{} version {}", run.workflow, run.version))),
        ("subject", Some(run.subject.clone())),
        ("resource", Some(run.resource.clone())),
        ("state", Some(run.state.clone())),
        ("why", run.internal.then(|| SECOND_LOOK.to_owned())),
        ("started", Some(relative(run.created_at))),
        ("ended", run.ended_at.map(relative)),
        ("deadline", run.ended_at.is_none().then(|| relative(run.deadline_at))),
        ("end", asked),
        ("trace", run.traceparent.as_deref().and_then(|parent| parent.split('-').nth(1)).map(str::to_owned)),
        ("mend", letter.map(|letter| format!("sluice dead-letters show {}", letter.id))),
    ])
}

fn steps_table(steps: &[Step]) -> String {
    table(
        [
            "STEP",
            "STATE",
            "DUE",
            "WAITS FOR",
            "FAILURES",
            "CRASHES",
            "SENT BACK",
            "DEFERS",
            "ATTEMPTS",
            "WORKER",
            "ERROR",
        ],
        steps.iter().map(|step| {
            [
                step.name.clone(),
                step.state.clone(),
                or_dash(step.due_at.map(relative)),
                or_dash(waits::describe(&step.waits_for)),
                step.failures.to_string(),
                step.crashes.to_string(),
                step.send_backs.to_string(),
                step.defers.to_string(),
                step.attempts.to_string(),
                or_dash(step.worker.as_deref()),
                or_dash(step.error.as_deref()),
            ]
        }),
    )
}

fn attempts_table(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return "no attempt has ended".to_owned();
    }
    table(
        ["ATTEMPT OF", "OUTCOME", "CLASS", "HTTP", "STARTED", "TOOK", "WORKER", "ERROR", "NOTE"],
        attempts.iter().map(|attempt| {
            [
                attempt.step.clone(),
                attempt.outcome.clone(),
                or_dash(attempt.class.as_deref()),
                or_dash(attempt.http_status),
                relative(attempt.started_at),
                span(attempt.ended_at - attempt.started_at),
                attempt.worker.clone(),
                or_dash(attempt.error.as_deref()),
                or_dash(attempt.note.as_deref()),
            ]
        }),
    )
}

fn events_table(events: &[Event]) -> String {
    table(
        ["EVENT", "WRITTEN", "PUBLISHED"],
        events.iter().map(|event| {
            let published = event.published_at.map_or_else(|| "not yet".to_owned(), relative);
            [event.routing_key.clone(), relative(event.created_at), published]
        }),
    )
}
