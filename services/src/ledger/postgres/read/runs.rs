//! Runs by filter.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    ids::{RunId, StepName, Subject, WorkflowName},
    state::RunState,
};

use super::{Held, Postgres, Result, Wait, begin, capped, seconds, waits::waits};
use crate::database::Tx;

/// Which runs: all that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    pub id: Option<RunId>,
    pub state: Option<RunState>,
    pub workflow: Option<WorkflowName>,
    /// Whose current step is this one.
    pub step: Option<StepName>,
    pub subject: Option<Subject>,
    /// Started within so long.
    pub since: Option<Duration>,
}

/// A run, and its current step: the first that has not succeeded, else the last.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Run {
    pub id: Uuid,
    pub workflow: String,
    pub version: i16,
    pub subject: String,
    pub resource: String,
    pub state: String,
    pub step: Option<String>,
    pub step_state: Option<String>,
    #[serde(skip)]
    pub position: Option<i16>,
    /// What the current step waits for, where it is due.
    #[sqlx(skip)]
    pub waits_for: Vec<Wait>,
    /// Of the current step, since the run's last revival.
    pub failures: i32,
    pub crashes: i32,
    pub due_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub deadline_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub cancel_by: Option<String>,
    pub cancel_reason: Option<String>,
    /// Of the trace that it is in, or was in before its revival.
    pub traceparent: Option<String>,
    /// Nobody asked for it: two calls of an earlier run may have met.
    pub internal: bool,
}

impl Held<Run> {
    /// Takes out of a text about this run what nobody may see.
    pub fn cut(&self, text: Option<String>) -> Option<String> {
        text.map(|text| self.secrets.cut([&self.of.resource, &self.of.subject], &text))
    }

    pub fn shown(mut self) -> Run {
        let error = self.of.error.take();
        Run { error: self.cut(error), ..self.of }
    }
}

/// Up to `limit` runs that fit, the youngest first: ids are sorted by the moment of the start.
pub async fn runs(ledger: &Postgres, filter: &RunFilter, limit: usize) -> Result<Vec<Run>> {
    let mut tx = begin(ledger).await?;
    let rows = select(&mut tx, filter, limit).await?;
    tx.commit().await?;
    Ok(rows.into_iter().map(Held::shown).collect())
}

pub(super) async fn select(tx: &mut Tx, filter: &RunFilter, limit: usize) -> Result<Vec<Held<Run>>> {
    let sql = "select run.id, run.workflow, run.version, run.subject, run.resource, run.state, step.name as step,
          step.state as step_state, coalesce(step.failures, 0) as failures, coalesce(step.crashes, 0) as crashes,
          step.due_at, coalesce(step.held_by, step.error) as error, run.created_at, run.deadline_at, run.ended_at, run.cancel_by,
          run.cancel_reason, coalesce(run.traceparent, run.linked_traceparent) as traceparent, run.internal,
          step.position, held.secret, held.memory
        from sluice.run
        left join lateral (
          select current.*
          from sluice.step as current
          where current.run_id = run.id
          order by current.state = 'succeeded',
            case when current.state = 'succeeded' then -current.position else current.position end
          limit 1
        ) as step on true
        left join sluice.resource as held
          on held.name = run.resource
        where ($1::text is null or run.state = $1)
          and ($2::text is null or run.workflow = $2)
          and ($3::text is null or step.name = $3)
          and ($4::text is null or run.subject = $4)
          and ($5::float8 is null or run.created_at > now() - make_interval(secs => $5))
          and ($6::uuid is null or run.id = $6)
        order by run.id desc
        limit $7";
    let ask = tx.query_as(sql).bind(filter.state.map(RunState::as_str));
    let ask = ask.bind(filter.workflow.as_ref().map(ToString::to_string));
    let ask = ask.bind(filter.step.as_ref().map(ToString::to_string));
    let ask = ask.bind(filter.subject.as_ref().map(ToString::to_string)).bind(filter.since.map(seconds));
    let ask = ask.bind(filter.id.map(RunId::uuid)).bind(capped(limit));
    let mut rows: Vec<Held<Run>> = ask.fetch_all(tx.connection()).await?;
    let is_due = |run: &&Run| run.step_state.as_deref() == Some("due");
    let due: Vec<Uuid> = rows.iter().map(|row| &row.of).filter(is_due).map(|run| run.id).collect();
    if !due.is_empty() {
        let mut waits = waits(tx, due).await?;
        for Held { of: run, .. } in &mut rows {
            run.waits_for = run.position.and_then(|at| waits.remove(&(run.id, at))).unwrap_or_default();
        }
    }
    Ok(rows)
}
