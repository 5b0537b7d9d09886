//! `sluice dead-letters retry` and `discard`, by id or filter: look, say how many, ask, then one
//! after the other at a rate that the rest of the fleet bears. Each is guarded by its run's state,
//! so what somebody else did meanwhile is skipped.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use workflows::ids::RunId;

use super::{
    FilterOptions, letter_id,
    report::{Action, Report},
    resolved,
};
use crate::{
    cli::{
        by::ByOptions,
        output::{self, EXIT_CODES, Form},
    },
    config::{self, OperatorOptions},
    ledger::{
        self, By, Changed, OperatorLedger,
        postgres::{
            Postgres,
            read::{self, Letter, LetterId, MOST},
        },
    },
    process,
};

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct Bulk {
    #[command(flatten)]
    form: Form,

    /// Numbers of dead letters, or ids of their runs; or choose by a filter, or --all
    #[arg(value_name = "ID|RUN", value_parser = letter_id, conflicts_with = "filter")]
    #[arg(required_unless_present_any = ["filter", "all"], num_args = 1..=1000)]
    ids: Vec<LetterId>,

    /// Every dead letter that waits for a person
    #[arg(long, conflicts_with_all = ["filter", "ids"])]
    all: bool,

    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,

    /// How many a second
    #[arg(long, value_name = "N/s", default_value = "10/s", value_parser = rate)]
    rate: f64,

    /// Do not ask before many are changed; nobody is asked where there is no terminal
    #[arg(long, short)]
    yes: bool,

    #[command(flatten)]
    filter: FilterOptions,
    #[command(flatten)]
    by: ByOptions,
    #[command(flatten)]
    config: OperatorOptions,
}

impl Bulk {
    pub(super) fn run(self, action: Action) -> ExitCode {
        process::run(self.config.parse(), async |config, shutdown| {
            let (ledger, letters) = process::unless_interrupted(&shutdown, self.letters(&config)).await?;
            let mut report = Report::new(action, self.dry_run, &letters, &self.ids);
            if self.dry_run {
                letters.iter().for_each(|letter| report.take(letter, foresee(action, letter)));
            } else if self.agreed(action, letters.len(), &shutdown).await? {
                self.change(action, &ledger, &letters, &shutdown, &mut report).await;
            }
            self.form.print(&report, Report::describe)?;
            Ok(report.exit_code())
        })
    }

    /// The oldest first: they have waited longest.
    async fn letters(&self, config: &config::Ledger) -> anyhow::Result<(Postgres, Vec<Letter>)> {
        let ledger = process::open(config).await?;
        let mut letters = match self.ids.is_empty() {
            false => read::letters_by_id(&ledger, &self.ids).await?,
            true => read::letters(&ledger, &self.filter.filter(false), MOST).await?,
        };
        if letters.len() == MOST {
            output::remark(format!("there may be more than these {MOST}: run this again for the rest"));
        }
        letters.reverse();
        Ok((ledger, letters))
    }

    /// Who names dead letters one by one has seen them; who chooses by a filter is told how many it
    /// takes.
    async fn agreed(&self, action: Action, count: usize, shutdown: &CancellationToken) -> anyhow::Result<bool> {
        if self.yes || !self.ids.is_empty() || count == 0 || !io::stdin().is_terminal() {
            return Ok(true);
        }
        output::remark(format!("{} {count} dead letters? [y/N]", action.question()));
        let asked = tokio::task::spawn_blocking(|| io::stdin().lines().next().transpose());
        // Whoever interrupts the question says no.
        let Some(answer) = shutdown.run_until_cancelled(asked).await else { return Ok(false) };
        let answer = answer.context("ask")?.context("read the answer")?.unwrap_or_default();
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// One after the other, until shutdown or the ledger's first error.
    async fn change(
        &self,
        action: Action,
        ledger: &Postgres,
        letters: &[Letter],
        shutdown: &CancellationToken,
        report: &mut Report,
    ) {
        let by = self.by.by();
        let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / self.rate));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for letter in letters {
            if shutdown.run_until_cancelled(pace.tick()).await.is_none() {
                return;
            }
            match change(action, ledger, letter, &by).await {
                Ok(done) => report.take(letter, done),
                Err(error) => return report.fail(letter, error.to_string()),
            }
        }
    }
}

async fn change(action: Action, ledger: &Postgres, letter: &Letter, by: &By) -> ledger::Result<Done> {
    if let Err(skipped) = foresee(action, letter) {
        return Ok(Err(skipped));
    }
    let run = RunId::new(letter.run);
    let changed = match action {
        Action::Revive => ledger.revive(run, by).await?,
        Action::Discard => ledger.discard(run, by).await?,
    };
    Ok(match changed {
        Changed::Yes | Changed::AtSettle => Ok(()),
        Changed::No(state) => Err(not_dead(action, state.as_str(), letter)),
        Changed::Missing => Err("its run was removed meanwhile".to_owned()),
    })
}

/// What can be told before: a dead letter that has been dealt with is not dealt with again.
fn foresee(action: Action, letter: &Letter) -> Done {
    match resolved(letter) {
        _ if letter.run_state != "dead" => Err(not_dead(action, &letter.run_state, letter)),
        Some(resolved) => Err(format!("it was {resolved}; its run has died again since: name the run")),
        None => Ok(()),
    }
}

fn not_dead(action: Action, state: &str, Letter { run, .. }: &Letter) -> String {
    format!("run {run} is {state}, and only a dead one is {}: see `sluice runs show {run}`", action.past())
}

/// Done, or why not.
pub(super) type Done = Result<(), String>;

/// `10/s`, or `10`.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    rate.filter(|rate| (0.01..=1000.0).contains(rate)).ok_or_else(|| "expected a number from 0.01 to 1000".to_owned())
}
