//! Which traces are recorded. Decided once, where a trace comes to us: what is below follows.
//! Whoever signs up writes the context that the trigger stores, so a flag in it is a claim: it can
//! keep a trace out, and never bring one in.

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt, TraceId},
};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

/// Marks a parent that somebody outside says there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimed;

/// What decides about a trace that begins here, or is said to have begun outside.
/// `OTEL_TRACES_SAMPLER`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Root {
    On,
    /// `always_off` leaves out what others have decided to record too; `parentbased_always_off`
    /// does not.
    Off {
        absolute: bool,
    },
    /// The share that is recorded.
    Ratio(f64),
}

impl Root {
    /// The share that is recorded.
    fn share(self) -> f64 {
        match self {
            Self::On => 1.0,
            Self::Off { .. } => 0.0,
            Self::Ratio(share) => share,
        }
    }

    fn samples(self, trace: TraceId) -> bool {
        let sampler = Sampler::TraceIdRatioBased(self.share());
        let result = sampler.should_sample(None, trace, "", &SpanKind::Internal, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    /// A trace id that was given from outside must not choose its own fate: it is drawn for.
    fn draws(self) -> bool {
        rand::random::<f64>() < self.share()
    }
}

impl ShouldSample for Root {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        _name: &str,
        _kind: &SpanKind,
        _attributes: &[KeyValue],
        _links: &[Link],
    ) -> SamplingResult {
        let above = parent.map(|context| (context, context.span().span_context().clone()));
        let sampled = match above.filter(|(_, span)| span.is_valid()) {
            None => self.samples(trace),
            Some((_, span)) if !span.is_sampled() => false,
            Some((context, span)) if span.is_remote() && context.get::<Claimed>().is_some() => self.draws(),
            Some(_) => *self != Self::Off { absolute: true },
        };
        let decision = if sampled { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop };
        SamplingResult { decision, attributes: Vec::new(), trace_state: Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};

    use super::*;

    const TRACE: TraceId = TraceId::from_bytes([7; 16]);

    fn sampled(root: Root, parent: Option<Context>) -> bool {
        let result = root.should_sample(parent.as_ref(), TRACE, "", &SpanKind::Internal, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    fn below(flags: TraceFlags) -> Context {
        let span = SpanContext::new(TRACE, SpanId::from_bytes([7; 8]), flags, true, TraceState::default());
        Context::new().with_remote_span_context(span)
    }

    fn claimed(flags: TraceFlags) -> Context {
        below(flags).with_value(Claimed)
    }

    #[test]
    fn a_trace_is_recorded_as_its_root_and_what_is_above_it_say() {
        let (absent, absolute) = (Root::Off { absolute: false }, Root::Off { absolute: true });
        let roots = [Root::On, Root::Ratio(1.0), absent, absolute, Root::Ratio(0.0)];
        let (on, off) = (TraceFlags::SAMPLED, TraceFlags::default());

        for (above, parent, recorded) in [
            ("nothing", None, [true, true, false, false, false]),
            ("a recorded span of ours", Some(below(on)), [true, true, true, false, true]),
            ("another one of ours", Some(below(off)), [false; 5]),
            ("what is claimed to be recorded", Some(claimed(on)), [true, true, false, false, false]),
            ("what is claimed not to be", Some(claimed(off)), [false; 5]),
        ] {
            assert_eq!(roots.map(|root| sampled(root, parent.clone())), recorded, "{above} is above");
        }
    }

    #[test]
    fn a_claimed_trace_id_does_not_choose_its_fate() {
        let root = Root::Ratio(0.5);

        let taken = (0..1000).filter(|_| sampled(root, Some(claimed(TraceFlags::SAMPLED)))).count();

        assert!((300..700).contains(&taken), "{taken} of 1000 with one trace id");
    }
}
