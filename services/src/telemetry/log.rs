//! The log: to standard error, for people or as JSON. Panics are logged like anything else, so that
//! a collector that reads JSON sees them too.

use std::{io::IsTerminal, panic};

use anyhow::Context;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// What is never worth a line: exporters that miss their collector, apalis' account of every
/// heartbeat, and its errors of workers that we make anew and say so.
pub const NOISE: &str = "opentelemetry=off,apalis=error,apalis_core=error,apalis_core::worker=off,apalis_redis=error";

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub format: Format,
    /// In the language of `RUST_LOG`; valid.
    pub filter: String,
}

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Pretty,
    Json,
}

impl Log {
    /// Makes this the log of the process, beside its traces. Once per process. Lines do not repeat
    /// the spans that they are in: what a line needs is in it.
    pub(crate) fn start(&self, traces: Option<Box<dyn Layer<Registry> + Send + Sync>>) -> anyhow::Result<()> {
        let filter = EnvFilter::builder().parse(&self.filter).context("read the log's filter")?;
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let layer = match self.format {
            Format::Json => layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
            Format::Pretty => layer.with_ansi(has_colours()).boxed(),
        };
        // lapin writes whole messages, a line for each that comes back; what its caller must know
        // it is told.
        let is_ours = |metadata: &tracing::Metadata<'_>| metadata.is_event() && !metadata.target().starts_with("lapin");
        let layer = layer.with_filter(filter.and(filter_fn(is_ours)));
        tracing_subscriber::registry().with(traces).with(layer).try_init().context("start the log")?;
        panic::set_hook(Box::new(log_panic));
        Ok(())
    }
}

fn has_colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn log_panic(panic: &panic::PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = std::backtrace::Backtrace::capture();
    let text = panic.payload_as_str().unwrap_or("without a text");
    tracing::error!(%location, %backtrace, "panic: {text}");
}
