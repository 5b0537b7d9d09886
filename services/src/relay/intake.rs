//! Requests and sign-ups into runs. While few come, each commit rings (`doorbell`). While many
//! come, intake is awake: nobody rings, and it takes every few milliseconds what has gathered.

use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{Next, Relay};
use crate::{
    ledger::{Intake, RelayLedger, Traced},
    telemetry::{spans, trace},
};

/// So many within `LATELY` wake intake up: commits that ring wait for each other.
const MANY: usize = 32;
const LATELY: Duration = Duration::from_millis(50);
/// How long what comes gathers while intake is awake.
const GATHER: Duration = Duration::from_millis(5);
/// How often intake looks without a ring, where rings arrive.
const HEARING_TICK: Duration = Duration::from_secs(1);

/// How many have come lately. One round says little: while commits ring, few are there at once,
/// because they ring.
struct Lately {
    since: Instant,
    came: usize,
}

impl Lately {
    fn are_many(&mut self, came: usize) -> bool {
        if self.since.elapsed() > LATELY {
            *self = Self { since: Instant::now(), came: 0 };
        }
        self.came += came;
        self.came >= MANY
    }
}

/// Takes up to `batch` requests of each source. The runs that it started are in their traces.
pub async fn intake_once<L: RelayLedger>(ledger: &L, batch: usize) -> anyhow::Result<Intake> {
    let mut intake = ledger.intake(batch).await.context("take in requests")?;
    if intake != Intake::default() {
        let (started, revived, joined, failed) =
            (intake.started.len(), intake.revived.len(), intake.joined, intake.failed);
        tracing::debug!(started, revived, joined, failed, "taken in");
        if failed > 0 {
            tracing::warn!(failed, "requests that cannot become runs: what asked says why");
        }
    }
    log_and_trace(ledger, &mut intake).await;
    Ok(intake)
}

/// Says what started. Where somebody traces, a run is in the trace of its intake, below what its
/// request named.
async fn log_and_trace<L: RelayLedger>(ledger: &L, intake: &mut Intake) {
    let mut begun = Vec::new();
    for taken in &intake.started {
        let span = spans::intake(taken);
        let (run, workflow, subject, trace_id) = (taken.run, &taken.workflow, &taken.subject, trace::id(&span));
        tracing::info!(%run, %workflow, %subject, trace_id, "run started");
        if let Some(now) = trace::traceparent(&span) {
            begun.push((span, Traced { run: taken.run, was: taken.traceparent.clone(), now }));
        }
    }
    if begun.is_empty() {
        return;
    }
    let contexts: Vec<Traced> = begun.iter().map(|(_, context)| context.clone()).collect();
    let kept = ledger.keep_traces(&contexts).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "cannot keep the traces of new runs");
        Vec::new()
    });
    for ((span, Traced { run, now, .. }), kept) in begun.into_iter().zip(kept) {
        if kept {
            trace::keep(&span);
            for due in intake.due.iter_mut().filter(|due| due.key.run == run) {
                due.traceparent = Some(now.clone());
            }
        }
    }
}

pub(super) async fn run(relay: Relay) {
    let (batch, poll, doorbell) = (relay.settings.batch, relay.settings.intake_poll, &relay.doorbell);
    let lately = Mutex::new(Lately { since: Instant::now(), came: 0 });
    let take = async || {
        let Intake { started, revived, joined, failed, due } = intake_once(&relay.ledger, batch).await?;
        let taken = started.len() + revived.len() + joined + failed;
        relay.push(due).await;
        if lately.lock().are_many(taken) {
            doorbell.set_awake(true);
        } else if taken == 0 {
            doorbell.set_awake(false);
        }
        if taken < batch && doorbell.is_awake() {
            sleep(GATHER).await;
        }
        Ok(if taken >= batch || doorbell.is_awake() {
            Next::AtOnce
        } else if doorbell.is_heard() {
            Next::After(poll.max(HEARING_TICK))
        } else {
            Next::AtTick
        })
    };
    relay.repeat("take in requests", poll, &doorbell.rung, take).await;
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_are_many_however_few_come_at_once() {
        let mut lately = Lately { since: Instant::now(), came: 0 };

        assert!((1..MANY).all(|_| !lately.are_many(1)));
        assert!(lately.are_many(1));

        advance(LATELY + Duration::from_millis(1)).await;
        assert!(!lately.are_many(MANY - 1));
        advance(LATELY + Duration::from_millis(1)).await;
        assert!(!lately.are_many(MANY - 1), "the former ones came long ago");
        assert!(lately.are_many(1));
    }
}
