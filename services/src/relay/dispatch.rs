//! Due steps into Redis. What became due is pushed at once by whoever made it due; the scan here
//! makes up for whatever was lost on the way: Redis wiped, a push refused, a process killed, a hint
//! dropped. A hint may be pushed twice.

use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

use super::{Next, Relay, Settings};
use crate::{
    ledger::{Due, RelayLedger, Traced, Waiting},
    queue::{self, HintSink, PushReport},
    telemetry::{spans, trace},
};

/// How often due steps are looked for without a wake: what becomes due by the clock waits no longer
/// than this.
const TICK: Duration = Duration::from_secs(1);
/// The same while more is due than Redis has taken.
const BACKLOG_TICK: Duration = Duration::from_millis(50);
/// The same while a limit stands before a queue: hints go in as it lets them.
const LIMITED_TICK: Duration = Duration::from_millis(250);
/// The least time between two wakes: a settle that wakes a relay gathers with its neighbours.
const BETWEEN_WAKES: Duration = Duration::from_millis(50);

/// Pushes what is due of every queue, as far as Redis has capacity and the queue's limits let it.
pub async fn dispatch_once(
    settings: &Settings,
    ledger: &impl RelayLedger,
    sink: &impl HintSink,
) -> anyhow::Result<Next> {
    let mut next = TICK;
    for Waiting { queue, due, most } in ledger.waiting(settings.batch).await.context("look for due steps")? {
        let found = due.len();
        let PushReport { pushed, known, left } = push_due(ledger, sink, due, most).await?;
        tracing::debug!(%queue, found, pushed, known, left, "dispatched");
        let tick = if most.is_some() {
            LIMITED_TICK
        } else if left > 0 || found >= settings.batch {
            // What is due stays due until its claim: a full batch may hide more behind it.
            BACKLOG_TICK
        } else {
            TICK
        };
        next = next.min(tick);
    }
    Ok(Next::After(next))
}

/// Pushes what is due, while fewer than `most` of a step are outstanding. What cannot be pushed the
/// scan finds.
pub async fn push_due(
    ledger: &impl RelayLedger,
    sink: &impl HintSink,
    mut due: Vec<Due>,
    most: Option<usize>,
) -> Result<PushReport, queue::Error> {
    begin_traces(ledger, &mut due).await;
    queue::send(sink, &due, most).await
}

/// Where somebody traces, a run without a trace begins one. Where its context cannot be kept, its
/// step goes out in a trace of its own.
async fn begin_traces<L: RelayLedger>(ledger: &L, due: &mut [Due]) {
    let mut begun = Vec::new();
    for due in due.iter_mut().filter(|due| due.traceparent.is_none()) {
        let run = due.key.run;
        let span = spans::begin(&due.workflow, run, due.linked.as_deref());
        if let Some(now) = trace::traceparent(&span) {
            begun.push((due, span, Traced { run, was: None, now }));
        }
    }
    if begun.is_empty() {
        return;
    }
    let contexts: Vec<Traced> = begun.iter().map(|(.., context)| context.clone()).collect();
    let kept = ledger.keep_traces(&contexts).await.unwrap_or_default();
    for ((due, span, Traced { now, .. }), kept) in begun.into_iter().zip(kept) {
        if kept {
            trace::keep(&span);
            due.traceparent = Some(now);
        }
    }
}

pub(super) async fn run(relay: Relay) {
    let scan = async || dispatch_once(&relay.settings, &relay.ledger, &relay.queue).await;
    relay.repeat("dispatch", TICK, &relay.due, scan).await;
}

/// Workers, and other processes, ring where they could not push.
pub(super) async fn hear_wakes(relay: Relay) {
    let (mut bell, pulse) = (relay.queue.relay_bell(), relay.pulse("hear wakes"));
    let hear = async {
        loop {
            pulse.waiting(bell.rung()).await;
            relay.due.notify_one();
            sleep(BETWEEN_WAKES).await;
        }
    };
    relay.shutdown.run_until_cancelled(hear).await;
}
