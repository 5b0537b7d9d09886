//! `sluice runs cancel`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use workflows::ids::RunId;

use super::show::missing;
use crate::{
    cli::{
        by::ByOptions,
        output::{EXIT_CODES, FAILED, Form},
    },
    config::{Operator, OperatorOptions},
    ledger::{Changed, OperatorLedger},
    process,
};

#[derive(Args)]
#[command(after_help = EXIT_CODES, override_usage = "sluice runs cancel [OPTIONS] <RUN>")]
pub(super) struct Cancel {
    /// The id of the run
    #[arg(value_name = "RUN")]
    run: RunId,

    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    by: ByOptions,
    #[command(flatten)]
    config: OperatorOptions,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Cancelled {
    run: RunId,
    /// `cancelled`, `at_settle` or `skipped`.
    result: &'static str,
    text: String,
}

impl Cancel {
    pub(super) fn run(self) -> ExitCode {
        process::run(self.config.parse(), async |config, _| self.cancel(config).await)
    }

    async fn cancel(&self, config: Operator) -> anyhow::Result<ExitCode> {
        let ledger = process::open(&config.ledger).await?;
        let run = self.run;
        let (result, text) = match ledger.cancel(run, &self.by.by()).await? {
            Changed::Yes => ("cancelled", format!("run {run} is cancelled")),
            Changed::AtSettle => ("at_settle", format!("run {run} ends when the step that is running settles")),
            Changed::No(state) => {
                ("skipped", format!("run {run} has ended already ({}): nothing to cancel", state.as_str()))
            }
            Changed::Missing => return Ok(missing(run)),
        };
        self.form.print(&Cancelled { run, result, text }, |cancelled| cancelled.text.clone())?;
        Ok(if result == "skipped" { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }
}
