//! The names of keys and channels. All begin with the prefix.

use workflows::ids::StepName;

use super::Prefix;

/// The names of one step's queue.
#[derive(Clone)]
pub(super) struct Keys {
    /// What the queue's keys begin with, and the name that apalis-redis knows it by.
    pub(super) queue: String,
    /// The channel that wakes this step's workers.
    pub(super) wake: String,
}

impl Keys {
    pub(super) fn new(prefix: &Prefix, step: &StepName) -> Self {
        Self { queue: format!("{prefix}:{step}"), wake: format!("{prefix}:wake:step:{step}") }
    }

    /// One of the queue's keys. Each transport says which there are.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.queue)
    }
}

/// The channel that wakes the relays.
pub(super) fn wake_relay(prefix: &Prefix) -> String {
    format!("{prefix}:wake:relay")
}

/// What `ping` writes.
pub(super) fn ping(prefix: &Prefix) -> String {
    format!("{prefix}:ping")
}
