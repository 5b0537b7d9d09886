//! Where the burst's CPU goes: perf samples Sluice, Postgres and Redis while it runs; stacks become a flame graph.

use anyhow::{Result, bail};
use serde::Serialize;

use super::stage::{Roles, Stage};

#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    pub samples: usize,
    /// The largest first.
    pub costs: Vec<Cost>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    pub what: String,
    pub percent: f64,
}

pub async fn burst(_stage: &mut Stage, _roles: Roles, _users: usize) -> Result<Profile> {
    bail!("not built yet")
}
