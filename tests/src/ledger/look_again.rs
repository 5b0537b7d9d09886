//! Resources at which two calls may have met.

use std::time::Duration;

use serde_json::Value;
use workflows::{
    ids::{ResourceName, RunId, WorkflowName},
    state::RunState,
};

use super::{NewRun, Resource, Run, Started, Tx, start::Wanted};

impl Tx<'_> {
    pub(super) fn doubt(&mut self, run: RunId) {
        let Some(run) = self.tables.runs.get(&run) else { return };
        if let Some(resource) = self.tables.resources.get_mut(&run.resource) {
            resource.doubted_at = Some(self.now);
            resource.doubted_workflow = Some(run.workflow.clone());
        }
    }

    pub(super) fn look_again(&mut self, limit: usize) -> usize {
        let names: Vec<_> = self.doubted().cloned().collect();
        let ended = names.into_iter().filter_map(|name| {
            let last = self.last_of(&name).filter(|last| last.state != RunState::Active)?;
            Some((last.workflow.clone(), last.input.clone(), last.state, name))
        });
        let ended: Vec<_> = ended.take(limit).collect();
        ended.into_iter().filter(|(workflow, input, state, name)| self.look_at(workflow, input, *state, name)).count()
    }

    pub(super) fn doubted(&self) -> impl Iterator<Item = &ResourceName> {
        let quiet = |resource: &Resource| {
            let (at, workflow) = (resource.doubted_at?, resource.doubted_workflow.as_ref()?);
            Some(at + self.longest_lease(workflow) < self.now)
        };
        let resources = self.tables.resources.iter();
        resources.filter(move |(_, resource)| quiet(resource).unwrap_or_default()).map(|(name, _)| name)
    }

    /// For so long a call of this workflow may be under way that nobody knows of.
    fn longest_lease(&self, workflow: &WorkflowName) -> Duration {
        let of_it = self.tables.registered.all().filter(|definition| definition.name == *workflow);
        of_it.flat_map(|definition| &definition.steps).map(|step| step.lease).max().unwrap_or_default()
    }

    /// Whether it needs a look, and gets one. Where the last run is dead or cancelled a person
    /// decides, and a run of another workflow has the last word.
    fn look_at(&mut self, workflow: &WorkflowName, input: &Value, state: RunState, name: &ResourceName) -> bool {
        let Some(resource) = self.tables.resources.get(name) else { return false };
        let looks = state == RunState::Succeeded && resource.doubted_workflow.as_ref() == Some(workflow);
        let new = NewRun {
            workflow: workflow.clone(),
            subject: resource.subject.clone(),
            resource: name.clone(),
            input: input.clone(),
            traceparent: None,
            age: Duration::ZERO,
        };
        if looks && !matches!(self.start_run(&new, Wanted::Internally), Started::New(_)) {
            return false;
        }
        if let Some(resource) = self.tables.resources.get_mut(name) {
            (resource.doubted_at, resource.doubted_workflow) = (None, None);
        }
        looks
    }

    fn last_of(&self, name: &ResourceName) -> Option<&Run> {
        self.tables.runs.values().rev().find(|run| run.resource == *name)
    }
}
