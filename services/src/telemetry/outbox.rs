//! Where spans go when they end: into a bounded queue, which drops what it cannot hold and never
//! lets anybody wait; and the counts of what became of them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue, Value,
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
    /// Spans that a collector has taken.
    pub(super) exported: AtomicU64,
    /// Spans that found the queue full.
    pub(super) dropped: AtomicU64,
    /// Spans that were sent and not taken.
    pub(super) failed: AtomicU64,
}

impl Exported {
    /// Exported, dropped, failed.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.exported), count(&self.dropped), count(&self.failed))
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
    // What its attributes say of its export is not exported itself; the last word counts.
    let is_told = |attribute: &mut KeyValue| names::NOT_SENT.contains(&attribute.key.as_str());
    let told: HashMap<_, _> = span.attributes.extract_if(.., is_told).map(|told| (told.key, told.value)).collect();
    let is = |name: &str| told.get(name) == Some(&Value::Bool(true));
    let id = |name: &str| match told.get(name) {
        Some(Value::String(id)) => Some(SpanId::from_hex(id.as_str()).ok()),
        _ => None,
    };
    let lasting = |name: &str| match told.get(name) {
        Some(Value::I64(nanos)) => Some(Duration::from_nanos(nanos.unsigned_abs())),
        _ => None,
    };
    // It is of a transaction that was rolled back, or of something that was there already.
    if is(names::TENTATIVE) && !is(names::KEPT) {
        return None;
    }
    // Its attempt was rescued, and the rescue exports the attempt's span: this is how its worker
    // saw it.
    if is(names::HELD) && !is(names::KEPT) {
        span.parent_span_id = span.span_context.span_id();
        span.span_context = with_id(&span.span_context, SpanId::from(rand::random::<u64>()));
    }
    if let Some(own) = id(names::ID).flatten() {
        span.span_context = with_id(&span.span_context, own);
    }
    if let Some(above) = id(names::ABOVE) {
        span.parent_span_id = above.unwrap_or(SpanId::INVALID);
    }
    let ended_ago = lasting(names::ENDED_AGO).unwrap_or_default();
    span.end_time = span.end_time.checked_sub(ended_ago).unwrap_or(span.end_time);
    if let Some(lasted) = lasting(names::LASTED) {
        span.start_time = span.end_time.checked_sub(lasted).unwrap_or(span.start_time);
    }
    Some(span)
}

fn with_id(context: &SpanContext, id: SpanId) -> SpanContext {
    let state = context.trace_state().clone();
    SpanContext::new(context.trace_id(), id, context.trace_flags(), context.is_remote(), state)
}
