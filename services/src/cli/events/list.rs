//! `sluice events list`.

use std::process::ExitCode;

use clap::Args;

use super::FilterOptions;
use crate::{
    cli::{
        moment::{published, relative},
        narrower, on_ledger,
        output::{Column, EXIT_CODES, Form, or_dash},
        row_limit,
    },
    config::OperatorOptions,
    ledger::postgres::read::{self, ListedEvent, Published},
};

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct List {
    #[command(flatten)]
    filter: FilterOptions,

    /// Only those that wait to be published
    #[arg(long, help_heading = "Filter")]
    unpublished: bool,

    /// The most to show
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = row_limit)]
    limit: usize,

    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    config: OperatorOptions,
}

impl List {
    pub(super) fn run(self) -> ExitCode {
        on_ledger(&self.config, async |ledger| {
            let which = if self.unpublished { Published::No } else { Published::OrNot };
            let found = read::events(&ledger, &self.filter.filter(which), self.limit + 1).await;
            let events = found.map_err(|error| narrower(error, "--run or --since"))?;
            self.form.list(("events", "no event matches"), events, self.limit, EVENTS)
        })
    }
}

pub(super) const EVENTS: &[Column<ListedEvent>] = &[
    ("EVENT", |event| event.id.to_string()),
    ("TYPE", |event| event.r#type.clone()),
    ("SUBJECT", |event| or_dash(event.subject.as_ref())),
    ("SEQUENCE", |event| event.sequence.to_string()),
    ("WRITTEN", |event| relative(event.created_at)),
    ("PUBLISHED", |event| published(event.published_at)),
];
