//! What Sluice tells about itself. `log` is what it says to people and collectors; `metrics` what
//! it counts and measures; `said` keeps the log from repeating itself; `health` whether its loops
//! turn; `spans` makes every span there is, with the names in `names`; `trace` carries their
//! context in and out; `sampling` decides which traces are recorded; `outbox`, `export` and `otlp`
//! bring them to a collector. No secret passes here: the types of the secrets see to that. Nothing
//! here may slow, block or fail the work.

pub mod export;
pub mod health;
pub mod log;
pub mod metrics;
pub mod names;
pub(crate) mod otlp;
mod outbox;
mod said;
pub(crate) mod sampling;
pub mod spans;
pub mod trace;

use std::sync::Arc;

use opentelemetry::{
    KeyValue,
    trace::{SpanBuilder, Tracer},
};
use opentelemetry_sdk::trace::SdkTracer;
use tracing_subscriber::{Layer, Registry, filter};

use self::{health::Health, metrics::Metrics};
pub use self::{outbox::Exported, said::Said};
use crate::database;

/// Where the roles of one process leave what it tells about itself. Cheap to clone; clones share
/// it.
#[derive(Clone, Default)]
pub struct Vitals {
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
}

impl Vitals {
    /// Those of a process that plays this role.
    pub fn new(role: &str) -> Self {
        Self { metrics: Arc::new(Metrics::new(role)), health: Arc::default() }
    }
}

/// A role of this process, as a service of its own in the traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Relay,
    Worker,
    Events,
}

impl Role {
    /// Whose a span is: a process that has several roles sends each role's spans under that role's
    /// own service.
    fn of(span: &SpanBuilder) -> Self {
        let first = span.name.split(' ').next().unwrap_or_default();
        let in_attempt = KeyValue::new(names::IN_ATTEMPT, true);
        let in_attempt = span.attributes.iter().flatten().any(|attribute| *attribute == in_attempt);
        match first {
            names::PUBLISH => Self::Events,
            _ if names::OF_RELAYS.contains(&first) && !in_attempt => Self::Relay,
            _ => Self::Worker,
        }
    }
}

/// The tracers of a process: of its first service, and of the other roles that are services of
/// their own.
#[derive(Debug)]
pub(crate) struct Tracers {
    first: SdkTracer,
    others: Vec<(Role, SdkTracer)>,
}

impl Tracer for Tracers {
    type Span = opentelemetry_sdk::trace::Span;

    fn build_with_context(&self, builder: SpanBuilder, parent: &opentelemetry::Context) -> Self::Span {
        let role = Role::of(&builder);
        let other = self.others.iter().find(|(own, _)| *own == role);
        other.map_or(&self.first, |(_, tracer)| tracer).build_with_context(builder, parent)
    }
}

/// An error with its causes, each said once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = words(error);
    for cause in std::iter::successors(error.source(), |cause| cause.source()) {
        let next = words(cause);
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
    }
    text
}

fn words(error: &(dyn std::error::Error + 'static)) -> String {
    error.downcast_ref::<sqlx::Error>().map_or_else(|| error.to_string(), database::said)
}

/// Our own spans and nothing else, whatever the log's level: no library's, and so none of the
/// exporter's own calls.
pub(crate) fn layer(tracers: Tracers) -> Box<dyn Layer<Registry> + Send + Sync> {
    let ours = filter::filter_fn(|metadata| metadata.is_span() && metadata.target() == spans::TARGET);
    tracing_opentelemetry::layer()
        .with_tracer(tracers)
        .with_context_activation(false)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(ours.with_max_level_hint(filter::LevelFilter::INFO))
        .boxed()
}
