//! The names of keys and channels. Those of a step's queue are apalis-redis' own layout, which our scripts share.

use workflows::ids::StepName;

use super::Prefix;

/// The keys of one step's queue.
#[derive(Clone)]
pub(super) struct Keys {
    prefix: String,
    queue: String,
    step: StepName,
}

impl Keys {
    pub(super) fn new(prefix: &Prefix, step: &StepName) -> Self {
        Self { prefix: prefix.to_string(), queue: format!("{prefix}:{step}"), step: step.clone() }
    }

    /// The name that apalis-redis knows this queue by.
    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// Hash: id → payload.
    pub(super) fn data(&self) -> String {
        format!("{}:data", self.queue)
    }

    /// Prefix of one hash per id.
    pub(super) fn meta(&self) -> String {
        format!("{}:meta", self.queue)
    }

    /// List of the ids that wait.
    pub(super) fn active(&self) -> String {
        format!("{}:active", self.queue)
    }

    /// Sorted set of ids that apalis would promote; ours never go there (see `push`).
    pub(super) fn scheduled(&self) -> String {
        format!("{}:scheduled", self.queue)
    }

    /// Prefix of one set per worker: what it fetched and has not acknowledged.
    pub(super) fn inflight(&self) -> String {
        format!("{}:inflight", self.queue)
    }

    /// Set of acknowledged ids.
    pub(super) fn done(&self) -> String {
        format!("{}:done", self.queue)
    }

    /// Set of ids whose handler failed; ours never fail.
    pub(super) fn dead(&self) -> String {
        format!("{}:dead", self.queue)
    }

    /// Sorted set of registered workers.
    pub(super) fn workers(&self) -> String {
        format!("{}:workers", self.queue)
    }

    /// Prefix of one hash per worker.
    pub(super) fn worker_metadata(&self) -> String {
        format!("{}:workers:metadata", self.queue)
    }

    /// Prefix of one key per worker that lives, which Redis' clock expires.
    pub(super) fn alive(&self) -> String {
        format!("{}:alive", self.queue)
    }

    /// The channel that wakes this step's workers.
    pub(super) fn wake(&self) -> String {
        wake_step(&self.prefix, &self.step)
    }
}

fn wake_step(prefix: &str, step: &StepName) -> String {
    format!("{prefix}:wake:step:{step}")
}

/// The channel that wakes the relays.
pub(super) fn wake_relay(prefix: &Prefix) -> String {
    format!("{prefix}:wake:relay")
}

/// Hash with the epoch and the beat (see `loss`).
pub(super) fn epoch(prefix: &Prefix) -> String {
    format!("{prefix}:epoch")
}
