//! `sluice events list`.

use std::process::ExitCode;

use clap::Args;

use super::FilterOptions;
use crate::{
    cli::{
        moment::relative,
        narrower,
        output::{EXIT_CODES, Form, or_dash, table},
        row_limit,
    },
    config::{Operator, OperatorOptions},
    ledger::postgres::read::{self, ListedEvent, Published},
    process,
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
        process::run(self.config.parse(), async |config, _| self.list(config).await)
    }

    async fn list(&self, config: Operator) -> anyhow::Result<ExitCode> {
        let ledger = process::open(&config.ledger).await?;
        let which = if self.unpublished { Published::No } else { Published::OrNot };
        let found = read::events(&ledger, &self.filter.filter(which), self.limit + 1).await;
        let events = found.map_err(|error| narrower(error, "--run or --since"))?;
        self.form.list(("events", "no event matches"), events, self.limit, events_table)
    }
}

pub(super) fn events_table(events: &[ListedEvent]) -> String {
    table(
        ["EVENT", "TYPE", "SUBJECT", "SEQUENCE", "WRITTEN", "PUBLISHED"],
        events.iter().map(|event| {
            let published = event.published_at.map_or_else(|| "not yet".to_owned(), relative);
            [
                event.id.to_string(),
                event.r#type.clone(),
                or_dash(event.subject.as_ref()),
                event.sequence.to_string(),
                relative(event.created_at),
                published,
            ]
        }),
    )
}
