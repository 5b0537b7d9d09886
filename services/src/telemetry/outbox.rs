//! Where spans go when they end: into a bounded queue, which drops what it cannot hold and never lets anybody wait; and the
//! counts of what became of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    Context, Value,
    trace::{SpanContext, SpanId},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use tokio::sync::mpsc;

use super::names;

/// What became of the spans of this process.
#[derive(Debug, Default)]
pub struct Exported {
    pub(super) exported: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) failed: AtomicU64,
}

impl Exported {
    /// Spans that a collector has taken.
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans that found the queue full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Spans that were sent and not taken.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Exported, dropped, failed.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (self.exported(), self.dropped(), self.failed())
    }
}

pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// Where a span goes when it ends. Never waits.
#[derive(Debug)]
pub(super) struct Outbox {
    pub queue: mpsc::Sender<SpanData>,
    pub exported: Arc<Exported>,
}

impl SpanProcessor for Outbox {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        let Some(span) = as_it_was(span).filter(|span| span.span_context.is_sampled()) else { return };
        if self.queue.try_send(span).is_err() {
            add(&self.exported.dropped, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// A span as it is exported. Some tell of what others did, or of what may not have happened.
fn as_it_was(mut span: SpanData) -> Option<SpanData> {
    let told = Told::of(&span);
    // It is of a transaction that was rolled back, or of something that was there already.
    if told.tentative && !told.kept {
        return None;
    }
    // Its attempt was rescued, and the rescue exports the attempt's span: this is how its worker
    // saw it.
    if told.held && !told.kept {
        span.parent_span_id = span.span_context.span_id();
        span.span_context = with_id(&span.span_context, SpanId::from(rand::random::<u64>()));
    }
    if let Some(id) = told.id {
        span.span_context = with_id(&span.span_context, id);
    }
    if let Some(above) = told.above {
        span.parent_span_id = above;
    }
    span.end_time = span.end_time.checked_sub(told.ended_ago).unwrap_or(span.end_time);
    if let Some(lasted) = told.lasted {
        span.start_time = span.end_time.checked_sub(lasted).unwrap_or(span.start_time);
    }
    span.attributes.retain(|attribute| !names::NOT_SENT.contains(&attribute.key.as_str()));
    Some(span)
}

fn with_id(context: &SpanContext, id: SpanId) -> SpanContext {
    let state = context.trace_state().clone();
    SpanContext::new(context.trace_id(), id, context.trace_flags(), context.is_remote(), state)
}

/// What a span's attributes say of its export.
#[derive(Default)]
struct Told {
    tentative: bool,
    kept: bool,
    held: bool,
    id: Option<SpanId>,
    above: Option<SpanId>,
    lasted: Option<Duration>,
    ended_ago: Duration,
}

impl Told {
    fn of(span: &SpanData) -> Self {
        let mut told = Self::default();
        for attribute in &span.attributes {
            match (attribute.key.as_str(), &attribute.value) {
                (names::TENTATIVE, Value::Bool(tentative)) => told.tentative = *tentative,
                (names::KEPT, Value::Bool(kept)) => told.kept = *kept,
                (names::HELD, Value::Bool(held)) => told.held = *held,
                (names::ID, Value::String(id)) => told.id = SpanId::from_hex(id.as_str()).ok(),
                (names::ABOVE, Value::String(id)) => {
                    told.above = Some(SpanId::from_hex(id.as_str()).unwrap_or(SpanId::INVALID));
                }
                (names::LASTED, Value::I64(nanos)) => told.lasted = Some(duration(*nanos)),
                (names::ENDED_AGO, Value::I64(nanos)) => told.ended_ago = duration(*nanos),
                _ => {}
            }
        }
        told
    }
}

fn duration(nanos: i64) -> Duration {
    Duration::from_nanos(nanos.unsigned_abs())
}
