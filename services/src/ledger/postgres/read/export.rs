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
    scenario::{Row, Scenario},
};

/// The run, none where there is no such run. An error where this build does not know a label that the run has.
pub async fn export(ledger: &Postgres, id: RunId) -> Result<Option<Scenario>> {
    let detail = detail(ledger, id, MOST).await?;
    detail.as_ref().map(scenario).transpose()
}

fn scenario(RunDetail { run, attempts, .. }: &RunDetail) -> Result<Scenario> {
    let rows = attempts.iter().map(|attempt| row(attempt, run.created_at)).collect::<Result<_>>()?;
    Ok(Scenario::of(known(&run.workflow)?, run.version, known(&run.state)?, rows))
}

fn row(attempt: &Attempt, began: DateTime<Utc>) -> Result<Row> {
    let after = |moment: DateTime<Utc>| (moment - began).to_std().unwrap_or(Duration::ZERO);
    Ok(Row {
        step: known(&attempt.step)?,
        worker: attempt.worker.clone(),
        began: after(attempt.started_at),
        ended: after(attempt.ended_at),
        outcome: attempt.outcome.clone(),
        class: attempt.class.as_deref().map(known).transpose()?,
        http_status: attempt.http_status.and_then(|status| u16::try_from(status).ok()),
    })
}

fn known<T: DeserializeOwned>(label: &str) -> Result<T> {
    serde_json::from_value(Value::String(label.to_owned())).map_err(|error| Error::Unreadable(error.to_string()))
}
