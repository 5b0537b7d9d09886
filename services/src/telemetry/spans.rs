//! Every span that Sluice makes. Where nobody traces they are disabled and cost a branch. Only ids,
//! names and numbers go into them, never a text that came from outside, so that no secret can.

use std::time::Duration;

use opentelemetry::{Value, trace::Status};
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use workflows::{
    ids::{StepName, WorkflowName},
    state::{DeathReason, RunState},
};

use super::{names, trace};
use crate::ledger::{AttemptSpan, Claim, DueKey, Event, Expired, Key, SpanIds, TakenIn, Waited, WholeRun};

/// What the spans' layer listens to.
pub(super) const TARGET: &str = module_path!();

/// Whether this process traces.
pub fn enabled() -> bool {
    tracing::span_enabled!(target: TARGET, tracing::Level::INFO)
}

/// A request became a run. Below the context that the request gave, which is a claim; kept once it
/// is the run's.
pub fn intake(taken: &TakenIn) -> Span {
    let span = info_span!(
        parent: None,
        names::INTAKE,
        otel.name = format!("{} {}", names::INTAKE, taken.workflow),
        { names::WORKFLOW } = %taken.workflow,
        { names::RUN } = %taken.run,
        { names::SUBJECT } = %taken.subject,
        { names::WAITED } = as_i64(taken.age.as_millis()),
        { names::DATABASE } = "postgresql",
        { names::TENTATIVE } = true,
    );
    trace::adopt_claim(&span, taken.traceparent.as_deref());
    span
}

/// A run that is in no trace begins one: linked to the one that it was in before its revival, if
/// any. Kept once stored.
pub fn begin(workflow: &WorkflowName, run: impl std::fmt::Display, before: Option<&str>) -> Span {
    let name = if before.is_some() { names::REVIVE } else { names::START };
    let span = info_span!(
        parent: None,
        names::START,
        otel.name = format!("{name} {workflow}"),
        { names::WORKFLOW } = %workflow,
        { names::RUN } = %run,
        { names::TENTATIVE } = true,
    );
    trace::link(&span, before);
    span
}

/// A hint goes into the step's queue: from a relay, or from the worker whose attempt made the step
/// due. Kept where the queue did not hold it yet.
pub fn send(step: &StepName, key: DueKey, above: Option<&str>) -> Span {
    let in_attempt = is_in_attempt();
    let span = info_span!(
        parent: None,
        names::SEND,
        otel.name = format!("{} {step}", names::SEND),
        otel.kind = "producer",
        { names::QUEUE_SYSTEM } = "redis",
        { names::QUEUE } = %step,
        { names::OPERATION } = names::SEND,
        { names::OPERATION_TYPE } = "send",
        { names::MESSAGE } = %key,
        { names::RUN } = %key.run,
        { names::STEP } = %step,
        { names::IN_ATTEMPT } = in_attempt,
        { names::TENTATIVE } = true,
    );
    // A relay may find a new step before its intake has kept the trace: then the context is still
    // the request's.
    if in_attempt {
        trace::adopt(&span, above);
    } else {
        trace::adopt_claim(&span, above);
    }
    span
}

/// An event goes to the broker. Kept once that is confirmed.
pub fn publish(event: &Event) -> Span {
    let span = info_span!(
        parent: None,
        names::PUBLISH,
        otel.name = format!("{} {}", names::PUBLISH, event.r#type),
        otel.kind = "producer",
        { names::QUEUE_SYSTEM } = "rabbitmq",
        { names::OPERATION } = names::PUBLISH,
        { names::OPERATION_TYPE } = "send",
        { names::MESSAGE } = %event.id,
        { names::ROUTING_KEY } = event.routing_key,
        { names::TENTATIVE } = true,
    );
    trace::adopt_claim(&span, event.traceparent.as_deref());
    span
}

/// A worker has a hint in hand: from its claim to its settle.
pub fn process(step: &StepName, key: DueKey, above: Option<&str>) -> Span {
    let span = info_span!(
        parent: None,
        names::PROCESS,
        otel.name = format!("{} {step}", names::PROCESS),
        otel.kind = "consumer",
        { names::QUEUE_SYSTEM } = "redis",
        { names::QUEUE } = %step,
        { names::OPERATION } = names::PROCESS,
        { names::OPERATION_TYPE } = "process",
        { names::MESSAGE } = %key,
        { names::RUN } = %key.run,
        { names::STEP } = %step,
    );
    trace::adopt(&span, above);
    span
}

/// What the claim has brought, on the attempt's span.
pub fn claimed(span: &Span, claim: &Claim) {
    if span.is_disabled() {
        return;
    }
    of_attempt(span, &claim.workflow, claim.attempt, claim.key);
    span.set_attribute(names::HELD, true);
    if let Some(Waited { backoff, retry_after, turn, gate, gated_by, queue }) = &claim.waited {
        set(span, names::BACKOFF, *backoff);
        set(span, names::RETRY_AFTER, *retry_after);
        set(span, names::TURN, *turn);
        set(span, names::GATE, *gate);
        set(span, names::GATED_BY, gated_by.clone());
        set(span, names::QUEUED, *queue);
    }
}

fn of_attempt(span: &Span, workflow: &WorkflowName, attempt: u32, key: Key) {
    span.set_attribute(names::WORKFLOW, workflow.to_string());
    span.set_attribute(names::ATTEMPT, i64::from(attempt));
    span.set_attribute(names::TOKEN, key.token.to_string());
}

fn set(span: &Span, name: &'static str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        span.set_attribute(name, value);
    }
}

