//! `sluice queue stats`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use workflows::ids::StepName;

use crate::{
    cli::{
        moment::relative,
        output::{self, EXIT_CODES, Form, or_dash, table},
    },
    config::{Operator, StatsOptions},
    ledger::{
        Ledger,
        postgres::{
            Postgres,
            read::{self, Gate, OpenLetters, Pending, Steps},
        },
    },
    process,
    queue::{self, Queue},
};

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Stats {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    config: StatsOptions,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
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
        process::run(self.config.parse(), async |config, _| self.stats(config).await)
    }

    async fn stats(&self, config: Operator) -> anyhow::Result<ExitCode> {
        let ledger = process::open(&config.ledger).await?;
        let report = Report {
            steps: queues(&ledger, config.queue.as_ref()).await?,
            gates: read::gates(&ledger).await?,
            dead_letters: read::open_letters(&ledger).await?,
            projections_pending: read::pending_projections(&ledger).await?,
        };
        self.form.print(&report, describe)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Every queue that this build knows or that has a live step.
async fn queues(ledger: &Postgres, redis: Option<&queue::Config>) -> anyhow::Result<Vec<QueueLine>> {
    let mut steps = read::steps(ledger).await?;
    for name in ledger.registry().queues() {
        if steps.iter().all(|known| known.step != name.as_str()) {
            steps.push(Steps { step: name.into(), ..Steps::default() });
        }
    }
    steps.sort_by(|one, other| one.step.cmp(&other.step));
    let mut redis = redis.and_then(|config| said(Queue::connect(config)));
    let mut lines = Vec::with_capacity(steps.len());
    for steps in steps {
        let redis_depth = depth(&mut redis, &steps.step).await;
        lines.push(QueueLine { steps, redis_depth });
    }
    Ok(lines)
}

/// A Redis that did not answer is not asked again.
async fn depth(redis: &mut Option<Queue>, step: &str) -> Option<u64> {
    let step: StepName = step.parse().ok()?;
    let depth = said(redis.as_ref()?.depth(&step).await);
    if depth.is_none() {
        *redis = None;
    }
    depth
}

/// What could not be asked of Redis is a remark: Postgres is the truth.
fn said<T>(result: Result<T, impl std::fmt::Display>) -> Option<T> {
    result.inspect_err(|error| output::remark(format!("Redis is left out: {error}"))).ok()
}

fn describe(report: &Report) -> String {
    let mut parts = vec![steps_table(&report.steps)];
    if !report.gates.is_empty() {
        parts.push(gates_table(&report.gates));
    }
    parts.push(match report.dead_letters.is_empty() {
        true => "no dead letter waits for a person".to_owned(),
        false => letters_table(&report.dead_letters),
    });
    let Pending { count, oldest_since } = &report.projections_pending;
    if let Some(since) = oldest_since {
        parts.push(format!("{count} public rows could not be written yet, the oldest since {}", relative(*since)));
    }
    parts.join("\n\n")
}

fn steps_table(lines: &[QueueLine]) -> String {
    table(
        ["STEP", "DUE", "OLDEST DUE", "DELAYED", "WAITING", "DISPATCHED", "RUNNING", "IN REDIS"],
        lines.iter().map(|QueueLine { steps, redis_depth }| {
            [
                steps.step.clone(),
                steps.due.to_string(),
                or_dash(steps.oldest_due_at.map(relative)),
                steps.delayed.to_string(),
                steps.waiting.to_string(),
                steps.dispatched.to_string(),
                steps.running.to_string(),
                or_dash(*redis_depth),
            ]
        }),
    )
}

fn gates_table(gates: &[Gate]) -> String {
    table(
        ["GATE", "NAME", "STATE", "RATE", "CONCURRENCY"],
        gates.iter().map(|gate| {
            let rate = gate.rate.map(|rate| format!("{rate}/s"));
            [gate.scope.clone(), gate.name.clone(), state(gate), or_dash(rate), or_dash(gate.concurrency)]
        }),
    )
}

/// `open`, or everything that closes it.
fn state(gate: &Gate) -> String {
    let paused = gate
        .paused_at
        .map(|at| format!("paused by {} {}", gate.paused_by.as_deref().unwrap_or("somebody"), relative(at)));
    let held = gate.hold_until.map(|until| {
        format!("held, ends {} ({})", relative(until), gate.hold_reason.as_deref().unwrap_or("no reason kept"))
    });
    let breaker = (gate.breaker != "closed").then(|| {
        let since = gate.breaker_at.map(relative).unwrap_or_default();
        format!("breaker {} {since} ({})", gate.breaker, gate.breaker_reason.as_deref().unwrap_or("no reason kept"))
    });
    let closed: Vec<String> = [paused, held, breaker].into_iter().flatten().collect();
    if closed.is_empty() { "open".to_owned() } else { closed.join("; ") }
}

fn letters_table(letters: &[OpenLetters]) -> String {
    table(
        ["DEAD LETTERS", "STEP", "COUNT", "OLDEST"],
        letters.iter().map(|group| {
            [group.reason.clone(), group.step.clone(), group.count.to_string(), relative(group.oldest_died_at)]
        }),
    )
}
