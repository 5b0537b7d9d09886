//! Why a due step has not been claimed yet.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use super::Result;
use crate::database::Tx;

/// What a due step waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "for")]
pub enum Wait {
    /// Of the same run.
    EarlierStep,
    /// The run's turn on its resource, which another run has.
    Turn { behind: Option<Uuid> },
    /// The delay after a failure, or the one that was asked for.
    Backoff { until: DateTime<Utc> },
    /// A gate that is closed, or a half-open breaker that lets another run through.
    Gate { reason: Option<String> },
    /// A rate or a concurrency.
    Limit,
    /// A call that creates or deletes may still be under way there.
    Resource { until: DateTime<Utc> },
    /// No build has registered the step in the run's version.
    Definition,
    /// Nothing holds it.
    Worker,
}

#[derive(FromRow)]
struct Row {
    run_id: Uuid,
    position: i16,
    due_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    for_turn: bool,
    behind: Option<Uuid>,
    busy_until: Option<DateTime<Utc>>,
    is_known: bool,
    passes: bool,
    limited: bool,
    reason: Option<String>,
}

/// Why the due steps of these runs wait, by run and position. A gate is asked once, however many
/// steps stand before it.
pub(super) async fn waits(tx: &mut Tx, runs: Vec<Uuid>) -> Result<HashMap<(Uuid, i16), Vec<Wait>>> {
    let sql = "with asked as materialized (
          select step.run_id, step.position, step.name, step.due_at, run.workflow, definition.host,
            definition.step is not distinct from step.name as is_known,
            held.run_id as behind, held.busy_until,
            run.waits and step.position = (
              select min(open.position)
              from sluice.step as open
              where open.run_id = step.run_id
                and open.state <> 'succeeded'
            ) as for_turn
          from sluice.step
          join sluice.run
            on run.id = step.run_id
          left join sluice.resource as held
            on held.name = run.resource
          left join sluice.definition
            on definition.workflow = run.workflow
            and definition.version = run.version
            and definition.position = step.position
          where step.run_id = any($1)
            and step.state = 'due'
        ),
        gates as materialized (
          select place.workflow, place.name, place.host, state.*
          from (select distinct workflow, name, host from asked) as place
          cross join lateral sluice.gate_state(place.workflow, place.name, place.host) as state
        )
        select asked.run_id, asked.position, asked.due_at, now() as now, asked.for_turn, asked.behind,
          asked.busy_until, asked.is_known, gates.limited, gates.reason,
          gates.passes and not (gates.half_open and gates.probe_run is distinct from asked.run_id) as passes
        from asked
        join gates
          on gates.workflow = asked.workflow
          and gates.name = asked.name
          and gates.host is not distinct from asked.host";
    let rows: Vec<Row> = tx.query_as(sql).bind(runs).fetch_all(tx.connection()).await?;
    Ok(rows.into_iter().map(|row| ((row.run_id, row.position), row.waits())).collect())
}

impl Row {
    /// Everything that stands before it, in the order in which it must pass.
    fn waits(self) -> Vec<Wait> {
        let Some(due_at) = self.due_at else {
            return vec![if self.for_turn { Wait::Turn { behind: self.behind } } else { Wait::EarlierStep }];
        };
        let later = |moment: DateTime<Utc>| (moment > self.now).then_some(moment);
        let mut waits = Vec::new();
        waits.extend(later(due_at).map(|until| Wait::Backoff { until }));
        waits.extend(self.busy_until.and_then(later).map(|until| Wait::Resource { until }));
        if !self.is_known {
            waits.push(Wait::Definition);
        }
        if !self.passes {
            waits.push(Wait::Gate { reason: self.reason });
        }
        if waits.is_empty() {
            waits.push(if self.limited { Wait::Limit } else { Wait::Worker });
        }
        waits
    }
}
