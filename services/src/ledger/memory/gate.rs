//! Gates: pause, hold, rate and concurrency of a workflow, a step or an API host. They decide what is dispatched and what a
//! claim may take; time that they hold does not count towards a run's deadline. A host's breaker is in `breaker`.

use std::time::Duration;

use workflows::{
    breaker::{State, slow_start},
    ids::{StepName, WorkflowName},
    state::StepState,
};

use super::{Gate, Run, Scope, Step, Tx, closure::Why};

impl Gate {
    /// Whether it lets nothing through.
    pub(super) fn is_closed(&self, now: Duration) -> bool {
        let held = self.paused_at.is_some() || self.hold_until.is_some_and(|until| until > now);
        held || self.breaker.state == State::Open
    }

    fn is_limited(&self) -> bool {
        self.rate.is_some() || self.concurrency.is_some()
    }

    /// The rate that holds now: a host that was closed starts slowly.
    pub(super) fn rate_now(&self, scope: Scope, now: Duration) -> Option<f64> {
        let opened_at = self.reopened_at.max(self.hold_until).filter(|_| scope == Scope::Host);
        let slow = opened_at.and_then(|at| slow_start(now.saturating_sub(at)));
        self.rate.into_iter().chain(slow).reduce(f64::min)
    }

    /// Bring the allowance up to date. At most one second's worth is in store.
    pub(super) fn refill(&mut self, scope: Scope, now: Duration) {
        if let Some(rate) = self.rate_now(scope, now) {
            let since = now.saturating_sub(self.refilled_at).as_secs_f64();
            self.allowance = (self.allowance + rate * since).min(rate.max(1.0));
        }
        self.refilled_at = now;
    }

    /// How many steps may start now, given how many are outstanding.
    fn room(&self, rate: Option<f64>, outstanding: Outstanding) -> usize {
        let by_concurrency =
            self.concurrency.map(|limit| limit.saturating_sub(outstanding.dispatched + outstanding.running));
        // A share of a start waits in store; as many starts as a second allows may lie in the queue.
        let by_rate = rate.map(|rate| {
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

    pub(super) fn pause(&mut self, scope: Scope, name: &str) -> bool {
        let now = self.now;
        let gate = self.gate_mut(scope, name);
        let open = gate.paused_at.is_none();
        gate.paused_at.get_or_insert(now);
        if open {
            self.note_closed(scope, name, Why::Pause, None);
        }
        open
    }

    /// The store starts empty.
    pub(super) fn set_rate(&mut self, scope: Scope, name: &str, rate: Option<f64>) -> bool {
        if scope == Scope::Workflow || rate.is_some_and(|rate| rate <= 0.0 || !rate.is_finite()) {
            return false;
        }
        let now = self.now;
        let gate = self.gate_mut(scope, name);
        let limited = gate.is_limited();
        gate.rate = rate;
        (gate.allowance, gate.refilled_at) = (0.0, now);
        if limited {
            self.note_waits(scope, name);
        }
        true
    }

    pub(super) fn set_concurrency(&mut self, scope: Scope, name: &str, limit: Option<u32>) -> bool {
        if scope == Scope::Workflow || limit == Some(0) {
            return false;
        }
        let gate = self.gate_mut(scope, name);
        let limited = gate.is_limited();
        gate.concurrency = limit.and_then(|limit| usize::try_from(limit).ok());
        if limited {
            self.note_waits(scope, name);
        }
        true
    }

    /// Who waited behind the last limit that is taken away: from now on nothing says that there was one.
    fn note_waits(&mut self, scope: Scope, name: &str) {
        if self.gate_mut(scope, name).is_limited() {
            return;
        }
        let now = self.now;
        for step in self.tables.steps.values_mut() {
            let waits = step.state == StepState::Due && step.due_at.is_some_and(|at| at < now);
            if waits && (scope == Scope::Host || step.name.as_str() == name) {
                step.note_wait(now);
            }
        }
    }

    /// Whether a rate or a concurrency stands before a step.
    pub(super) fn is_limited(&self, step: &StepName, host: Option<&str>) -> bool {
        let names = [(Scope::Step, Some(step.as_str())), (Scope::Host, host)];
        names.into_iter().any(|(scope, name)| {
            let gate = name.and_then(|name| self.tables.gates.get(&(scope, name.to_owned())));
            gate.is_some_and(Gate::is_limited)
        })
    }

    /// Open the gate to what a person closed. Whether anything was.
    pub(super) fn resume(&mut self, scope: Scope, name: &str) -> bool {
        let now = self.now;
        let gate = self.gate_mut(scope, name);
        let (paused_at, hold_until) = (gate.paused_at.take(), gate.hold_until.take().filter(|until| *until > now));
        if paused_at.is_none() && hold_until.is_none() {
            return false;
        }
        gate.reopened_at = Some(now);
        self.note_opened(scope, name, Why::Pause);
        self.note_opened(scope, name, Why::Hold);
        true
    }

    pub(super) fn hold(&mut self, scope: Scope, name: &str, duration: Duration) -> bool {
        let now = self.now;
        let gate = self.gate_mut(scope, name);
        let before = gate.hold_until.unwrap_or(now).max(now);
        if now + duration <= before {
            return false;
        }
        gate.hold_until = Some(now + duration);
        self.note_closed(scope, name, Why::Hold, Some(now + duration));
        true
    }

    /// Whether a pause, a hold or an open breaker stands before a step.
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
        gate.refill(scope, now);
        let rate = gate.rate_now(scope, now);
        if rate.is_none() && gate.concurrency.is_none() {
            return usize::MAX;
        }
        let outstanding = self.outstanding(scope, name);
        self.tables.gates.get(&(scope, name.to_owned())).map_or(usize::MAX, |gate| gate.room(rate, outstanding))
    }

    /// One more start is taken from the gate's allowance.
    pub(super) fn spend(&mut self, scope: Scope, name: &str) {
        let now = self.now;
        let gate = self.tables.gates.get_mut(&(scope, name.to_owned()));
        if let Some(gate) = gate.filter(|gate| gate.rate_now(scope, now).is_some()) {
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
}

fn is_behind(scope: Scope, name: &str, run: &Run, step: &Step) -> bool {
    match scope {
        Scope::Workflow => run.workflow.as_str() == name,
        Scope::Step => step.name.as_str() == name,
        Scope::Host => step.host.as_deref() == Some(name),
    }
}
