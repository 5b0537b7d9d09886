//! Requests and sign-ups into runs. While few come, each commit rings (`doorbell`). While many come, intake is awake: nobody
//! rings, and it takes every few milliseconds what has gathered.

use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

use super::{Next, Relay};
use crate::{
    ledger::{Intake, RelayLedger, Traced},
    telemetry::{spans, trace},
};

/// So many in one round wake intake up: commits that ring wait for each other.
const MANY: usize = 32;
/// How long what comes gathers while intake is awake.
const GATHER: Duration = Duration::from_millis(5);
/// How often intake looks without a ring, where rings arrive.
const HEARING_TICK: Duration = Duration::from_secs(1);

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
    keep_traces(ledger, &mut intake).await;
    Ok(intake)
}

/// Where somebody traces, a run is in the trace of its intake, below what its request named.
async fn keep_traces<L: RelayLedger>(ledger: &L, intake: &mut Intake) {
    let mut begun = Vec::new();
    for taken in &intake.started {
        let span = spans::intake(taken);
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
    let take = async || {
        let Intake { started, revived, joined, failed, due } = intake_once(&relay.ledger, batch).await?;
        let taken = started.len() + revived.len() + joined + failed;
        relay.push(due).await;
        if taken >= MANY {
            doorbell.stay_awake();
        } else if taken == 0 {
            doorbell.fall_asleep();
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
