//! `sluice events`: the role that publishes, and what a person does with events.

mod replay;
mod tail;

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use uuid::Uuid;
use workflows::ids::RunId;

use super::{
    moment::{published, relative},
    narrower, on_ledger,
    output::{Column, EXIT_CODES, Page, or_dash},
};
use crate::{
    config::{EventsOptions, OperatorOptions},
    ledger::postgres::read::{self, EventFilter, ListedEvent},
};

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct Options {
    /// None: publish.
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub role: EventsOptions,
}

#[derive(Subcommand)]
pub enum Command {
    /// Show events as they pass the exchange, until ctrl-c
    Tail(Box<tail::Tail>),
    /// Events in the database, published or not, the youngest first
    #[command(after_help = EXIT_CODES)]
    List {
        #[command(flatten)]
        filter: Box<FilterOptions>,

        /// Only those that wait to be published
        #[arg(long, help_heading = "Filter")]
        unpublished: bool,

        #[command(flatten)]
        page: Page,
        #[command(flatten)]
        config: Box<OperatorOptions>,
    },
    /// Publish events once more, by id or filter, under the same ids
    Replay(Box<replay::Replay>),
}

impl Command {
    pub fn run(self) -> ExitCode {
        match self {
            Self::Tail(tail) => tail.run(),
            Self::List { filter, unpublished, page, config } => on_ledger(&config, async |ledger| {
                let filter = filter.filter(unpublished.then_some(false));
                let found = read::events(&ledger, &filter, page.asks()).await;
                let events = found.map_err(|error| narrower(error, "--run or --since"))?;
                page.list(("events", "no event matches"), events, EVENTS)
            }),
            Self::Replay(replay) => replay.run(),
        }
    }
}

/// Which events: all that is given must fit.
#[derive(Args)]
#[group(id = "filter", multiple = true)]
pub struct FilterOptions {
    /// The type, or its beginning, e.g. sluice.run.dead
    #[arg(long = "type", value_name = "TYPE", help_heading = "Filter")]
    kind: Option<String>,

    /// Whom it is about: the run's subject, or a gate as host/NAME, step/NAME or workflow/NAME
    #[arg(long, value_name = "SUBJECT", help_heading = "Filter")]
    subject: Option<String>,

    /// The run whose events they are
    #[arg(long, value_name = "RUN", help_heading = "Filter", value_parser = |text: &str| id(text).map(RunId::new))]
    run: Option<RunId>,

    /// Written within so long, e.g. 30m, 24h, 7d
    #[arg(long, value_name = "DURATION", help_heading = "Filter", value_parser = super::duration)]
    since: Option<Duration>,
}

impl FilterOptions {
    fn filter(&self, published: Option<bool>) -> EventFilter {
        EventFilter {
            ids: Vec::new(),
            r#type: self.kind.clone(),
            subject: self.subject.clone(),
            run: self.run,
            published,
            since: self.since,
        }
    }
}

const EVENTS: &[Column<ListedEvent>] = &[
    ("EVENT", |event| event.id.to_string()),
    ("TYPE", |event| event.r#type.clone()),
    ("SUBJECT", |event| or_dash(event.subject.as_ref())),
    ("SEQUENCE", |event| event.sequence.to_string()),
    ("WRITTEN", |event| relative(event.created_at)),
    ("PUBLISHED", |event| published(event.published_at)),
];

fn id(text: &str) -> Result<Uuid, String> {
    text.parse().map_err(|_| "expected an id, e.g. 0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b".to_owned())
}
