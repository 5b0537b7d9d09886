//! `sluice queue pause`, `resume`, `rate` and `concurrency`: what a person sets on a gate.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use workflows::ids::{StepName, WorkflowName};

use crate::{
    cli::{
        by::ByOptions,
        output::{self, EXIT_CODES, Form},
    },
    config::{Config, Faults, Operator, OperatorOptions},
    ledger::{
        By, OperatorLedger, Scope,
        postgres::{Postgres, read},
    },
    process,
};

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
#[command(override_usage = "sluice queue pause [OPTIONS] <STEP|--host <HOST>|--workflow <WORKFLOW>>")]
pub(super) struct Pause {
    #[command(flatten)]
    gate: AnyGate,
    #[command(flatten)]
    rest: Rest,
}

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
#[command(override_usage = "sluice queue resume [OPTIONS] <STEP|--host <HOST>|--workflow <WORKFLOW>>")]
pub(super) struct Resume {
    #[command(flatten)]
    gate: AnyGate,
    #[command(flatten)]
    rest: Rest,
}

#[derive(Args)]
#[command(after_help = EXIT_CODES, allow_missing_positional = true)]
#[command(override_usage = "sluice queue rate [OPTIONS] <STEP|--host <HOST>> <N>")]
pub(super) struct Rate {
    #[command(flatten)]
    gate: LimitedGate,

    /// Step starts per second, or off
    #[arg(value_name = "N", value_parser = rate)]
    rate: Limit<f64>,

    #[command(flatten)]
    rest: Rest,
}

#[derive(Args)]
#[command(after_help = EXIT_CODES, allow_missing_positional = true)]
#[command(override_usage = "sluice queue concurrency [OPTIONS] <STEP|--host <HOST>> <N>")]
pub(super) struct Concurrency {
    #[command(flatten)]
    gate: LimitedGate,

    /// How many at once, or off
    #[arg(value_name = "N", value_parser = concurrency)]
    limit: Limit<u32>,

    #[command(flatten)]
    rest: Rest,
}

#[derive(Args)]
#[group(id = "gate", required = true, multiple = false)]
struct AnyGate {
    /// The step, e.g. create-instance
    #[arg(value_name = "STEP")]
    step: Option<StepName>,

    /// Instead: every step that calls this host of the API, named with its port where its URL has one
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

#[derive(Args)]
struct Rest {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    by: ByOptions,
    #[command(flatten)]
    config: OperatorOptions,
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
    #[serde(skip)]
    text: String,
}

impl Pause {
    pub(super) fn run(self) -> ExitCode {
        let gate = Gate::any(self.gate);
        self.rest.run("pause", gate, async |ledger, Gate { scope, name }, by| {
            let changed = ledger.pause(*scope, name, by).await?;
            Ok((changed, if changed { "is paused" } else { "was paused already" }.to_owned()))
        })
    }
}

impl Resume {
    pub(super) fn run(self) -> ExitCode {
        let gate = Gate::any(self.gate);
        self.rest.run("resume", gate, async |ledger, Gate { scope, name }, by| {
            let changed = ledger.resume(*scope, name, by).await?;
            Ok((changed, if changed { "is resumed" } else { "was neither paused nor held" }.to_owned()))
        })
    }
}

impl Rate {
    pub(super) fn run(self) -> ExitCode {
        let (gate, Limit(rate)) = (Gate::limited(self.gate), self.rate);
        self.rest.run("rate", gate, async move |ledger, Gate { scope, name }, by| {
            let changed = ledger.set_rate(*scope, name, rate, by).await?;
            let text =
                rate.map_or("starts without a limit".to_owned(), |rate| format!("starts at most {rate} a second"));
            Ok((changed, text))
        })
    }
}

impl Concurrency {
    pub(super) fn run(self) -> ExitCode {
        let (gate, Limit(limit)) = (Gate::limited(self.gate), self.limit);
        self.rest.run("concurrency", gate, async move |ledger, Gate { scope, name }, by| {
            let changed = ledger.set_concurrency(*scope, name, limit, by).await?;
            let text = limit.map_or("runs without a limit".to_owned(), |limit| format!("runs at most {limit} at once"));
            Ok((changed, text))
        })
    }
}

impl Rest {
    /// Changes one gate, if it is one.
    fn run(
        self,
        action: &'static str,
        gate: Option<Gate>,
        change: impl AsyncFnOnce(&Postgres, &Gate, &By) -> crate::ledger::Result<(bool, String)>,
    ) -> ExitCode {
        let parsed: Result<Config<Operator>, Faults> = self.config.parse();
        process::run(parsed, async |config, _| {
            let gate = gate.ok_or_else(|| anyhow!("no gate was named"))?;
            let ledger = process::open(&config.ledger).await?;
            if let Some(refusal) = gate.refusal(&ledger).await? {
                output::remark(refusal);
                return Ok(output::nothing_matched());
            }
            let (changed, text) = change(&ledger, &gate, &self.by.by()).await?;
            let Gate { scope, name } = gate;
            let text = format!("{} {name} {text}", scope.as_str());
            let document = Changed { action, scope: scope.as_str(), name, changed, text };
            self.form.print(&document, |document| document.text.clone())?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// The gate that was named.
struct Gate {
    scope: Scope,
    name: String,
}

impl Gate {
    fn any(AnyGate { step, host, workflow }: AnyGate) -> Option<Self> {
        let workflow = workflow.map(|workflow| Self { scope: Scope::Workflow, name: workflow.into() });
        workflow.or_else(|| Self::limited(LimitedGate { step, host }))
    }

    fn limited(LimitedGate { step, host }: LimitedGate) -> Option<Self> {
        let step = step.map(|step| Self { scope: Scope::Step, name: step.into() });
        step.or_else(|| host.map(|name| Self { scope: Scope::Host, name }))
    }

    /// A mistyped name would be a gate before nothing.
    async fn refusal(&self, ledger: &Postgres) -> crate::ledger::Result<Option<String>> {
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

fn rate(text: &str) -> Result<Limit<f64>, String> {
    let fits = |rate: &f64| (0.001..=100_000.0).contains(rate);
    limit(text).filter(|Limit(rate)| rate.as_ref().is_none_or(fits)).ok_or("expected 0.001 to 100000, or off".into())
}

fn concurrency(text: &str) -> Result<Limit<u32>, String> {
    let fits = |limit: &u32| (1..=1_000_000).contains(limit);
    limit(text).filter(|Limit(limit)| limit.as_ref().is_none_or(fits)).ok_or("expected 1 to 1000000, or off".into())
}

fn limit<T: std::str::FromStr>(text: &str) -> Option<Limit<T>> {
    match text {
        "off" => Some(Limit(None)),
        number => number.parse().ok().map(|number| Limit(Some(number))),
    }
}
