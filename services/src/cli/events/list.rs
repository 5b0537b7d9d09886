//! `sluice events list`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::FilterOptions;
use crate::{
    cli::{
        moment::relative,
        narrower,
        output::{self, EXIT_CODES, Form, or_dash, table},
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

/// What `list --json` prints.
#[derive(Serialize)]
struct Listed {
    events: Vec<ListedEvent>,
    /// There are more than were asked for.
    more: bool,
}

impl List {
    pub(super) fn run(self) -> ExitCode {
        process::run(self.config.parse(), async |config, _| self.list(config).await)
    }

    async fn list(&self, config: Operator) -> anyhow::Result<ExitCode> {
        let ledger = process::open(&config.ledger).await?;
        let which = if self.unpublished { Published::No } else { Published::OrNot };
        let found = read::events(&ledger, &self.filter.filter(which), self.limit + 1).await;
        let mut events = found.map_err(|error| narrower(error, "--run or --since"))?;
        let more = events.len() > self.limit;
        events.truncate(self.limit);
        let listed = Listed { events, more };
        if listed.events.is_empty() {
            output::remark("no event matches");
        }
        if self.form.json || !listed.events.is_empty() {
            self.form.print(&listed, |listed| events_table(&listed.events))?;
        }
        if listed.more {
            output::remark(format!("there are more than {}: --limit shows more of them", self.limit));
        }
        Ok(if listed.events.is_empty() { output::nothing_matched() } else { ExitCode::SUCCESS })
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
