//! Where spans go when they end: into a bounded queue, which drops what it cannot hold and never lets anybody wait; and the
//! counts of what became of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{Context, Value};
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
        let Some(span) = that_happened(span).filter(|span| span.span_context.is_sampled()) else { return };
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

/// A tentative span that nobody kept is of a transaction that was rolled back, or of something that was there already.
fn that_happened(mut span: SpanData) -> Option<SpanData> {
    let has = |key| {
        span.attributes.iter().any(|attribute| attribute.key.as_str() == key && attribute.value == Value::Bool(true))
    };
    if has(names::TENTATIVE) && !has(names::KEPT) {
        return None;
    }
    span.attributes.retain(|attribute| !names::NOT_SENT.contains(&attribute.key.as_str()));
    Some(span)
}
