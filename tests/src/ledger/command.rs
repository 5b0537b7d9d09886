//! What a person, or a deprovision, does to a run.

use std::time::Duration;

use sluice::ledger::{By, Changed};
use workflows::{
    ids::RunId,
    state::{Move, RunState, StepState},
};

use super::Tx;

/// The deadline of a revived run whose definition nobody has registered.
const DAY: Duration = Duration::from_secs(86_400);

impl Tx<'_> {
    pub(super) fn revive(&mut self, id: RunId, by: &By) -> Changed {
        let Some(run) = self.tables.runs.get(&id) else { return Changed::Missing };
        if run.state != RunState::Dead {
            return Changed::No(run.state);
        }
        self.revive_run(id, by);
        self.project(id);
        Changed::Yes
    }

    /// The run is dead: its failed step is due at its turn, with a fresh budget.
    pub(super) fn revive_run(&mut self, id: RunId, by: &By) {
        let deadline = self.definition(id).map_or(DAY, |definition| definition.deadline);
        if let Some(run) = self.tables.runs.get_mut(&id) {
            run.state = RunState::Active;
            run.ended_at = None;
            run.revived_at = Some(self.now);
            run.span_waits = false;
            run.asked_traceparent = None;
            run.waits = true;
            run.internal = false;
            run.linked_traceparent = run.traceparent.take().or(run.linked_traceparent.take());
            // The time for which it lay dead is not the run's.
            (run.deadline_at, run.deadline_from) = (self.now + deadline, self.now);
            (run.cancel_by, run.cancel_reason) = (None, None);
            self.tables.active.insert(id);
        }
        let steps = self.tables.steps.range((id, 0)..=(id, i16::MAX));
        let dead: Vec<_> = steps.filter(|(_, step)| step.state == StepState::Dead).map(|(key, _)| *key).collect();
        for key in dead {
            let ended = |attempt: &&super::Attempt| (attempt.run, attempt.position) == key;
            let budget_from = self.tables.attempts.iter().filter(ended).count();
            self.make(key.0, key.1, Move::Revive);
            if let Some(step) = self.tables.steps.get_mut(&key) {
                step.become_due(None);
                step.budget_from = budget_from;
            }
        }
        self.resolve(id, "revived", by);
        self.announce(id, "revived");
        self.give_turn(id);
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
        let was = run.state;
        let mut steps = self.tables.steps.range_mut((id, 0)..=(id, i16::MAX));
        if let Some((_, running)) = steps.find(|(_, step)| step.state == StepState::Running) {
            running.cancel_asked = true;
            return Changed::AtSettle;
        }
        if let Some(run) = self.tables.runs.get_mut(&id) {
            run.span_waits = was == RunState::Active;
        }
        self.resolve(id, "discarded", by);
        self.end(id, RunState::Cancelled);
        self.project(id);
        Changed::Yes
    }
}