/// The question to the ledger whether the step is ours.
pub fn claim() -> Span {
    info_span!(names::CLAIM, otel.kind = "client", { names::DATABASE } = "postgresql")
}

/// The attempt's end is written.
pub fn settle(step: &StepName) -> Span {
    info_span!(
        names::SETTLE,
        otel.name = format!("{} {step}", names::SETTLE),
        otel.kind = "client",
        { names::QUEUE_SYSTEM } = "redis",
        { names::QUEUE } = %step,
        { names::OPERATION } = names::SETTLE,
        { names::OPERATION_TYPE } = "settle",
        { names::DATABASE } = "postgresql",
    )
}

/// The lease of an attempt has run out: the relay settles it. Kept once that is written. Below the
/// attempt, where that was recorded.
pub fn rescue(expired: &Expired) -> Span {
    let span = info_span!(
        parent: None,
        names::RESCUE,
        otel.name = format!("{} {}", names::RESCUE, expired.step),
        { names::WORKFLOW } = %expired.workflow,
        { names::RUN } = %expired.key.run,
        { names::STEP } = %expired.step,
        { names::ATTEMPT } = i64::from(expired.attempt),
        { names::TOKEN } = %expired.key.token,
        { names::DATABASE } = "postgresql",
        { names::TENTATIVE } = true,
    );
    match &expired.span {
        Some(AttemptSpan { ids, .. }) => trace::adopt(&span, Some(&ids.traceparent())),
        None => trace::adopt(&span, expired.traceparent.as_deref()),
    }
    span
}

/// The span of an attempt whose worker cannot export it: from its claim, so long ago, until now.
pub fn lost(expired: &Expired, own: &AttemptSpan, age: Duration) -> Span {
    let Expired { key, generation, .. } = *expired;
    let due = DueKey { run: key.run, position: key.position, generation };
    let span = process(&expired.step, due, Some(&own.ids.traceparent()));
    of_attempt(&span, &expired.workflow, expired.attempt, key);
    span.set_attribute(names::WORKER, expired.worker.clone());
    span.set_attribute(names::ID, own.ids.span.clone());
    span.set_attribute(names::ABOVE, own.parent.clone().unwrap_or_default());
    span.set_attribute(names::LASTED, as_i64(age.as_nanos()));
    failed(&span);
    span
}

/// A run has ended: from its request, or its revival, until then. It is beside the run's intake,
/// below what the request named.
pub fn whole(whole: &WholeRun) -> Span {
    let span = info_span!(
        parent: None,
        names::WHOLE,
        otel.name = format!("{} {}", names::WHOLE, whole.workflow),
        { names::WORKFLOW } = whole.workflow,
        { names::RUN } = %whole.run,
        { names::SUBJECT } = whole.subject,
        { names::OUTCOME } = whole.state.as_str(),
        { names::ATTEMPTS } = i64::from(whole.attempts),
        { names::ERROR } = whole.reason.map(DeathReason::as_str),
        { names::IN_ATTEMPT } = is_in_attempt(),
        { names::LASTED } = as_i64(whole.lasted.as_nanos()),
        { names::ENDED_AGO } = as_i64(whole.ended_ago.as_nanos()),
    );
    let (own, asked) = (whole.traceparent.as_deref(), whole.asked_traceparent.as_deref());
    if own == asked {
        // No intake kept a context of its own: what the request gave is a claim.
        trace::adopt_claim(&span, asked);
    } else {
        trace::adopt(&span, own);
        span.set_attribute(names::ABOVE, asked.and_then(SpanIds::of).map(|above| above.span).unwrap_or_default());
    }
    if whole.state == RunState::Dead {
        failed(&span);
    }
    span
}

/// Whether this is done within an attempt.
fn is_in_attempt() -> bool {
    Span::current().metadata().is_some_and(|metadata| metadata.name() == names::PROCESS)
}

/// One request to an API. `route` is its method and path, without names or ids; `host` and `url`
/// hold no credentials.
pub fn call(route: &'static str, host: &str, port: Option<u16>, url: &str) -> Span {
    let (method, template) = route.split_once(' ').unwrap_or((route, ""));
    info_span!(
        "call",
        otel.name = route,
        otel.kind = "client",
        { names::METHOD } = method,
        { names::ROUTE } = template,
        { names::URL } = url,
        { names::SERVER } = host,
        { names::PORT } = port.map(i64::from),
    )
}

/// What came of a call.
pub fn answered(span: &Span, status: Option<u16>, error: Option<&str>) {
    set(span, names::STATUS, status.map(i64::from));
    set(span, names::ERROR, error.map(str::to_owned));
    if error.is_some() {
        failed(span);
    }
}

/// What came of an attempt, on a span beside the one that it is.
pub fn came_of(span: &Span, outcome: &'static str, class: Option<&'static str>) {
    span.set_attribute(names::OUTCOME, outcome);
    set(span, names::CLASS, class);
}

/// How an attempt ended, on the span that it is.
pub fn ended(span: &Span, outcome: &'static str, class: Option<&'static str>) {
    came_of(span, outcome, class);
    set(span, names::ERROR, class);
    if matches!(outcome, "failed" | "refused" | "crashed") {
        failed(span);
    }
}

pub fn failed(span: &Span) {
    span.set_status(Status::error(""));
}

fn as_i64(number: u128) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
