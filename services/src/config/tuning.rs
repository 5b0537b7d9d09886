//! How much a relay or a worker does at once, how often a relay looks, and how long a worker may
//! take to stop.

use std::{num::NonZeroUsize, time::Duration};

use clap::Args;
use workflows::{breaker::Rules, definition::Registry, ids::StepName};

use super::Faults;
use crate::{relay, worker};

#[derive(Args)]
#[command(next_help_heading = "Relay")]
pub struct RelayTuning {
    /// The most requests or steps that one round takes
    #[arg(long, env = "RELAY_BATCH", value_name = "NUMBER", default_value = "200")]
    relay_batch: String,

    /// How often requests are looked for where LISTEN does not work, at most every 100ms; where it
    /// does, they ring, and are looked for once a second
    #[arg(long, env = "INTAKE_POLL", value_name = "DURATION", default_value = "100ms")]
    intake_poll: String,

    /// How long runs that succeeded or were cancelled, events and the audit are kept; dead letters
    /// that nobody has resolved are kept for ever. Events that were not published by then are
    /// dropped, counted and logged
    #[arg(long, env = "RETENTION", value_name = "DURATION", default_value = "30d")]
    retention: String,
}

impl RelayTuning {
    pub(super) fn read(&self, faults: &mut Faults) -> Option<relay::Settings> {
        let batch = faults.number("RELAY_BATCH", &self.relay_batch, 1..=1000);
        let poll = Duration::from_millis(100)..=Duration::from_secs(60);
        let intake_poll = faults.duration("INTAKE_POLL", &self.intake_poll, poll);
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let retention = faults.duration("RETENTION", &self.retention, days(1)..=days(3650));
        Some(relay::Settings { batch: batch?, intake_poll: intake_poll?, retention: retention? })
    }
}

#[derive(Args)]
#[command(next_help_heading = "Worker")]
pub struct WorkerTuning {
    /// How many attempts of each step run at once
    #[arg(long, env = "WORKER_CONCURRENCY", value_name = "NUMBER", default_value = "50")]
    worker_concurrency: String,

    /// How long attempts may go on after SIGTERM. Those that are not done by then are handed back
    /// within 2s, uncounted; a process that is killed before that loses them, counted as
    /// worker_lost. Keep it 5s below the supervisor's own patience (Kubernetes:
    /// terminationGracePeriodSeconds, 30 s)
    #[arg(long, env = "DRAIN_GRACE", value_name = "DURATION", default_value = "25s")]
    drain_grace: String,
}

impl WorkerTuning {
    /// Of a worker that serves these steps.
    pub(super) fn read(&self, steps: Option<Vec<StepName>>, faults: &mut Faults) -> Option<worker::Settings> {
        let range = NonZeroUsize::MIN..=NonZeroUsize::MIN.saturating_add(999);
        let concurrency = faults.number("WORKER_CONCURRENCY", &self.worker_concurrency, range);
        let grace = Duration::ZERO..=Duration::from_secs(600);
        let grace = faults.duration("DRAIN_GRACE", &self.drain_grace, grace);
        Some(worker::Settings { steps: steps?, concurrency: concurrency?, grace: grace?, rules: Rules::default() })
    }
}

/// What a worker is called in traces: after its step, where it serves one.
pub(super) fn service(steps: Option<&[StepName]>) -> String {
    match steps {
        Some([step]) => format!("sluice-worker-{step}"),
        _ => "sluice-worker".to_owned(),
    }
}

/// The steps that a worker was told to serve, each once.
pub(super) fn steps(names: &[String], registry: &Registry, faults: &mut Faults) -> Option<Vec<StepName>> {
    // In the order of their workflows, of which several may have one of a name.
    let (mut known, mut steps) = (Vec::<&StepName>::new(), Vec::new());
    for step in registry.all().flat_map(|workflow| &workflow.steps) {
        if !known.contains(&&step.name) {
            known.push(&step.name);
        }
    }
    for name in names {
        match known.iter().find(|step| step.as_str() == name) {
            Some(step) if steps.contains(*step) => faults.add("STEP", name, "is named twice"),
            Some(step) => steps.push((*step).clone()),
            None => {
                let known: Vec<_> = known.iter().map(|step| step.as_str()).collect();
                faults.add("STEP", name, format!("is no step of this build: expected {}", known.join(", ")));
            }
        }
    }
    (steps.len() == names.len()).then_some(steps)
}
