//! `sluice events replay`: what was published goes out once more.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use uuid::Uuid;

use super::{EVENTS, FilterOptions, id};
use crate::{
    cli::{
        by::ChangeOptions,
        narrower,
        output::{self, EXIT_CODES, table},
    },
    ledger::postgres::read::{self, EventFilter, ListedEvent, MOST},
};

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
#[command(override_usage = "sluice events replay [OPTIONS] <EVENT>...
       sluice events replay [OPTIONS] with one filter or several")]
pub struct Replay {
    /// Ids of events; or choose by a filter
    #[arg(value_name = "EVENT", value_parser = id, conflicts_with = "filter", required_unless_present = "filter")]
    #[arg(num_args = 1..=1000)]
    ids: Vec<Uuid>,

    /// Only say which they would be
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    filter: FilterOptions,
    #[command(flatten)]
    change: ChangeOptions,
}

/// What `replay --json` prints.
#[derive(Serialize)]
struct Replayed {
    dry_run: bool,
    /// How many go out once more.
    replayed: u64,
    events: Vec<ListedEvent>,
}

impl Replay {
    pub(super) fn run(self) -> ExitCode {
        self.change.run(async |ledger, by| {
            let filter = EventFilter { ids: self.ids.clone(), ..self.filter.filter(Some(true)) };
            let found = read::events(&ledger, &filter, MOST).await;
            let events = found.map_err(|error| narrower(error, "--run or --since"))?;
            if events.len() == MOST {
                output::remark(format!("these are the youngest {MOST}: name older ones by --run, --type or --subject"));
            }
            let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
            let replayed = match self.dry_run {
                true => ids.len() as u64,
                false => ledger.replay(&ids, &by).await?,
            };
            self.change.form.print(&Replayed { dry_run: self.dry_run, replayed, events }, Replayed::describe)?;
            let asked = self.ids.len();
            let missing = asked.saturating_sub(ids.len());
            if missing > 0 {
                output::remark(format!(
                    "of {asked} ids, {missing} left out: no event has them, or it waits to be published anyway"
                ));
            }
            Ok(ExitCode::from(match ids.is_empty() {
                true => output::NOTHING_MATCHED,
                false if missing > 0 => output::FAILED,
                false => 0,
            }))
        })
    }
}

impl Replayed {
    fn describe(&self) -> String {
        let Self { dry_run, replayed, events } = self;
        match (dry_run, events.is_empty()) {
            (_, true) => "no published event matches".to_owned(),
            (true, _) => format!("{}\n\nwould be published once more: {replayed}", table(events, EVENTS)),
            (false, _) => format!("will be published once more, under the same ids: {replayed}"),
        }
    }
}
