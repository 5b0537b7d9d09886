//! How much a worker does at once, and how long it may take to stop.

use std::{num::NonZeroUsize, time::Duration};

use clap::Args;
use workflows::{breaker::Rules, definition::Registry, ids::StepName};

use super::Faults;
use crate::worker::Settings;

#[derive(Args)]
#[command(next_help_heading = "Worker")]
pub struct WorkerTuning {
    /// How many attempts of each step run at once
    #[arg(long, env = "WORKER_CONCURRENCY", value_name = "NUMBER", default_value = "50")]
    worker_concurrency: String,

    /// How long attempts may go on after SIGTERM; what is not done by then is left to its lease and tried again,
    /// uncounted. Below the supervisor's own patience (Kubernetes: terminationGracePeriodSeconds, 30 s)
    #[arg(long, env = "DRAIN_GRACE", value_name = "DURATION", default_value = "25s")]
    drain_grace: String,
}

impl WorkerTuning {
    /// Of a worker that serves these steps.
    pub(super) fn read(&self, steps: Option<Vec<StepName>>, faults: &mut Faults) -> Option<Settings> {
        let range = NonZeroUsize::MIN..=NonZeroUsize::MIN.saturating_add(999);
        let concurrency = faults.number("WORKER_CONCURRENCY", &self.worker_concurrency, range);
        let grace = Duration::ZERO..=Duration::from_secs(600);
        let grace = faults.duration("DRAIN_GRACE", &self.drain_grace, grace);
        Some(Settings { steps: steps?, concurrency: concurrency?, grace: grace?, rules: Rules::default() })
    }
}

/// What a worker is called in traces: after its step, where it serves one.
pub(super) fn service(steps: Option<&[StepName]>) -> String {
    match steps {
        Some([step]) => format!("sluice-worker-{step}"),
        _ => "sluice-worker".to_owned(),
    }
}

/// Every step of every workflow once, in the order of their workflows.
pub(super) fn known(registry: &Registry) -> Vec<StepName> {
    let mut known = Vec::new();
    for step in registry.all().flat_map(|workflow| &workflow.steps) {
        if !known.contains(&step.name) {
            known.push(step.name.clone());
        }
    }
    known
}

/// The steps that a worker was told to serve, each once.
pub(super) fn steps(names: &[String], known: &[StepName], faults: &mut Faults) -> Option<Vec<StepName>> {
    let mut steps = Vec::new();
    for name in names {
        match known.iter().find(|step| step.as_str() == name) {
            Some(step) if steps.contains(step) => faults.add("STEP", name, "is named twice"),
            Some(step) => steps.push(step.clone()),
            None => {
                let known: Vec<_> = known.iter().map(StepName::as_str).collect();
                faults.add("STEP", name, format!("is no step of this build: expected {}", known.join(", ")));
            }
        }
    }
    (steps.len() == names.len()).then_some(steps)
}
