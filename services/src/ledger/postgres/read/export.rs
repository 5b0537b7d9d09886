//! A run as a scenario: only what `ledger::scenario` names leaves the ledger.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde_json::Value;
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
    let detail = detail(ledger, id, MOST).await?;
    detail.as_ref().map(scenario).transpose()
}

fn scenario(RunDetail { run, attempts, .. }: &RunDetail) -> Result<Scenario> {
    let mut attempts: Vec<&Attempt> = attempts.iter().collect();
    attempts.sort_by_key(|attempt| attempt.started_at);
    let met = attempts.into_iter().map(|attempt| Ok((attempt.worker.clone(), met(attempt, run.created_at)?)));
    Ok(Scenario::of(known(&run.workflow)?, run.version, known(&run.state)?, met.collect::<Result<_>>()?))
}

/// Its worker is numbered by the scenario.
fn met(attempt: &Attempt, began: DateTime<Utc>) -> Result<Met> {
    let after = |moment: DateTime<Utc>| (moment - began).to_std().unwrap_or(Duration::ZERO);
    let (began, ended) = (after(attempt.started_at), after(attempt.ended_at));
    Ok(Met {
        step: known(&attempt.step)?,
        worker: 0,
        began_ms: millis(began),
        took_ms: millis(ended.saturating_sub(began)),
        outcome: attempt.outcome.clone(),
        class: attempt.class.as_deref().map(known).transpose()?,
        http_status: attempt.http_status.and_then(|status| u16::try_from(status).ok()),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn known<T: DeserializeOwned>(label: &str) -> Result<T> {
    serde_json::from_value(Value::String(label.to_owned())).map_err(|error| Error::Unreadable(error.to_string()))
}
