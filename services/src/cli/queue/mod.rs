//! `sluice queue`: what waits, and the gates before it.

mod stats;

use std::{fmt::Display, ops::RangeInclusive, process::ExitCode, str::FromStr};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde::Serialize;
use workflows::ids::{StepName, WorkflowName};

use super::{
    by::ChangeOptions,
    output::{EXIT_CODES, NOTHING_MATCHED, refuse},
};
use crate::ledger::{
    self, By, OperatorLedger, Scope,
    postgres::{Postgres, read},
};

#[derive(Subcommand)]
#[command(after_help = EXIT_CODES)]
pub enum Command {
    /// What waits before each step and each gate, and the dead letters
    Stats(Box<stats::Stats>),
    /// Nothing behind the gate starts until it is resumed; what is running goes on
    #[command(override_usage = "sluice queue pause [OPTIONS] <STEP|--host <HOST>|--workflow <WORKFLOW>>")]
    Pause(Box<Passage>),
    /// End a pause, or a hold that the API asked for (Retry-After); a breaker closes by itself
    #[command(override_usage = "sluice queue resume [OPTIONS] <STEP|--host <HOST>|--workflow <WORKFLOW>>")]
    Resume(Box<Passage>),
    /// How many steps may start per second
    #[command(after_help = EXIT_CODES, allow_missing_positional = true)]
    #[command(override_usage = "sluice queue rate [OPTIONS] <STEP|--host <HOST>> <N>")]
    Rate {
        #[command(flatten)]
        gate: LimitedGate,

        /// Step starts per second, or off
        #[arg(value_name = "N", value_parser = |text: &str| limit(text, 0.001..=100_000.0))]
        rate: Limit<f64>,

        #[command(flatten)]
        change: Box<ChangeOptions>,
    },
    /// How many steps may be running at once
    #[command(after_help = EXIT_CODES, allow_missing_positional = true)]
    #[command(override_usage = "sluice queue concurrency [OPTIONS] <STEP|--host <HOST>> <N>")]
    Concurrency {
        #[command(flatten)]
        gate: LimitedGate,

        /// How many at once, or off
        #[arg(value_name = "N", value_parser = |text: &str| limit(text, 1..=1_000_000_u32))]
        limit: Limit<u32>,

        #[command(flatten)]
        change: Box<ChangeOptions>,
    },
}

/// For `pause` and `resume`.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct Passage {
    #[command(flatten)]
    gate: AnyGate,
    #[command(flatten)]
    change: ChangeOptions,
}

#[derive(Args)]
#[group(id = "gate", required = true, multiple = false)]
struct AnyGate {
    /// The step, e.g. create-instance
    #[arg(value_name = "STEP")]
    step: Option<StepName>,

    /// Instead: every step that calls this host of the API, named with its port where its URL has
    /// one
    #[arg(long, value_name = "HOST")]
    host: Option<String>,

    /// Instead: every run of this workflow
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<WorkflowName>,
}

/// A workflow has neither rate nor concurrency: its steps have.
#[derive(Args)]
#[group(id = "gate", required = true, multiple = false)]
pub struct LimitedGate {
    /// The step, e.g. create-instance
    #[arg(value_name = "STEP")]
    step: Option<StepName>,

    /// Instead: all steps that call this host of the API together
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

/// A limit, or none.
#[derive(Debug, Clone, Copy)]
pub struct Limit<T>(Option<T>);

/// What `--json` prints.
#[derive(Serialize)]
struct Changed {
    action: &'static str,
    scope: &'static str,
    name: String,
    /// `false`: it was so already.
    changed: bool,
}

impl Command {
    pub fn run(self) -> ExitCode {
        match self {
            Self::Stats(stats) => stats.run(),
            Self::Pause(passage) => {
                on_gate("pause", passage.gate.named(), &passage.change, async |ledger, scope, name, by| {
                    let changed = ledger.pause(scope, name, by).await?;
                    Ok((changed, if changed { "is paused" } else { "was paused already" }.to_owned()))
                })
            }
            Self::Resume(passage) => {
                on_gate("resume", passage.gate.named(), &passage.change, async |ledger, scope, name, by| {
                    let changed = ledger.resume(scope, name, by).await?;
                    Ok((changed, if changed { "is resumed" } else { "was neither paused nor held" }.to_owned()))
                })
            }
            Self::Rate { gate, rate: Limit(rate), change: options } => {
                on_gate("rate", gate.named(), &options, async |ledger, scope, name, by| {
                    let at_most = rate.map(|rate| format!("starts at most {rate} a second"));
                    let text = at_most.unwrap_or_else(|| "starts without a limit".to_owned());
                    Ok((ledger.set_rate(scope, name, rate, by).await?, text))
                })
            }
            Self::Concurrency { gate, limit: Limit(limit), change: options } => {
                on_gate("concurrency", gate.named(), &options, async |ledger, scope, name, by| {
                    let at_most = limit.map(|limit| format!("runs at most {limit} at once"));
                    let text = at_most.unwrap_or_else(|| "runs without a limit".to_owned());
                    Ok((ledger.set_concurrency(scope, name, limit, by).await?, text))
                })
            }
        }
    }
}

/// Changes one gate, if it is one: a mistyped name would be a gate before nothing.
fn on_gate(
    action: &'static str,
    gate: Option<(Scope, String)>,
    options: &ChangeOptions,
    change: impl AsyncFnOnce(&Postgres, Scope, &str, &By) -> ledger::Result<(bool, String)>,
) -> ExitCode {
    options.run(async |ledger, by| {
        let (scope, name) = gate.ok_or_else(|| anyhow!("no gate was named"))?;
        let known = read::known(&ledger, scope).await?;
        if !known.contains(&name) {
            let known = match known.is_empty() {
                true => "none yet (a relay or worker registers its workflows when it starts)".to_owned(),
                false => known.join(", "),
            };
            let scope = scope.as_str();
            return refuse(NOTHING_MATCHED, format!("there is no {scope} {name}; those that are there: {known}"));
        }
        let (changed, text) = change(&ledger, scope, &name, &by).await?;
        let scope = scope.as_str();
        let text = format!("{scope} {name} {text}");
        options.form.print(&Changed { action, scope, name, changed }, |_| text)
    })
}

impl AnyGate {
    fn named(self) -> Option<(Scope, String)> {
        let workflow = self.workflow.map(|workflow| (Scope::Workflow, workflow.to_string()));
        workflow.or_else(|| LimitedGate { step: self.step, host: self.host }.named())
    }
}

impl LimitedGate {
    fn named(self) -> Option<(Scope, String)> {
        let step = self.step.map(|step| (Scope::Step, step.to_string()));
        step.or(self.host.map(|host| (Scope::Host, host)))
    }
}

fn limit<T: FromStr + PartialOrd + Display>(text: &str, range: RangeInclusive<T>) -> Result<Limit<T>, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    match number {
        None if text != "off" => Err(format!("expected {} to {}, or off", range.start(), range.end())),
        number => Ok(Limit(number)),
    }
}
