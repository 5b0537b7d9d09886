//! A run as a scenario: only what `ledger::scenario` names leaves the ledger.

use chrono::{DateTime, TimeDelta, Utc};
use serde::de::DeserializeOwned;
use workflows::ids::RunId;

use super::{
    Attempt, MOST, Postgres, Result,
    run::{RunDetail, detail},
};
use crate::ledger::{
    Error,
    scenario::{Met, Scenario},
};

/// The run, none where there is no such run. An error where this build does not know a label that
/// the run has.
pub async fn export(ledger: &Postgres, id: RunId) -> Result<Option<Scenario>> {
    let Some(RunDetail { run, mut attempts, .. }) = detail(ledger, id, MOST).await? else { return Ok(None) };
    attempts.sort_by_key(|attempt| attempt.started_at);
    let met = attempts.iter().map(|attempt| Ok((attempt.worker.clone(), met(attempt, run.created_at)?)));
    let met = met.collect::<Result<_>>()?;
    Ok(Some(Scenario::of(known(&run.workflow)?, run.version, known(&run.state)?, met)))
}

/// Its worker is numbered by the scenario.
fn met(attempt: &Attempt, began: DateTime<Utc>) -> Result<Met> {
    // Nothing, where the clock was set back.
    let millis = |lasted: TimeDelta| u64::try_from(lasted.num_milliseconds()).unwrap_or_default();
    Ok(Met {
        step: known(&attempt.step)?,
        worker: 0,
        began_ms: millis(attempt.started_at - began),
        took_ms: millis(attempt.ended_at - attempt.started_at.max(began)),
        outcome: attempt.outcome.clone(),
        class: attempt.class.as_deref().map(known).transpose()?,
        http_status: attempt.http_status.and_then(|status| u16::try_from(status).ok()),
    })
}

fn known<T: DeserializeOwned>(label: &str) -> Result<T> {
    serde_json::from_value(label.into()).map_err(|error| Error::Unreadable(error.to_string()))
}
