//! What is logged, and in which form.

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::Faults;
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
    pub(super) fn read(&self, faults: &mut Faults) -> Option<Log> {
        let format = match self.log_format.trim() {
            "pretty" => Some(Format::Pretty),
            "json" => Some(Format::Json),
            other => {
                faults.add("LOG_FORMAT", other, "expected pretty or json");
                None
            }
        };
        faults.format = format;
        let filter = match &self.rust_log {
            Some(filter) => self.filter(filter, faults),
            None => self.level(faults),
        };
        Some(Log { format: format?, filter: filter? })
    }

    fn filter(&self, filter: &str, faults: &mut Faults) -> Option<String> {
        let filter = format!("{NOISE},{filter}");
        match EnvFilter::builder().parse(&filter) {
            Ok(_) => Some(filter),
            Err(error) => {
                let problem = format!("is no filter ({error}): expected e.g. info or warn,sluice::relay=debug");
                faults.add("RUST_LOG", self.rust_log.as_deref().unwrap_or_default(), problem);
                None
            }
        }
    }

    fn level(&self, faults: &mut Faults) -> Option<String> {
        match self.log_level.trim().to_ascii_lowercase().as_str() {
            level @ ("error" | "warn" | "info" | "debug" | "trace") => {
                let libraries = if level == "error" { "error" } else { "warn" };
                Some(format!("{libraries},{NOISE},sluice={level},workflows={level}"))
            }
            _ => {
                faults.add("LOG_LEVEL", &self.log_level, "expected error, warn, info, debug or trace");
                None
            }
        }
    }
}
