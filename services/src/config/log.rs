//! What is logged, and in which form.

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{Config, Faults, finish};
use crate::telemetry::log::{Format, Log, NOISE};

#[derive(Args)]
#[command(next_help_heading = "Log (to standard error)")]
pub struct LogOptions {
    /// pretty for people, json for machines (one object a line)
    #[arg(long, env = "LOG_FORMAT", value_name = "FORMAT", default_value = "pretty")]
    log_format: String,

    /// error, warn, info, debug or trace: of Sluice itself; libraries speak from warn on
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: String,

    /// A filter by module instead of LOG_LEVEL, e.g. info,sluice::relay=debug,sqlx=debug
    #[arg(long, env = "RUST_LOG", value_name = "FILTER")]
    rust_log: Option<String>,
}

impl LogOptions {
    /// Reads what a command is told, and then these.
    pub(super) fn after<R>(&self, read: impl FnOnce(&mut Faults) -> Option<R>) -> Result<Config<R>, Faults> {
        let mut faults = Faults::default();
        let command = read(&mut faults);
        finish(self.read(&mut faults), None, None, command, faults)
    }

    pub(super) fn read(&self, faults: &mut Faults) -> Option<Log> {
        let formats = [("pretty", Format::Pretty), ("json", Format::Json)];
        let format = faults.choice("LOG_FORMAT", self.log_format.trim(), &formats);
        faults.format = format;
        let filter = match &self.rust_log {
            Some(filter) => self::filter(filter, faults),
            None => self.level(faults),
        };
        Some(Log { format: format?, filter: filter? })
    }

    fn level(&self, faults: &mut Faults) -> Option<String> {
        match self.log_level.trim().to_ascii_lowercase().as_str() {
            level @ ("error" | "warn" | "info" | "debug" | "trace") => {
                let libraries = if level == "error" { "error" } else { "warn" };
                Some(format!("{libraries},{NOISE},sluice={level},workflows={level}"))
            }
            _ => faults.refuse("LOG_LEVEL", &self.log_level, "expected error, warn, info, debug or trace"),
        }
    }
}

fn filter(text: &str, faults: &mut Faults) -> Option<String> {
    let filter = format!("{NOISE},{text}");
    let problem = |error| format!("is no filter ({error}): expected e.g. info or warn,sluice::relay=debug");
    let read = EnvFilter::builder().parse(&filter);
    read.map_or_else(|error| faults.refuse("RUST_LOG", text, problem(error)), |_| Some(filter))
}
