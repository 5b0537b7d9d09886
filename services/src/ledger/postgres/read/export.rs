//! A run as a scenario: only what `ledger::export` names leaves the ledger.

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde_json::Value;
use workflows::ids::RunId;

use super::{Attempt, Letter, Postgres, Result, RunDetail, Step, begin, run};
use crate::ledger::{
    Error,
    export::{self, Scenario},
};

/// The run, none where there is no such run. An error where this build does not know a label that the run has.
pub async fn export(ledger: &Postgres, id: RunId) -> Result<Option<Scenario>> {
    let Some(detail) = run(ledger, id).await? else { return Ok(None) };
    let subject = pseudonym(ledger, &detail.run.subject).await?;
    scenario(subject, &detail).map(Some)
}

/// The same for a subject at every time. The moment of adoption stands in it, so that nobody who has a user's id can tell
/// that it is they.
async fn pseudonym(ledger: &Postgres, subject: &str) -> Result<String> {
    let mut tx = begin(ledger).await?;
    let (pseudonym,): (String,) = tx
        .query_as(
            "select 'subject-' || left(encode(sha256(convert_to(
               coalesce((select value from sluice.setting where name = 'adopted_at'), '') || ' ' || $1, 'UTF8')), 'hex'), 16)",
        )
        .bind(subject.to_owned())
        .fetch_one(tx.connection())
        .await?;
    tx.commit().await?;
    Ok(pseudonym)
}

fn scenario(subject: String, detail: &RunDetail) -> Result<Scenario> {
    let run = &detail.run;
    let began = run.created_at;
    let workers = workers(&detail.attempts);
    Ok(Scenario {
        format: export::FORMAT,
        subject,
        workflow: known(&run.workflow)?,
        version: run.version,
        state: known(&run.state)?,
        ended_after_ms: run.ended_at.map(|ended| after(began, ended)),
        steps: detail.steps.iter().map(step).collect::<Result<_>>()?,
        attempts: detail.attempts.iter().map(|one| attempt(one, began, &workers)).collect::<Result<_>>()?,
        dead_letter: detail.dead_letter.as_ref().map(|letter| dead_letter(letter, began)).transpose()?,
    })
}

fn step(step: &Step) -> Result<export::Step> {
    Ok(export::Step {
        position: step.position,
        name: known(&step.name)?,
        state: known(&step.state)?,
        failures: step.failures,
        crashes: step.crashes,
        send_backs: step.send_backs,
        defers: step.defers,
        attempts: step.attempts,
    })
}

fn attempt(attempt: &Attempt, began: DateTime<Utc>, workers: &[&str]) -> Result<export::Attempt> {
    let worker = workers.iter().position(|worker| *worker == attempt.worker).unwrap_or_default();
    Ok(export::Attempt {
        position: attempt.position,
        step: known(&attempt.step)?,
        worker: worker + 1,
        outcome: known(&attempt.outcome)?,
        class: attempt.class.as_deref().map(known).transpose()?,
        http_status: attempt.http_status,
        started_after_ms: after(began, attempt.started_at),
        took_ms: after(attempt.started_at, attempt.ended_at),
    })
}

fn dead_letter(letter: &Letter, began: DateTime<Utc>) -> Result<export::DeadLetter> {
    Ok(export::DeadLetter {
        step: known(&letter.step)?,
        reason: known(&letter.reason)?,
        class: letter.class.as_deref().map(known).transpose()?,
        died_after_ms: after(began, letter.died_at),
        resolution: letter.resolution.as_deref().map(known).transpose()?,
        resolved_after_ms: letter.resolved_at.map(|resolved| after(began, resolved)),
    })
}

/// In the order in which they appear.
fn workers(attempts: &[Attempt]) -> Vec<&str> {
    let mut workers: Vec<&str> = Vec::new();
    for attempt in attempts {
        if !workers.contains(&attempt.worker.as_str()) {
            workers.push(&attempt.worker);
        }
    }
    workers
}

fn after(began: DateTime<Utc>, moment: DateTime<Utc>) -> i64 {
    (moment - began).num_milliseconds()
}

fn known<T: DeserializeOwned>(label: &str) -> Result<T> {
    serde_json::from_value(Value::String(label.to_owned())).map_err(|error| Error::Unreadable(error.to_string()))
}
