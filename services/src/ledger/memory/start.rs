//! Starting runs: the instance row with our own token, the run, its first step, and its turn on the resource.

use std::time::Duration;

use workflows::{
    definition::Workflow,
    ids::{InstanceName, RunId},
    outcome::InstanceStatus,
    state::{RunState, StepState},
};

use super::{Instance, NewRun, Run, Started, Step, Tx};

impl Tx<'_> {
    pub(super) fn start(&mut self, new: &NewRun) -> Started {
        let registry = self.setup.registry.clone();
        let Some(workflow) = registry.newest(&new.workflow) else {
            return Started::Refused(format!("no workflow is called {}", new.workflow));
        };
        let Some(first) = workflow.step(0) else {
            return Started::Refused(format!("the workflow {} has no steps", new.workflow));
        };
        let Some(resource) = self.ensure_instance(new) else {
            let text = format!("the instance name {} belongs to another subject than {}", new.resource, new.subject);
            return Started::Refused(text);
        };
        let whose = (new.workflow.clone(), new.subject.clone());
        if let Some(there) = self.tables.unfinished.get(&whose).and_then(|id| self.tables.runs.get(id)) {
            return Started::Joined(there.id, there.state);
        }
        self.insert_run(new, workflow, resource);
        let due_at = self.take_turn(new.id).then_some(self.now);
        self.tables.steps.insert((new.id, 0), Step::new(first.name.clone(), workflow.priority, due_at));
        self.project(new.id);
        Started::New(new.id)
    }

    /// The name of the subject's instance, which gets a row and our token where it has none. `None`: the name is another
    /// subject's.
    fn ensure_instance(&mut self, new: &NewRun) -> Option<InstanceName> {
        if let Some(instance) = self.tables.instances.get(&new.subject) {
            return Some(instance.name.clone());
        }
        if self.tables.instances.values().any(|instance| instance.name == new.resource) {
            return None;
        }
        let instance = Instance {
            name: new.resource.clone(),
            token: new.instance_token.clone(),
            status: InstanceStatus::Creating,
            webhook_url: None,
            qr_code: None,
            qr_at: None,
            paired_at: None,
            create_claimed_at: None,
        };
        self.tables.instances.insert(new.subject.clone(), instance);
        Some(new.resource.clone())
    }

    fn insert_run(&mut self, new: &NewRun, workflow: &Workflow, resource: InstanceName) {
        let again = self.tables.runs.values().any(|run| run.workflow == new.workflow && run.subject == new.subject);
        let age = if again { Duration::ZERO } else { new.age };
        let run = Run {
            id: new.id,
            workflow: workflow.name.clone(),
            version: workflow.version,
            subject: new.subject.clone(),
            resource,
            input: new.input.clone(),
            state: RunState::Active,
            priority: workflow.priority,
            traceparent: new.traceparent.clone(),
            linked_traceparent: None,
            deadline_at: self.now + workflow.deadline,
            deadline_from: self.now,
            cancel_by: None,
            cancel_reason: None,
            requested_at: self.now.saturating_sub(age),
            created_at: self.now,
            ended_at: None,
        };
        self.tables.unfinished.insert((run.workflow.clone(), run.subject.clone()), run.id);
        self.tables.active.insert((run.created_at, run.id));
        self.tables.runs.insert(run.id, run);
    }

    /// Whether it is this run's turn on its resource; it takes the turn where nobody has it.
    pub(super) fn take_turn(&mut self, id: RunId) -> bool {
        let Some(run) = self.tables.runs.get(&id) else { return false };
        let resource = self.tables.resources.entry(run.resource.clone()).or_default();
        *resource.run.get_or_insert(id) == id
    }

    /// The run is over: the oldest active one on its resource takes its turn, and its waiting step is due.
    pub(super) fn pass_turn(&mut self, id: RunId) {
        let Some(name) = self.tables.runs.get(&id).map(|run| run.resource.clone()) else { return };
        let waits = |run: &RunId| self.tables.runs.get(run).is_some_and(|run| run.resource == name);
        let next = self.tables.active.iter().map(|(_, run)| *run).find(waits);
        let Some(resource) = self.tables.resources.get_mut(&name).filter(|resource| resource.run == Some(id)) else {
            return;
        };
        resource.run = next;
        if let Some(next) = next {
            self.wake(next, self.now);
        }
    }

    /// The run's current step is due at `at`, where it is due at all.
    pub(super) fn wake(&mut self, id: RunId, at: Duration) {
        if let Some(step) = self.current_step(id).filter(|step| step.state == StepState::Due) {
            step.due_at = Some(at);
        }
    }

    /// The first step that has not succeeded.
    pub(super) fn current_step(&mut self, id: RunId) -> Option<&mut Step> {
        let mut steps = self.tables.steps.range_mut((id, 0)..=(id, i16::MAX));
        steps.find(|(_, step)| step.state != StepState::Succeeded).map(|(_, step)| step)
    }
}
