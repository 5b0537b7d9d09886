//! What a person, or a deprovision, does to a run.

use workflows::{
    ids::RunId,
    state::{Event, RunState, StepState},
};

use super::{By, Changed, Tx};

impl Tx<'_> {
    pub(super) fn revive(&mut self, id: RunId, by: &By) -> Changed {
        let Some(run) = self.tables.runs.get(&id) else { return Changed::Missing };
        if run.state != RunState::Dead {
            return Changed::No(run.state);
        }
        let deadline = self.setup.registry.find(&run.workflow, run.version).map(|workflow| workflow.deadline);
        let Some(position) = self.resolve(id, "revived", by) else { return Changed::No(RunState::Dead) };
        self.meet(id, position, Event::Revive);
        if let Some(run) = self.tables.runs.get_mut(&id) {
            run.state = RunState::Active;
            run.ended_at = None;
            run.linked_traceparent = run.traceparent.take().or(run.linked_traceparent.take());
            // The time for which it lay dead is not the run's.
            run.deadline_at = deadline.map_or(run.deadline_at, |deadline| self.now + deadline);
            run.deadline_from = self.now;
            self.tables.active.insert((run.created_at, id));
        }
        let due_at = self.take_turn(id).then_some(self.now);
        let ended = |attempt: &&super::Attempt| attempt.run == id && attempt.position == position;
        let budget_from = self.tables.attempts.iter().filter(ended).count();
        if let Some(step) = self.tables.steps.get_mut(&(id, position)) {
            step.due_at = due_at;
            step.budget_from = budget_from;
        }
        self.project(id);
        Changed::Yes
    }

    pub(super) fn cancel(&mut self, id: RunId, by: &By) -> Changed {
        let Some(run) = self.tables.runs.get_mut(&id) else { return Changed::Missing };
        if !matches!(run.state, RunState::Active | RunState::Dead) {
            return Changed::No(run.state);
        }
        // Who asked first is who did it.
        if run.cancel_by.is_none() {
            run.cancel_by = Some(by.actor.clone());
            run.cancel_reason = by.note.clone();
        }
        let mut steps = self.tables.steps.range((id, 0)..=(id, i16::MAX));
        if steps.any(|(_, step)| step.state == StepState::Running) {
            return Changed::AtSettle;
        }
        self.resolve(id, "discarded", by);
        self.end(id, RunState::Cancelled);
        self.project(id);
        Changed::Yes
    }
}
