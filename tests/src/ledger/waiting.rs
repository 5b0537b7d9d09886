//! What waits to be pushed. Reads only.

use std::time::Duration;

use sluice::ledger::{Due, Waiting};
use workflows::{
    ids::{RunId, StepName},
    state::StepState,
};

use super::{
    Scope, Tx,
    gate::{Before, GateState},
};

impl Tx<'_> {
    pub(super) fn waiting(&self, most: usize) -> Vec<Waiting> {
        let queues = self.setup.registry.queues();
        queues.into_iter().filter_map(|queue| self.waiting_in(queue, most)).collect()
    }

    /// None where nothing is due, or a gate stands before all of it.
    fn waiting_in(&self, queue: StepName, most: usize) -> Option<Waiting> {
        let mut due = self.due_in(&queue);
        if due.is_empty() {
            return None;
        }
        let before = Before { workflow: None, host: self.host_of(&queue), step: queue };
        let gates = self.gate_state(&before);
        if gates.closed {
            return None;
        }
        let capacity = self.capacity(&before, gates);
        due.retain(|(_, _, run, _)| !self.is_held_back(*run, before.host.as_deref()));
        let named = capacity.map_or(most, |capacity| most.min(capacity * 2 + 10));
        let due: Vec<Due> =
            due.into_iter().filter_map(|(_, _, run, position)| self.due_of(run, position)).take(named).collect();
        (capacity != Some(0) && !due.is_empty()).then_some(Waiting { queue: before.step, due, most: capacity })
    }

    /// The queue's due steps, by priority and moment.
    fn due_in(&self, queue: &StepName) -> Vec<(i16, Duration, RunId, i16)> {
        let active = self.tables.active.iter();
        let steps = active.flat_map(|id| self.tables.steps.range((*id, 0)..=(*id, i16::MAX)));
        let of_queue = steps.filter(|(_, step)| step.name == *queue && step.state == StepState::Due);
        let mut due: Vec<_> = of_queue
            .filter_map(|((run, position), step)| Some((step.priority, step.due_at?, *run, *position)))
            .filter(|(_, due_at, ..)| *due_at <= self.now)
            .collect();
        due.sort();
        due
    }

    /// Whether the run's workflow is closed, or the host's half-open breaker shuns it.
    fn is_held_back(&self, run: RunId, host: Option<&str>) -> bool {
        let gate = |scope, name: &str| self.tables.gates.get(&(scope, name.to_owned()));
        let workflow = self.tables.runs.get(&run).and_then(|run| gate(Scope::Workflow, run.workflow.as_str()));
        let host = host.and_then(|host| gate(Scope::Host, host));
        workflow.is_some_and(|gate| gate.is_closed(self.now)) || host.is_some_and(|gate| gate.shuns(run, self.now))
    }

    /// How many hints of the queue may lie in Redis, where a limit or a half-open breaker stands
    /// before it.
    fn capacity(&self, before: &Before, gates: GateState) -> Option<usize> {
        let mut capacity = gates.half_open.then_some(1);
        for (scope, name) in [(Scope::Step, Some(before.step.as_str())), (Scope::Host, before.host.as_deref())] {
            let Some((name, gate)) = name.and_then(|name| {
                let gate = self.tables.gates.get(&(scope, name.to_owned()))?;
                Some((name, gate))
            }) else {
                continue;
            };
            let by_rate = gate.allowance_now(scope, self.now).map(|allowance| allowance.max(0.0).floor() as usize);
            let by_concurrency = gate.concurrency.map(|limit| limit.saturating_sub(self.running_behind(scope, name)));
            capacity = capacity.into_iter().chain(by_rate).chain(by_concurrency).min();
        }
        capacity
    }

    /// The host whose gate stands before a queue.
    fn host_of(&self, queue: &StepName) -> Option<String> {
        let versions = self.tables.registered.all();
        let steps = versions.flat_map(|definition| definition.steps.iter().map(|step| (definition.version, step)));
        let of_queue = steps.filter(|(_, step)| step.name == *queue);
        of_queue.max_by_key(|(version, _)| *version).and_then(|(_, step)| step.host.clone())
    }
}
