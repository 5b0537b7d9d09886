//! What Sluice tells about itself. `log` is what it says to people and collectors, `metrics` what it counts and measures,
//! `health` whether its loops turn; no secret may ever pass here, which the types of the secrets see to.

pub mod health;
pub mod log;
pub mod metrics;

use std::sync::Arc;

use self::{health::Health, metrics::Metrics};

/// Where the roles of one process leave what it tells about itself. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub struct Vitals {
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
}

impl Vitals {
    /// Those of a process that plays this role.
    pub fn new(role: &str) -> Self {
        Self { metrics: Arc::new(Metrics::new(role)), health: Arc::default() }
    }
}
