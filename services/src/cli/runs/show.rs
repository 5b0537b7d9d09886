//! A run for whoever mends it.

use super::waits;
use crate::{
    cli::{
        moment::{published, relative, span},
        output::{Column, or_dash, properties, table},
    },
    ledger::postgres::read::{Attempt, Event, RunDetail, Step},
};

/// A run for people.
pub(in crate::cli) fn describe(detail: &RunDetail) -> String {
    let attempts = match detail.attempts.is_empty() {
        true => "no attempt has ended".to_owned(),
        false => table(&detail.attempts, ATTEMPTS),
    };
    let mut parts = vec![head(detail), table(&detail.steps, STEPS), attempts];
    if !detail.events.is_empty() {
        parts.push(table(&detail.events, EVENTS));
    }
    parts.join("\n\n")
}

const SECOND_LOOK: &str = "a second look: two calls of an earlier run may have met";

fn head(detail: &RunDetail) -> String {
    let run = &detail.run;
    let is_dead = run.state == "dead";
    let letter = detail.dead_letter.as_ref().filter(|letter| is_dead && letter.resolved_at.is_none());
    let asked = run.cancel_by.as_ref().map(|by| match &run.cancel_reason {
        Some(reason) => format!("asked for by {by}: {reason}"),
        None => format!("asked for by {by}"),
    });
    properties([
        ("run", Some(run.id.to_string())),
        ("workflow", Some(format!("{} version {}", run.workflow, run.version))),
        ("subject", Some(run.subject.clone())),
        ("resource", Some(run.resource.clone())),
        ("state", Some(run.state.clone())),
        ("why", run.internal.then(|| SECOND_LOOK.to_owned())),
        ("started", Some(relative(run.created_at))),
        ("ended", run.ended_at.map(relative)),
        ("deadline", run.ended_at.is_none().then(|| relative(run.deadline_at))),
        ("end", asked),
        ("trace", run.traceparent.as_deref().and_then(|parent| parent.split('-').nth(1)).map(str::to_owned)),
        ("mend", letter.map(|letter| format!("sluice dead-letters show {}", letter.id))),
    ])
}

const STEPS: &[Column<Step>] = &[
    ("STEP", |step| step.name.clone()),
    ("STATE", |step| step.state.clone()),
    ("DUE", |step| or_dash(step.due_at.map(relative))),
    ("WAITS FOR", |step| or_dash(waits::describe(&step.waits_for))),
    ("FAILURES", |step| step.failures.to_string()),
    ("CRASHES", |step| step.crashes.to_string()),
    ("SENT BACK", |step| step.send_backs.to_string()),
    ("DEFERS", |step| step.defers.to_string()),
    ("ATTEMPTS", |step| step.attempts.to_string()),
    ("WORKER", |step| or_dash(step.worker.as_deref())),
    ("ERROR", |step| or_dash(step.error.as_deref())),
];

const ATTEMPTS: &[Column<Attempt>] = &[
    ("ATTEMPT OF", |attempt| attempt.step.clone()),
    ("OUTCOME", |attempt| attempt.outcome.clone()),
    ("CLASS", |attempt| or_dash(attempt.class.as_deref())),
    ("HTTP", |attempt| or_dash(attempt.http_status)),
    ("STARTED", |attempt| relative(attempt.started_at)),
    ("TOOK", |attempt| span(attempt.ended_at - attempt.started_at)),
    ("WORKER", |attempt| attempt.worker.clone()),
    ("ERROR", |attempt| or_dash(attempt.error.as_deref())),
    ("NOTE", |attempt| or_dash(attempt.note.as_deref())),
];

const EVENTS: &[Column<Event>] = &[
    ("EVENT", |event| event.routing_key.clone()),
    ("WRITTEN", |event| relative(event.created_at)),
    ("PUBLISHED", |event| published(event.published_at)),
];
