//! `sluice events tail`.

use std::{num::NonZeroUsize, process::ExitCode};

use anyhow::{anyhow, bail};
use clap::Args;
use serde_json::Value;

use crate::{
    cli::output::{self, EXIT_CODES, shortened},
    config::TailOptions,
    events::{self, Announcement},
    process,
};

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct Tail {
    /// Only events of this type, or whose type begins so, e.g. sluice.run.dead
    #[arg(long = "type", value_name = "TYPE", help_heading = "Filter")]
    kind: Option<String>,

    /// Only events about this subject
    #[arg(long, value_name = "SUBJECT", help_heading = "Filter")]
    subject: Option<String>,

    /// End after so many
    #[arg(long, value_name = "NUMBER")]
    #[arg(value_parser = |text: &str| text.parse::<NonZeroUsize>().map_err(|_| "expected a number from 1"))]
    limit: Option<NonZeroUsize>,

    /// Each as it was published, a JSON document a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: TailOptions,
}

impl Tail {
    pub(super) fn run(self) -> ExitCode {
        process::run(self.config.parse(), async |settings, shutdown| {
            let opened = async {
                let tail = events::Tail::open(&settings).await;
                tail.map_err(|trouble| anyhow!("RabbitMQ at {}: {trouble}", settings.address))
            };
            let mut tail = process::unless_interrupted(&shutdown, opened).await?;
            output::remark(format!("listening at {} of {}", settings.exchange, settings.address));
            let mut shown = 0;
            while self.limit.is_none_or(|limit| shown < limit.get()) {
                let Some(passed) = shutdown.run_until_cancelled(tail.next()).await else { break };
                let Some(announcement) = passed else { bail!("the broker has closed the connection") };
                if self.fits(&announcement.event) {
                    shown += 1;
                    output::line(self.told(&announcement))?;
                }
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    fn fits(&self, event: &Value) -> bool {
        let text = |key: &str| event[key].as_str().unwrap_or_default();
        self.kind.as_ref().is_none_or(|kind| text("type").starts_with(kind.as_str()))
            && self.subject.as_ref().is_none_or(|subject| text("subject") == subject)
    }

    fn told(&self, Announcement { event, routing_key }: &Announcement) -> String {
        if self.json {
            return event.to_string();
        }
        let text = |value: &Value| value.as_str().unwrap_or("-").replace(char::is_control, " ");
        let data = &event["data"];
        let why = ["step", "found", "reason", "error", "by"].map(|key| &data[key]);
        let why: Vec<String> = why.into_iter().filter(|value| value.is_string()).map(text).collect();
        let why = if why.is_empty() { String::new() } else { shortened(Some(&why.join(": "))) };
        let line = format!("{}  {routing_key:<30}  {}  {why}", text(&event["time"]), text(&event["subject"]));
        line.trim_end().to_owned()
    }
}
