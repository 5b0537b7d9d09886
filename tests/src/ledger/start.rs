//! Starting runs: the run, its resource with a secret of its own, its first step, and its turn on
//! the resource.

use std::time::Duration;

use sluice::ledger::{Due, DueKey, Traced};
use workflows::{
    definition::Definition,
    ids::RunId,
    outcome::Memory,
    state::{RunState, StepState},
};

use super::{NewRun, Resource, Run, Safeguard, Started, Step, Tx};

/// Who wants a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    BySomebody,
    /// By the ledger itself: nobody is told of its success.
    Internally,
}

impl Tx<'_> {
    pub(super) fn start(&mut self, new: &NewRun) -> Started {
        let started = self.start_run(new, Wanted::BySomebody);
        if let Started::New(run) | Started::Joined(run, _) = started {
            self.project(run);
        }
        started
    }

    pub(super) fn start_run(&mut self, new: &NewRun, wanted: Wanted) -> Started {
        let Some(definition) = self.tables.registered.newest(&new.workflow).cloned() else {
            return Started::Refused(format!("no workflow is called {}", new.workflow));
        };
        let Some(first) = definition.steps.first() else {
            return Started::Refused(format!("the workflow {} has no steps", new.workflow));
        };
        let whose = (new.workflow.clone(), new.subject.clone());
        if let Some(there) = self.tables.unfinished.get(&whose).and_then(|id| self.tables.runs.get_mut(id)) {
            there.internal &= wanted == Wanted::Internally;
            return Started::Joined(there.id, there.state);
        }
        if !self.ensure_resource(new) {
            let text = format!("the resource {} belongs to another subject than {}", new.resource, new.subject);
            return Started::Refused(text);
        }
        let id = (self.setup.draw_run)();
        self.insert_run(id, new, &definition, wanted);
        self.announce(id, "started");
        self.tables.steps.insert((id, 0), Step::new(first.name.clone(), definition.priority, None));
        if self.take_turn(id) {
            let due_at = self.free_at(id);
            if let Some(step) = self.tables.steps.get_mut(&(id, 0)) {
                step.due_at = Some(due_at);
            }
        }
        Started::New(id)
    }

    /// The resource gets a row and a secret where it has none. `false`: it is another subject's.
    fn ensure_resource(&mut self, new: &NewRun) -> bool {
        if let Some(resource) = self.tables.resources.get(&new.resource) {
            return resource.subject == new.subject;
        }
        let resource = Resource {
            subject: new.subject.clone(),
            workflow: new.workflow.clone(),
            run: None,
            busy_until: None,
            call_until: None,
            busy_token: None,
            doubted_at: None,
            doubted_workflow: None,
            exclusive_at: None,
            secret: (self.setup.draw_secret)(),
            memory: Memory::default(),
            created_at: self.now,
        };
        self.tables.resources.insert(new.resource.clone(), resource);
        true
    }

    fn insert_run(&mut self, id: RunId, new: &NewRun, definition: &Definition, wanted: Wanted) {
        let again = self.tables.runs.values().any(|run| run.workflow == new.workflow && run.subject == new.subject);
        let age = if again { Duration::ZERO } else { new.age };
        let run = Run {
            id,
            workflow: definition.name.clone(),
            version: definition.version,
            subject: new.subject.clone(),
            resource: new.resource.clone(),
            input: new.input.clone(),
            state: RunState::Active,
            traceparent: new.traceparent.clone(),
            asked_traceparent: new.traceparent.clone(),
            linked_traceparent: None,
            deadline_at: self.now + definition.deadline,
            deadline_from: self.now,
            cancel_by: None,
            cancel_reason: None,
            internal: wanted == Wanted::Internally,
            waits: true,
            requested_at: self.now.saturating_sub(age),
            created_at: self.now,
            revived_at: None,
            ended_at: None,
            span_waits: false,
        };
        self.tables.unfinished.insert((run.workflow.clone(), run.subject.clone()), id);
        self.tables.active.insert(id);
        self.tables.runs.insert(id, run);
    }

    /// Whether it is this run's turn on its resource; it takes the turn where nobody has it.
    fn take_turn(&mut self, id: RunId) -> bool {
        let Some(run) = self.tables.runs.get_mut(&id) else { return false };
        let Some(resource) = self.tables.resources.get_mut(&run.resource) else { return false };
        let has_turn = *resource.run.get_or_insert(id) == id;
        run.waits = !has_turn;
        has_turn
    }

    /// Now, or when nothing can be under way any more on the run's resource.
    pub(super) fn free_at(&self, run: RunId) -> Duration {
        if !self.guards(Safeguard::SingleFlight) {
            return self.now;
        }
        let resource = self.tables.runs.get(&run).and_then(|run| self.tables.resources.get(&run.resource));
        resource.and_then(|resource| resource.busy_until).map_or(self.now, |until| until.max(self.now))
    }

    /// The turn on the run's resource, where nobody has it, goes to the active run that has waited
    /// longest.
    pub(super) fn give_turn(&mut self, id: RunId) {
        let Some(name) = self.tables.runs.get(&id).map(|run| run.resource.clone()) else { return };
        let waits = |id: &RunId| self.tables.runs.get(id).is_some_and(|run| run.resource == name && run.waits);
        let Some(next) = self.tables.active.iter().copied().find(waits) else { return };
        let free = self.tables.resources.get(&name).is_some_and(|resource| resource.run.is_none());
        if free && self.take_turn(next) {
            let due_at = self.free_at(next);
            let waiting = self.current_step(next).filter(|step| step.state == StepState::Due && step.due_at.is_none());
            if let Some(step) = waiting {
                step.become_due(Some(due_at));
            }
        }
    }

    /// The first step that has not succeeded.
    pub(super) fn current_step(&mut self, id: RunId) -> Option<&mut Step> {
        let mut steps = self.tables.steps.range_mut((id, 0)..=(id, i16::MAX));
        steps.find(|(_, step)| step.state != StepState::Succeeded).map(|(_, step)| step)
    }

    /// What is needed to push this step.
    pub(super) fn due_of(&self, run: RunId, position: i16) -> Option<Due> {
        let step = self.tables.steps.get(&(run, position))?;
        let run = self.tables.runs.get(&run)?;
        Some(Due {
            key: DueKey { run: run.id, position, generation: step.generation },
            step: step.name.clone(),
            workflow: run.workflow.clone(),
            traceparent: run.traceparent.clone(),
            linked: run.linked_traceparent.clone(),
        })
    }

    /// The same, where it may be pushed at once: it is due now, and no gate before it is closed,
    /// half-open or limited.
    pub(super) fn due_now(&self, run: RunId, position: i16) -> Option<Due> {
        let step = self.tables.steps.get(&(run, position))?;
        let is_due = step.state == StepState::Due && step.due_at.is_some_and(|at| at <= self.now);
        (is_due && self.gates_before(run, position).are_plain()).then(|| self.due_of(run, position))?
    }

    /// Whether the run still had the context that was read.
    pub(super) fn keep_trace(&mut self, traced: &Traced) -> bool {
        let Some(run) = self.tables.runs.get_mut(&traced.run).filter(|run| run.traceparent == traced.was) else {
            return false;
        };
        run.traceparent = Some(traced.now.clone());
        true
    }
}
