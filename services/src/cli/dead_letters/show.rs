//! `sluice dead-letters show`.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use workflows::ids::RunId;

use super::{letter_id, resolved};
use crate::{
    cli::{
        moment::relative,
        on_ledger,
        output::{EXIT_CODES, Form, NOTHING_MATCHED, properties, refuse},
        runs,
    },
    config::OperatorOptions,
    ledger::postgres::read::{self, Letter, LetterId, RunDetail},
};

#[derive(Args)]
#[command(after_help = EXIT_CODES, override_usage = "sluice dead-letters show [OPTIONS] <ID|RUN>")]
pub struct Show {
    /// The number of the dead letter, or the id of its run
    #[arg(value_name = "ID|RUN", value_parser = letter_id)]
    id: LetterId,

    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    config: OperatorOptions,
}

impl Show {
    pub(super) fn run(self) -> ExitCode {
        on_ledger(&self.config, async |ledger| {
            let Some(letter) = read::letters_by_id(&ledger, &[self.id]).await?.pop() else {
                let text = "there is no such dead letter: `sluice dead-letters list` shows those that are there";
                return refuse(NOTHING_MATCHED, text);
            };
            let run = read::run(&ledger, RunId::new(letter.run)).await?;
            let detail = run.context("the run was removed this very moment")?;
            // The one that was asked for, where the run has died more than once.
            let detail = RunDetail { dead_letter: Some(letter), ..detail };
            self.form.print(&detail, |detail| {
                let letter = detail.dead_letter.as_ref().map(describe).unwrap_or_default();
                // Its run would name this very command as the mend.
                let run = RunDetail { dead_letter: None, ..detail.clone() };
                format!("{letter}\n\n{}", runs::describe(&run))
            })
        })
    }
}

fn describe(letter: &Letter) -> String {
    let open = letter.resolved_at.is_none();
    properties([
        ("dead letter", Some(letter.id.to_string())),
        ("reason", Some(letter.reason.clone())),
        ("step", Some(letter.step.clone())),
        ("class", letter.class.clone()),
        ("error", letter.error.clone()),
        ("died", Some(relative(letter.died_at))),
        ("resolved", resolved(letter)),
        ("note", letter.note.clone()),
        ("mend", open.then(|| format!("sluice dead-letters retry {}", letter.id))),
        ("or end it", open.then(|| format!("sluice dead-letters discard {}", letter.id))),
    ])
}
