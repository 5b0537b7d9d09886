//! How much a relay takes at once, and how often it looks.

use std::time::Duration;

use clap::Args;

use super::Faults;
use crate::relay::Settings;

#[derive(Args)]
#[command(next_help_heading = "Relay")]
pub struct RelayTuning {
    /// The most requests or steps that one round takes
    #[arg(long, env = "RELAY_BATCH", value_name = "NUMBER", default_value = "200")]
    relay_batch: String,

    /// How often requests are looked for where LISTEN does not work, at most every 100ms; where it does, they ring, and are
    /// looked for once a second
    #[arg(long, env = "INTAKE_POLL", value_name = "DURATION", default_value = "100ms")]
    intake_poll: String,

    /// How long runs that succeeded or were cancelled, events and the audit are kept; dead letters
    /// that nobody has resolved are kept for ever. Events that were not published by then are
    /// dropped, counted and logged
    #[arg(long, env = "RETENTION", value_name = "DURATION", default_value = "30d")]
    retention: String,
}

impl RelayTuning {
    pub(super) fn read(&self, faults: &mut Faults) -> Option<Settings> {
        let batch = faults.number("RELAY_BATCH", &self.relay_batch, 1..=1000);
        let poll = Duration::from_millis(100)..=Duration::from_secs(60);
        let intake_poll = faults.duration("INTAKE_POLL", &self.intake_poll, poll);
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let retention = faults.duration("RETENTION", &self.retention, days(1)..=days(3650));
        Some(Settings { batch: batch?, intake_poll: intake_poll?, retention: retention? })
    }
}
