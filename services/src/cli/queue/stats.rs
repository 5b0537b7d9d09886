//! `sluice queue stats`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::{
    cli::{
        moment::relative,
        output::{self, Column, EXIT_CODES, Form, or_dash, shortened, table},
    },
    config::StatsOptions,
    ledger::postgres::read::{self, COUNTED, Gate, OpenLetters, Pending, ReadOnly, Steps, Taken},
    process,
    queue::{self, Queue},
};

const COLUMNS: &str = "\
Columns of the steps:
  GATES              whether a step may start: pass, or closed and why
  DUE                may start now
  HELD               could start now, were a gate not closed
  SCHEDULED          start later: a retry's delay is not over
  WAITING            wait for an earlier step, or for their turn behind another run
  RUNNING            a worker has them in hand
  OLDEST UNFINISHED  since when the oldest that is due or running could have started
  IN REDIS           hints that a step is due; - where REDIS_URL is not set or does not answer";

#[derive(Args)]
#[command(after_help = format!("{COLUMNS}\n\n{EXIT_CODES}"))]
pub struct Stats {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    config: StatsOptions,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// Why the database takes no writes, or is not meant to; none where it does.
    read_only: Option<ReadOnly>,
    steps: Vec<QueueLine>,
    gates: Vec<Gate>,
    dead_letters: Vec<OpenLetters>,
    projections_pending: Pending,
}

#[derive(Serialize)]
struct QueueLine {
    #[serde(flatten)]
    steps: Steps,
    /// How many hints Redis holds; none where it was not or could not be asked.
    redis_depth: Option<u64>,
}

impl Stats {
    pub(super) fn run(self) -> ExitCode {
        process::read(self.config.parse(), async |(ledger, queue)| {
            let ledger = process::open(&ledger).await?;
            let read_only = read::read_only(&ledger).await?;
            let Taken { steps, gates, letters: dead_letters, pending: projections_pending, .. } =
                read::standing(&ledger).await?;
            let steps = with_depths(steps, queue.as_ref()).await;
            self.form.print(&Report { read_only, steps, gates, dead_letters, projections_pending }, describe)
        })
    }
}

/// A Redis that did not answer is not asked again.
async fn with_depths(steps: Vec<Steps>, redis: Option<&queue::Config>) -> Vec<QueueLine> {
    let mut redis = redis.and_then(|config| said(Queue::connect(config)));
    let mut lines = Vec::with_capacity(steps.len());
    for steps in steps {
        let mut redis_depth = None;
        if let (Some(queue), Ok(step)) = (&redis, steps.step.parse()) {
            redis_depth = said(queue.depth(&step).await);
            redis = redis.filter(|_| redis_depth.is_some());
        }
        lines.push(QueueLine { steps, redis_depth });
    }
    lines
}

/// What could not be asked of Redis is a remark: Postgres is the truth.
fn said<T>(result: Result<T, impl std::fmt::Display>) -> Option<T> {
    result.inspect_err(|error| output::remark(format!("Redis is left out: {error}: check REDIS_URL"))).ok()
}

fn describe(report: &Report) -> String {
    let mut parts: Vec<String> = report.read_only.map(remark_of).into_iter().collect();
    parts.push(match report.steps.is_empty() {
        true => "no workflow is registered yet: a relay or worker does it when it starts".to_owned(),
        false => table(&report.steps, STEPS),
    });
    if report.steps.iter().any(|line| line.steps.capped) {
        parts.push(format!("of a queue no more than {} steps were counted", COUNTED - 1));
    }
    if !report.gates.is_empty() {
        parts.push(table(&report.gates, GATES));
        parts.extend(breakers(&report.gates));
    }
    parts.push(match report.dead_letters.is_empty() {
        true => "no dead letter waits for a person".to_owned(),
        false => table(&report.dead_letters, LETTERS),
    });
    let Pending { count, oldest_since } = &report.projections_pending;
    if let Some(since) = oldest_since {
        parts.push(format!(
            "{count} subjects' rows in the app could not be written yet, the first of them {}",
            relative(*since)
        ));
    }
    parts.join("\n\n")
}

fn remark_of(read_only: ReadOnly) -> String {
    match read_only {
        ReadOnly::Standby => {
            "this database is a standby and takes no writes: nothing moves until DATABASE_URL leads to the primary"
        }
        ReadOnly::ByDefault => {
            "this database is read-only by default (Supabase sets it so when the disk is full): sign-ups fail; Sluice writes \
             all the same"
        }
    }
    .to_owned()
}

const STEPS: &[Column<QueueLine>] = &[
    ("STEP", |line| line.steps.step.clone()),
    ("GATES", |line| gates_of(&line.steps)),
    ("DUE", |line| line.steps.due.to_string()),
    ("HELD", |line| line.steps.held.to_string()),
    ("SCHEDULED", |line| line.steps.scheduled.to_string()),
    ("WAITING", |line| line.steps.waiting.to_string()),
    ("RUNNING", |line| line.steps.running.to_string()),
    ("OLDEST UNFINISHED", |line| or_dash(line.steps.oldest_unfinished_at.map(relative))),
    ("IN REDIS", |line| or_dash(line.redis_depth)),
];

/// How the gates of the step and its host stand together.
fn gates_of(steps: &Steps) -> String {
    let state = if steps.passes { "pass" } else { "closed" };
    match steps.reason.as_deref() {
        None => state.to_owned(),
        reason => format!("{state}: {}", shortened(reason)),
    }
}

const GATES: &[Column<Gate>] = &[
    ("GATE", |gate| gate.scope.clone()),
    ("NAME", |gate| gate.name.clone()),
    ("STATE", state),
    ("RATE", |gate| or_dash(gate.rate.map(|rate| format!("{rate}/s")))),
    ("CONCURRENCY", |gate| or_dash(gate.concurrency)),
];

/// Why breakers are open, in full: a line each, for which a column has no room.
fn breakers(gates: &[Gate]) -> Option<String> {
    let lines = gates.iter().filter(|gate| gate.breaker != "closed").map(|gate| {
        let reason = gate.breaker_reason.as_deref().unwrap_or("no reason kept");
        format!("the breaker of {} {}: {}", gate.scope, gate.name, output::clean(reason))
    });
    let lines: Vec<String> = lines.collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// `passes`, or everything that closes it.
fn state(gate: &Gate) -> String {
    let paused = gate
        .paused_at
        .map(|at| format!("paused by {} {}", gate.paused_by.as_deref().unwrap_or("somebody"), relative(at)));
    let held = gate.hold_until.map(|until| {
        format!("held, ends {} ({})", relative(until), gate.hold_reason.as_deref().unwrap_or("no reason kept"))
    });
    let breaker = (gate.breaker != "closed").then(|| {
        let since = gate.breaker_at.map(relative).unwrap_or_default();
        let state = gate.breaker.replace('_', "-");
        format!("breaker {state}ed {since}")
    });
    let causes: Vec<String> = [paused, held, breaker].into_iter().flatten().collect();
    match (gate.passes, causes.is_empty()) {
        (true, true) => "passes".to_owned(),
        (true, false) => format!("passes one run at a time: {}", causes.join("; ")),
        (false, _) => format!("closed: {}", causes.join("; ")),
    }
}

const LETTERS: &[Column<OpenLetters>] = &[
    ("DEAD LETTERS", |group| group.reason.clone()),
    ("STEP", |group| group.step.clone()),
    ("COUNT", |group| group.count.to_string()),
    ("OLDEST", |group| relative(group.oldest_died_at)),
];
