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
    Rate(Box<Rate>),
    /// How many steps may be running at once
    Concurrency(Box<Concurrency>),
}

impl Command {
    pub fn run(self) -> ExitCode {
        match self {
            Self::Stats(stats) => stats.run(),
            Self::Pause(passage) => passage.pause(),
            Self::Resume(passage) => passage.resume(),
            Self::Rate(rate) => rate.run(),
            Self::Concurrency(concurrency) => concurrency.run(),
        }
    }
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
#[command(after_help = EXIT_CODES, allow_missing_positional = true)]
#[command(override_usage = "sluice queue rate [OPTIONS] <STEP|--host <HOST>> <N>")]
pub struct Rate {
    #[command(flatten)]
    gate: LimitedGate,

    /// Step starts per second, or off
    #[arg(value_name = "N", value_parser = |text: &str| limit(text, 0.001..=100_000.0))]
    rate: Limit<f64>,

    #[command(flatten)]
    change: ChangeOptions,
}

#[derive(Args)]
#[command(after_help = EXIT_CODES, allow_missing_positional = true)]
#[command(override_usage = "sluice queue concurrency [OPTIONS] <STEP|--host <HOST>> <N>")]
pub struct Concurrency {
    #[command(flatten)]
    gate: LimitedGate,

    /// How many at once, or off
    #[arg(value_name = "N", value_parser = |text: &str| limit(text, 1..=1_000_000_u32))]
    limit: Limit<u32>,

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
struct LimitedGate {
    /// The step, e.g. create-instance
    #[arg(value_name = "STEP")]
    step: Option<StepName>,

    /// Instead: all steps that call this host of the API together
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

/// A limit, or none.
#[derive(Debug, Clone, Copy)]
struct Limit<T>(Option<T>);

/// What `--json` prints.
#[derive(Serialize)]
struct Changed {
    action: &'static str,
    scope: &'static str,
    name: String,
    /// `false`: it was so already.
    changed: bool,
}

impl Passage {
    fn pause(self) -> ExitCode {
        run("pause", &self.change, Gate::any(self.gate), async |ledger, Gate { scope, name }, by| {
            let changed = ledger.pause(*scope, name, by).await?;
            Ok((changed, if changed { "is paused" } else { "was paused already" }.to_owned()))
        })
    }

    fn resume(self) -> ExitCode {
        run("resume", &self.change, Gate::any(self.gate), async |ledger, Gate { scope, name }, by| {
            let changed = ledger.resume(*scope, name, by).await?;
            Ok((changed, if changed { "is resumed" } else { "was neither paused nor held" }.to_owned()))
        })
    }
}

impl Rate {
    fn run(self) -> ExitCode {
        let Limit(rate) = self.rate;
        run("rate", &self.change, Gate::limited(self.gate), async |ledger, Gate { scope, name }, by| {
            let changed = ledger.set_rate(*scope, name, rate, by).await?;
            let text =
                rate.map_or("starts without a limit".to_owned(), |rate| format!("starts at most {rate} a second"));
            Ok((changed, text))
        })
    }
}

impl Concurrency {
    fn run(self) -> ExitCode {
        let Limit(limit) = self.limit;
        run("concurrency", &self.change, Gate::limited(self.gate), async |ledger, Gate { scope, name }, by| {
            let changed = ledger.set_concurrency(*scope, name, limit, by).await?;
            let text = limit.map_or("runs without a limit".to_owned(), |limit| format!("runs at most {limit} at once"));
            Ok((changed, text))
        })
    }
}

/// Changes one gate, if it is one.
fn run(
    action: &'static str,
    options: &ChangeOptions,
    gate: Option<Gate>,
    change: impl AsyncFnOnce(&Postgres, &Gate, &By) -> ledger::Result<(bool, String)>,
) -> ExitCode {
    options.run(async |ledger, by| {
        let gate = gate.ok_or_else(|| anyhow!("no gate was named"))?;
        if let Some(refusal) = gate.refusal(&ledger).await? {
            return refuse(NOTHING_MATCHED, refusal);
        }
        let (changed, text) = change(&ledger, &gate, &by).await?;
        let (scope, name) = (gate.scope.as_str(), gate.name);
        let text = format!("{scope} {name} {text}");
        options.form.print(&Changed { action, scope, name, changed }, |_| text)
    })
}

/// The gate that was named.
struct Gate {
    scope: Scope,
    name: String,
}

impl Gate {
    fn any(AnyGate { step, host, workflow }: AnyGate) -> Option<Self> {
        let workflow = workflow.map(|workflow| Self { scope: Scope::Workflow, name: workflow.to_string() });
        workflow.or_else(|| Self::limited(LimitedGate { step, host }))
    }

    fn limited(LimitedGate { step, host }: LimitedGate) -> Option<Self> {
        let step = step.map(|step| Self { scope: Scope::Step, name: step.to_string() });
        step.or_else(|| host.map(|name| Self { scope: Scope::Host, name }))
    }

    /// A mistyped name would be a gate before nothing.
    async fn refusal(&self, ledger: &Postgres) -> ledger::Result<Option<String>> {
        let known = read::known(ledger, self.scope).await?;
        if known.contains(&self.name) {
            return Ok(None);
        }
        let (scope, name) = (self.scope.as_str(), &self.name);
        let known = match known.is_empty() {
            true => "none yet (a relay or worker registers its workflows when it starts)".to_owned(),
            false => known.join(", "),
        };
        Ok(Some(format!("there is no {scope} {name}; those that are there: {known}")))
    }
}

fn limit<T: FromStr + PartialOrd + Display>(text: &str, range: RangeInclusive<T>) -> Result<Limit<T>, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    match number {
        None if text != "off" => Err(format!("expected {} to {}, or off", range.start(), range.end())),
        number => Ok(Limit(number)),
    }
}
