//! A run as a scenario: what its attempts met, in order, and nothing that says whose run it was. `sluice runs export` writes
//! one, the simulator replays it, and a production failure becomes a named test.
//!
//! Left out on purpose: ids, names, tokens, error texts, inputs and outputs. Workers are numbered.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use workflows::{
    ids::{StepName, WorkflowName},
    outcome::Class,
    state::RunState,
};

/// The format's version: a reader refuses one that it does not know.
pub const FORMAT: u32 = 1;

/// A run without anything that could identify it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub format: u32,
    /// What went wrong, in a person's words; empty in an export.
    #[serde(default)]
    pub about: String,
    pub workflow: WorkflowName,
    pub version: i16,
    /// How the run stood when it was exported.
    pub state: RunState,
    /// In the order in which they began.
    pub attempts: Vec<Met>,
}

/// What one attempt met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Met {
    pub step: StepName,
    /// 1 for the first worker that took a step of the run, and so on.
    pub worker: u32,
    /// Milliseconds from the start of the run to that of the attempt.
    pub began_ms: u64,
    pub took_ms: u64,
    /// As in the attempt's row: `succeeded`, `failed`, `deferred`, `crashed`, `sent_back`, `refused`, `cancelled`.
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
}

/// An attempt's row, as far as a scenario needs it. Times count from the start of the run.
#[derive(Debug, Clone)]
pub struct Row {
    pub step: StepName,
    pub worker: String,
    pub began: Duration,
    pub ended: Duration,
    pub outcome: String,
    pub class: Option<Class>,
    pub http_status: Option<u16>,
}

impl Scenario {
    /// The scenario of a run, from its rows in any order.
    pub fn of(workflow: WorkflowName, version: i16, state: RunState, mut rows: Vec<Row>) -> Self {
        rows.sort_by_key(|row| row.began);
        let mut workers = BTreeMap::new();
        let attempts = rows.into_iter().map(|row| {
            let next = workers.len() as u32 + 1;
            let worker = *workers.entry(row.worker).or_insert(next);
            Met {
                step: row.step,
                worker,
                began_ms: millis(row.began),
                took_ms: millis(row.ended.saturating_sub(row.began)),
                outcome: row.outcome,
                class: row.class,
                http_status: row.http_status,
            }
        });
        let attempts = attempts.collect();
        Self { format: FORMAT, about: String::new(), workflow, version, state, attempts }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(worker: &str, began: u64, outcome: &str, class: Option<Class>) -> Row {
        Row {
            step: "send".parse().unwrap(),
            worker: worker.to_owned(),
            began: Duration::from_millis(began),
            ended: Duration::from_millis(began + 40),
            outcome: outcome.to_owned(),
            class,
            http_status: class.map(|_| 500),
        }
    }

    #[test]
    fn a_scenario_holds_what_attempts_met_and_not_who_they_were() {
        let rows = vec![
            row("worker-host-9", 2_000, "succeeded", None),
            row("worker-host-7", 10, "failed", Some(Class::ServerError)),
        ];

        let scenario = Scenario::of("welcome".parse().unwrap(), 1, RunState::Succeeded, rows);

        let workers: Vec<_> = scenario.attempts.iter().map(|met| (met.worker, met.began_ms, met.took_ms)).collect();
        assert_eq!(workers, [(1, 10, 40), (2, 2_000, 40)]);
        let text = serde_json::to_string(&scenario).unwrap();
        assert!(!text.contains("host"), "{text}");
        assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario);
    }
}
