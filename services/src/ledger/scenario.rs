//! A run as a scenario: what its attempts met, in order, and nothing that says whose run it was.
//! `sluice runs export` writes one, the simulator replays it, and a production failure becomes a
//! named test.
//!
//! Left out on purpose: ids, names, tokens, error texts, inputs and outputs. Workers are numbered.

use std::collections::BTreeMap;

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
    /// As in the attempt's row: `succeeded`, `failed`, `deferred`, `crashed`, `sent_back`,
    /// `refused`, `cancelled`.
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
}

impl Scenario {
    /// The scenario of a run: what its attempts met, each with the name of its worker, in any
    /// order.
    pub fn of(workflow: WorkflowName, version: i16, state: RunState, mut met: Vec<(String, Met)>) -> Self {
        met.sort_by_key(|(_, met)| met.began_ms);
        let mut workers = BTreeMap::new();
        let attempts = met.into_iter().map(|(name, met)| {
            let next = workers.len() as u32 + 1;
            Met { worker: *workers.entry(name).or_insert(next), ..met }
        });
        let attempts = attempts.collect();
        Self { format: FORMAT, about: String::new(), workflow, version, state, attempts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(worker: &str, began_ms: u64, outcome: &str, class: Option<Class>) -> (String, Met) {
        let (step, outcome, http_status) = ("send".parse().unwrap(), outcome.to_owned(), class.map(|_| 500));
        (worker.to_owned(), Met { step, worker: 0, began_ms, took_ms: 40, outcome, class, http_status })
    }

    #[test]
    fn a_scenario_holds_what_attempts_met_and_not_who_they_were() {
        let met = vec![
            met("worker-host-9", 2_000, "succeeded", None),
            met("worker-host-7", 10, "failed", Some(Class::ServerError)),
        ];

        let scenario = Scenario::of("welcome".parse().unwrap(), 1, RunState::Succeeded, met);

        let workers: Vec<_> = scenario.attempts.iter().map(|met| (met.worker, met.began_ms, met.took_ms)).collect();
        assert_eq!(workers, [(1, 10, 40), (2, 2_000, 40)]);
        let text = serde_json::to_string(&scenario).unwrap();
        assert!(!text.contains("host"), "{text}");
        assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario);
    }
}
