//! All figures of a run. A part that was not asked for is left out.

use serde::Serialize;

use super::{
    burst::Burst,
    crowd::{Compared, Drain},
    doorbell::Doorbell,
    goal::Goal,
    idle::Idle,
    machine::Machine,
    profile::Profile,
    recovery::Recovery,
    stage::Roles,
    steady::{Single, Steady},
    traced::Traced,
};

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    /// Where a part does not choose by itself.
    pub roles: Roles,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub burst: Vec<Burst>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steady: Vec<Steady>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub single: Vec<Single>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub doorbell: Vec<Doorbell>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<Burst>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scaling: Vec<Burst>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recovery: Vec<Recovery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<Recorded>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Traced>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Compared>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Compared>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    pub goals: Vec<Goal>,
    /// Why the figures prove nothing; empty where they do.
    pub void: Vec<String>,
}

/// With the times that the real API was recorded with.
#[derive(Clone, Debug, Serialize)]
pub struct Recorded {
    pub burst: Vec<Burst>,
    pub steady: Steady,
}

impl Report {
    pub fn new(machine: Machine, roles: Roles) -> Self {
        Self {
            machine,
            roles,
            burst: Vec::new(),
            steady: Vec::new(),
            single: Vec::new(),
            idle: None,
            doorbell: Vec::new(),
            workers: Vec::new(),
            scaling: Vec::new(),
            recovery: Vec::new(),
            recorded: None,
            tracing: None,
            drain: None,
            waiting: None,
            history: None,
            profile: None,
            goals: Vec::new(),
            void: Vec::new(),
        }
    }

    /// Every burst of the report.
    pub fn all_bursts(&self) -> impl Iterator<Item = &Burst> {
        let compared = self.waiting.iter().chain(&self.history).flat_map(|compared| [&compared.empty, &compared.full]);
        let traced = self.tracing.iter().flat_map(|traced| [&traced.off, &traced.on]);
        let recorded = self.recorded.iter().flat_map(|recorded| &recorded.burst);
        self.burst.iter().chain(&self.workers).chain(&self.scaling).chain(compared).chain(traced).chain(recorded)
    }

    /// Every stream of the report.
    pub fn all_streams(&self) -> impl Iterator<Item = &Steady> {
        let compared = self.waiting.iter().chain(&self.history).filter_map(|compared| compared.steady.as_ref());
        self.steady.iter().chain(compared).chain(self.recorded.iter().map(|recorded| &recorded.steady))
    }
}
