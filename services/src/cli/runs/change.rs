//! `sluice runs cancel`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use workflows::ids::RunId;

use super::show::missing;
use crate::{
    cli::{
        by::ChangeOptions,
        output::{EXIT_CODES, FAILED},
    },
    ledger::{Changed, OperatorLedger},
};

#[derive(Args)]
#[command(after_help = EXIT_CODES, override_usage = "sluice runs cancel [OPTIONS] <RUN>")]
pub struct Cancel {
    /// The id of the run
    #[arg(value_name = "RUN")]
    run: RunId,

    #[command(flatten)]
    change: ChangeOptions,
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
        let run = self.run;
        self.change.run(async |ledger, by| {
            let (result, text) = match ledger.cancel(run, &by).await? {
                Changed::Yes => ("cancelled", format!("run {run} is cancelled")),
                Changed::AtSettle => ("at_settle", format!("run {run} ends when the step that is running settles")),
                Changed::No(state) => {
                    ("skipped", format!("run {run} has ended already ({}): nothing to cancel", state.as_str()))
                }
                Changed::Missing => return missing(run),
            };
            self.change.form.print(&Cancelled { run, result, text }, |cancelled| cancelled.text.clone())?;
            Ok(ExitCode::from(if result == "skipped" { FAILED } else { 0 }))
        })
    }
}
