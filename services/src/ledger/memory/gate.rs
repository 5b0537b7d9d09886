//! Gates: pause, hold, rate and concurrency of a workflow, a step or an API host. They decide what is dispatched and what a
//! claim may take; time that they hold does not count towards a run's deadline.

use std::time::Duration;

use workflows::{
    ids::{RunId, StepName, WorkflowName},
    state::StepState,
};

use super::{Gate, Memory, Run, Scope, Step, Tx};

impl Memory {
    /// Nothing behind this gate is dispatched or claimed until `resume`.
    pub fn pause(&self, scope: Scope, name: &str) {
        self.transact(|tx| {
            let now = tx.now;
            tx.gate_mut(scope, name).paused_at.get_or_insert(now);
        });
    }

    pub fn resume(&self, scope: Scope, name: &str) {
        self.transact(|tx| {
            let Some(since) = tx.gate_mut(scope, name).paused_at.take() else { return };
            let held = tx.now.saturating_sub(since);
            tx.extend_deadlines(scope, name, held);
        });
    }

    /// Close the gate for so long, as after a `Retry-After`. A longer hold that is there stays.
    pub fn hold(&self, scope: Scope, name: &str, duration: Duration) {
        self.transact(|tx| {
            let now = tx.now;
            let gate = tx.gate_mut(scope, name);
            let before = gate.hold_until.unwrap_or(now).max(now);
            let until = before.max(now + duration);
            gate.hold_until = Some(until);
            tx.extend_deadlines(scope, name, until - before);
        });
    }

    /// Step starts per second; `None` lifts the limit.
    pub fn set_rate(&self, scope: Scope, name: &str, rate: Option<f64>) {
        self.transact(|tx| {
            let now = tx.now;
            let gate = tx.gate_mut(scope, name);
            gate.refill(now);
            gate.rate = rate;
        });
    }

    /// How many steps may be dispatched or running at once; `None` lifts the limit.
    pub fn set_concurrency(&self, scope: Scope, name: &str, concurrency: Option<usize>) {
        self.transact(|tx| tx.gate_mut(scope, name).concurrency = concurrency);
    }
}

impl Gate {
    pub(super) fn is_closed(&self, now: Duration) -> bool {
        self.paused_at.is_some() || self.hold_until.is_some_and(|until| until > now)
    }

    /// Bring the allowance up to date. At most one second's worth is in store.
    pub(super) fn refill(&mut self, now: Duration) {
        if let Some(rate) = self.rate {
            let since = now.saturating_sub(self.refilled_at).as_secs_f64();
            self.allowance = (self.allowance + rate * since).min(rate.max(1.0));
        }
        self.refilled_at = now;
    }

    /// How many steps may start now, given how many are outstanding.
    fn room(&self, outstanding: Outstanding) -> usize {
        let by_concurrency =
            self.concurrency.map(|limit| limit.saturating_sub(outstanding.dispatched + outstanding.running));
        // A share of a start waits in store; as many starts as a second allows may lie in the queue.
        let by_rate = self.rate.map(|rate| {
            let second = rate.max(1.0).floor() as usize;
            (self.allowance.max(0.0).floor() as usize).min(second.saturating_sub(outstanding.dispatched))
        });
        by_concurrency.unwrap_or(usize::MAX).min(by_rate.unwrap_or(usize::MAX))
    }
}

/// How many steps behind a gate are in somebody's hands.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outstanding {
    pub dispatched: usize,
    pub running: usize,
}

impl Tx<'_> {
    pub(super) fn gate_mut(&mut self, scope: Scope, name: &str) -> &mut Gate {
        let now = self.now;
        let fresh = || Gate { refilled_at: now, ..Gate::default() };
        self.tables.gates.entry((scope, name.to_owned())).or_insert_with(fresh)
    }

    /// Whether a pause or a hold stands before a step.
    pub(super) fn is_gate_closed(&self, step: &StepName, workflow: &WorkflowName, host: Option<&str>) -> bool {
        let names =
            [(Scope::Step, Some(step.as_str())), (Scope::Workflow, Some(workflow.as_str())), (Scope::Host, host)];
        names.into_iter().any(|(scope, name)| {
            let gate = name.and_then(|name| self.tables.gates.get(&(scope, name.to_owned())));
            gate.is_some_and(|gate| gate.is_closed(self.now))
        })
    }

    /// How many more steps the gate's rate and concurrency let through now.
    pub(super) fn room_behind(&mut self, scope: Scope, name: &str) -> usize {
        let now = self.now;
        let Some(gate) = self.tables.gates.get_mut(&(scope, name.to_owned())) else { return usize::MAX };
        gate.refill(now);
        if gate.rate.is_none() && gate.concurrency.is_none() {
            return usize::MAX;
        }
        let outstanding = self.outstanding(scope, name);
        self.tables.gates.get(&(scope, name.to_owned())).map_or(usize::MAX, |gate| gate.room(outstanding))
    }

    /// One more start is taken from the gate's allowance.
    pub(super) fn spend(&mut self, scope: Scope, name: &str) {
        if let Some(gate) = self.tables.gates.get_mut(&(scope, name.to_owned())).filter(|gate| gate.rate.is_some()) {
            gate.allowance -= 1.0;
        }
    }

    fn outstanding(&self, scope: Scope, name: &str) -> Outstanding {
        let mut outstanding = Outstanding::default();
        for (run, step) in self.live_steps().filter(|(run, step)| is_behind(scope, name, run, step)) {
            debug_assert_eq!(run.state, workflows::state::RunState::Active);
            match step.state {
                StepState::Dispatched => outstanding.dispatched += 1,
                StepState::Running => outstanding.running += 1,
                _ => {}
            }
        }
        outstanding
    }

    /// Every step of every active run.
    pub(super) fn live_steps(&self) -> impl Iterator<Item = (&Run, &Step)> {
        self.tables.active.iter().flat_map(|(_, id)| {
            let run = self.tables.runs.get(id);
            self.tables.steps.range((*id, 0)..=(*id, i16::MAX)).filter_map(move |(_, step)| Some((run?, step)))
        })
    }

    fn extend_deadlines(&mut self, scope: Scope, name: &str, held: Duration) {
        let behind = |run: &Run, step: &Step| is_behind(scope, name, run, step) && step.state == StepState::Due;
        let runs: Vec<RunId> =
            self.live_steps().filter(|(run, step)| behind(run, step)).map(|(run, _)| run.id).collect();
        for id in runs {
            if let Some(run) = self.tables.runs.get_mut(&id) {
                run.deadline_at += held;
            }
        }
    }
}

fn is_behind(scope: Scope, name: &str, run: &Run, step: &Step) -> bool {
    match scope {
        Scope::Workflow => run.workflow.as_str() == name,
        Scope::Step => step.name.as_str() == name,
        Scope::Host => step.host.as_deref() == Some(name),
    }
}
