//! Dead letters: by filter, by id, and how many.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    ids::{RunId, StepName, WorkflowName},
    outcome::Class,
    state::DeathReason,
};

use super::{Held, Postgres, Result, begin, capped, seconds};

/// Which dead letters: all that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
    /// The revived and the discarded too, not only those that wait for a person.
    pub resolved: bool,
    pub reason: Option<DeathReason>,
    pub step: Option<StepName>,
    pub class: Option<Class>,
    pub workflow: Option<WorkflowName>,
    /// Died within so long.
    pub since: Option<Duration>,
}

/// How a person names a dead letter: by its own number or by its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterId {
    Number(i64),
    Run(RunId),
}

/// A run that needs, or needed, a person.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Letter {
    pub id: i64,
    pub run: Uuid,
    pub workflow: String,
    pub subject: String,
    pub resource: String,
    pub run_state: String,
    /// Where a revival resumes.
    pub step: String,
    pub reason: String,
    pub class: Option<String>,
    pub error: Option<String>,
    pub died_at: DateTime<Utc>,
    pub resolved_at: Option<DateTime<Utc>>,
    pub resolution: Option<String>,
    pub resolved_by: Option<String>,
    pub note: Option<String>,
}

/// Up to `limit` dead letters that fit, the youngest first.
pub async fn letters(ledger: &Postgres, filter: &LetterFilter, limit: usize) -> Result<Vec<Letter>> {
    select(ledger, filter, None, limit).await
}

/// Those of these ids that are there, resolved ones too, the youngest first: of a run its youngest.
pub async fn letters_by_id(ledger: &Postgres, ids: &[LetterId]) -> Result<Vec<Letter>> {
    let filter = LetterFilter { resolved: true, ..LetterFilter::default() };
    select(ledger, &filter, Some(ids), ids.len()).await
}

async fn select(
    ledger: &Postgres,
    filter: &LetterFilter,
    ids: Option<&[LetterId]>,
    limit: usize,
) -> Result<Vec<Letter>> {
    let number = |id: &LetterId| if let LetterId::Number(number) = id { Some(*number) } else { None };
    let run = |id: &LetterId| if let LetterId::Run(run) = id { Some(run.uuid()) } else { None };
    let numbers: Option<Vec<i64>> = ids.map(|ids| ids.iter().filter_map(number).collect());
    let runs: Option<Vec<Uuid>> = ids.map(|ids| ids.iter().filter_map(run).collect());
    let mut tx = begin(ledger).await?;
    let sql = "select letter.id, letter.run_id as run, run.workflow, run.subject, run.resource, run.state as run_state,
          letter.step, letter.reason, letter.class, letter.error, letter.died_at, letter.resolved_at,
          letter.resolution, letter.resolved_by, letter.note,
          held.secret, held.memory
        from sluice.dead_letter as letter
        join sluice.run
          on run.id = letter.run_id
        left join sluice.resource as held
          on held.name = run.resource
        where ($1 or letter.resolved_at is null)
          and ($2::text is null or letter.reason = $2)
          and ($3::text is null or letter.step = $3)
          and ($4::text is null or letter.class = $4)
          and ($5::text is null or run.workflow = $5)
          and ($6::float8 is null or letter.died_at > now() - make_interval(secs => $6))
          and ($7::bigint[] is null or letter.id = any($7) or (letter.run_id = any($8) and not exists (
            select from sluice.dead_letter as younger
            where younger.run_id = letter.run_id
              and younger.id > letter.id
          )))
        order by letter.id desc
        limit $9";
    let ask = tx.query_as(sql).bind(filter.resolved).bind(filter.reason.map(DeathReason::as_str));
    let ask = ask.bind(filter.step.as_ref().map(ToString::to_string)).bind(filter.class.map(Class::as_str));
    let ask = ask.bind(filter.workflow.as_ref().map(ToString::to_string)).bind(filter.since.map(seconds)).bind(numbers);
    let ask = ask.bind(runs).bind(capped(limit));
    let rows: Vec<Held<Letter>> = ask.fetch_all(tx.connection()).await?;
    tx.commit().await?;
    let shown = |Held { of: mut letter, secrets }: Held<Letter>| {
        letter.error = letter.error.map(|error| secrets.cut([&letter.resource, &letter.subject], &error));
        letter
    };
    Ok(rows.into_iter().map(shown).collect())
}
