//! The context of a trace, in and out, in the W3C form. It only ever says where a span belongs:
//! nothing is decided by it.

use std::collections::HashMap;

use opentelemetry::{
    Context,
    propagation::TextMapPropagator,
    trace::{SpanContext, TraceContextExt},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{names, sampling::Claimed};
use crate::ledger::{AttemptSpan, SpanIds};

/// The header, and the metadata, that carries a context.
pub const TRACEPARENT: &str = "traceparent";

/// Makes the span a child of the one that `traceparent` names, which we made.
pub fn adopt(span: &Span, traceparent: Option<&str>) {
    set_parent(span, traceparent, |context| context);
}

/// As `adopt`, of a span that somebody else says there is: whether it is recorded is not for them
/// to decide.
pub fn adopt_claim(span: &Span, traceparent: Option<&str>) {
    set_parent(span, traceparent, |context| context.with_value(Claimed));
}

fn set_parent(span: &Span, traceparent: Option<&str>, mark: impl FnOnce(Context) -> Context) {
    if span.is_disabled() {
        return;
    }
    if let Some(parent) = traceparent.and_then(parse) {
        // It fails where the layer is not ours to ask, and then there is no trace to be in.
        let _ = span.set_parent(mark(Context::new().with_remote_span_context(parent)));
    }
}

/// Names a span of another trace that this one follows.
pub fn link(span: &Span, traceparent: Option<&str>) {
    if let (false, Some(context)) = (span.is_disabled(), traceparent.and_then(parse)) {
        span.add_link(context);
    }
}

/// The span's own context for those below it, recorded or not. None where nobody traces.
pub fn traceparent(span: &Span) -> Option<String> {
    context(span).map(|own| format!("00-{}-{}-{:02x}", own.trace_id(), own.span_id(), own.trace_flags().to_u8()))
}

/// The ids of a span that is recorded.
pub fn ids(span: &Span) -> Option<SpanIds> {
    let own = context(span).filter(SpanContext::is_sampled)?;
    Some(SpanIds { trace: own.trace_id().to_string(), span: own.span_id().to_string() })
}

/// What the ledger keeps of the span of an attempt, below the one that `traceparent` names.
pub fn of_attempt(span: &Span, traceparent: Option<&str>) -> Option<AttemptSpan> {
    let parent = traceparent.and_then(parse).map(|parent| parent.span_id().to_string());
    Some(AttemptSpan { ids: ids(span)?, parent })
}

/// The id of the trace that a span is recorded in: for logs.
pub fn id(span: &Span) -> Option<String> {
    ids(span).map(|ids| ids.trace)
}

/// The attempt that this span describes may not come to be: it is not exported before `begin`.
pub fn hold_back(span: &Span) {
    span.set_attribute(names::TENTATIVE, true);
}

/// The attempt that was held back has its step in hand.
pub fn begin(span: &Span) {
    span.set_attribute(names::TENTATIVE, false);
    span.set_attribute(names::HELD, true);
}

/// What a tentative span is about has happened; the attempt whose span this is was settled by who
/// made it.
pub fn keep(span: &Span) {
    span.set_attribute(names::KEPT, true);
}

fn context(span: &Span) -> Option<SpanContext> {
    if span.is_disabled() {
        return None;
    }
    let own = span.context().span().span_context().clone();
    own.is_valid().then_some(own)
}

fn parse(traceparent: &str) -> Option<SpanContext> {
    // The propagator also reads ids that were cut short.
    if traceparent.len() != 55 {
        return None;
    }
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let read = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    let context = read.span().span_context().clone();
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_w3c_form_is_a_context() {
        let sampled = parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        let random = parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03").unwrap();
        let unsampled = parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").unwrap();

        assert!(sampled.is_sampled() && random.is_sampled() && !unsampled.is_sampled());
        for text in ["", "00-1-2-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "a'; drop table run"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn where_nobody_traces_there_is_no_context() {
        let span = Span::none();

        adopt(&span, Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));

        assert_eq!((traceparent(&span), ids(&span)), (None, None));
    }
}
