//! Gates: pause, hold, rate and concurrency of a workflow, a step or an API host. They decide what
//! waits to be pushed and what may be claimed; time that they hold does not count towards a run's
//! deadline. A host's breaker is in `breaker`.

use std::time::Duration;

use workflows::{
    breaker::State,
    ids::{RunId, StepName, WorkflowName},
    state::StepState,
};

use super::{
    Gate, Run, Scope, Step, Tx,
    breaker::{PREFER_UNTRIED, slow_start},
    closed_time::{Behind, Cause},
};

/// How the gates before a step stand together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct GateState {
    /// A pause, a hold or an open breaker stands before it.
    pub closed: bool,
    pub half_open: bool,
    pub limited: bool,
}

impl GateState {
    /// Whether whatever stands behind them may be pushed without another look.
    pub fn are_plain(self) -> bool {
        self == Self::default()
    }

    /// Whether time goes by for a step that is due: it is neither held nor waits for its turn
    /// behind a limit.
    pub fn count_time(self, waits: bool) -> bool {
        !(self.closed || self.half_open || self.limited && waits)
    }
}

/// The gates that stand before a step, by name.
#[derive(Debug, Clone)]
pub(super) struct Before {
    pub workflow: Option<WorkflowName>,
    pub step: StepName,
    pub host: Option<String>,
}

impl Before {
    /// In the order of their keys.
    fn keys(&self) -> impl Iterator<Item = (Scope, String)> + use<> {
        let keys = [
            (Scope::Host, self.host.clone()),
            (Scope::Step, Some(self.step.to_string())),
            (Scope::Workflow, self.workflow.as_ref().map(ToString::to_string)),
        ];
        keys.into_iter().filter_map(|(scope, name)| Some((scope, name?)))
    }
}

impl Gate {
    pub(super) fn is_closed(&self, now: Duration) -> bool {
        let held = self.paused_at.is_some() || self.hold_until.is_some_and(|until| until > now);
        held || self.breaker.state == State::Open
    }

    pub(super) fn has_limit(&self) -> bool {
        self.rate.is_some() || self.concurrency.is_some()
    }

    fn is_half_open(&self) -> bool {
        self.breaker.state == State::HalfOpen
    }

    fn state(&self, scope: Scope, now: Duration) -> GateState {
        GateState {
            closed: self.is_closed(now),
            half_open: self.is_half_open(),
            limited: self.has_limit() || self.slow_rate(scope, now).is_some(),
        }
    }

    /// What a host that was closed until lately may be sent a second.
    fn slow_rate(&self, scope: Scope, now: Duration) -> Option<f64> {
        let opened_at = self.reopened_at.max(self.hold_until).filter(|_| scope == Scope::Host)?;
        now.checked_sub(opened_at).and_then(slow_start)
    }

    /// The rate that holds now.
    fn rate_now(&self, scope: Scope, now: Duration) -> Option<f64> {
        self.rate.into_iter().chain(self.slow_rate(scope, now)).reduce(f64::min)
    }

    /// How many starts its rate has in store now: at most one second's worth.
    pub(super) fn allowance_now(&self, scope: Scope, now: Duration) -> Option<f64> {
        let rate = self.rate_now(scope, now)?;
        let since = now.saturating_sub(self.refilled_at);
        // A slow start's rate grows meanwhile: what holds half-way gives no more than that.
        let meanwhile = self.rate_now(scope, now - since / 2).unwrap_or(rate).min(rate);
        Some((self.allowance + meanwhile * since.as_secs_f64()).min(rate.max(1.0)))
    }

    /// Whether a half-open breaker shuns this run, which has failed: one that has not goes first,
    /// for a while.
    pub(super) fn shuns(&self, run: RunId, now: Duration) -> bool {
        let lately = now.saturating_sub(self.breaker_at) < PREFER_UNTRIED;
        self.is_half_open() && lately && self.breaker.failing.contains(&run)
    }
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
        if gate.paused_at.is_some() {
            return false;
        }
        gate.paused_at = Some(now);
        self.note_closed(Behind::Gate(scope, name.to_owned()), Cause::Pause, None);
        true
    }

    /// Ends what a person closed. Whether anything was.
    pub(super) fn resume(&mut self, scope: Scope, name: &str) -> bool {
        let now = self.now;
        let gate = self.gate_mut(scope, name);
        let (paused_at, hold_until) = (gate.paused_at.take(), gate.hold_until.take().filter(|until| *until > now));
        if paused_at.is_none() && hold_until.is_none() {
            return false;
        }
        gate.reopened_at = Some(now);
        let behind = Behind::Gate(scope, name.to_owned());
        self.note_passed(&behind, Cause::Pause);
        self.note_passed(&behind, Cause::Hold);
        true
    }

    pub(super) fn hold(&mut self, scope: Scope, name: &str, duration: Duration) -> bool {
        let until = self.now + duration;
        let gate = self.gate_mut(scope, name);
        if gate.hold_until.is_some_and(|there| there >= until) {
            return false;
        }
        gate.hold_until = Some(until);
        self.note_closed(Behind::Gate(scope, name.to_owned()), Cause::Hold, Some(until));
        true
    }

    /// The store starts empty.
    pub(super) fn set_rate(&mut self, scope: Scope, name: &str, rate: Option<f64>) -> bool {
        if scope == Scope::Workflow || rate.is_some_and(|rate| rate <= 0.0 || !rate.is_finite()) {
            return false;
        }
        let now = self.now;
        let gate = self.gate_mut(scope, name);
        let had_limit = gate.has_limit();
        gate.rate = rate;
        (gate.allowance, gate.refilled_at) = (0.0, now);
        if had_limit {
            self.note_waits(scope, name);
        }
        true
    }

    pub(super) fn set_concurrency(&mut self, scope: Scope, name: &str, limit: Option<u32>) -> bool {
        if scope == Scope::Workflow || limit == Some(0) {
            return false;
        }
        let gate = self.gate_mut(scope, name);
        let had_limit = gate.has_limit();
        gate.concurrency = limit.and_then(|limit| usize::try_from(limit).ok());
        if had_limit {
            self.note_waits(scope, name);
        }
        true
    }

    /// The gates that stand before this step.
    pub(super) fn before(&self, run: RunId, position: i16) -> Option<Before> {
        let step = self.tables.steps.get(&(run, position))?.name.clone();
        let workflow = self.tables.runs.get(&run)?.workflow.clone();
        let defined = self.definition(run).and_then(|definition| definition.step(position));
        let host = defined.and_then(|defined| defined.host.clone());
        Some(Before { workflow: Some(workflow), step, host })
    }

    pub(super) fn gates_before(&self, run: RunId, position: i16) -> GateState {
        self.before(run, position).map_or_else(GateState::default, |before| self.gate_state(&before))
    }

    /// Whether no gate counts, wherever it stands.
    pub(super) fn all_gates_are_plain(&self) -> bool {
        self.tables.gates.iter().all(|((scope, _), gate)| gate.state(*scope, self.now).are_plain())
    }

    pub(super) fn gate_state(&self, before: &Before) -> GateState {
        let gates = before.keys().filter_map(|key| Some((key.0, self.tables.gates.get(&key)?)));
        gates.fold(GateState::default(), |together, (scope, gate)| {
            let one = gate.state(scope, self.now);
            GateState {
                closed: together.closed || one.closed,
                half_open: together.half_open || one.half_open,
                limited: together.limited || one.limited,
            }
        })
    }

    /// Whether a step may start now. A start is charged to its gates; nothing is written where it
    /// may not.
    pub(super) fn admit(&mut self, before: &Before, run: RunId) -> bool {
        let keys: Vec<_> = before.keys().filter(|key| self.tables.gates.contains_key(key)).collect();
        if !keys.iter().all(|key| self.gate_passes(key, run)) {
            return false;
        }
        for key in keys {
            self.charge(&key, run);
        }
        true
    }

    fn gate_passes(&self, key: &(Scope, String), run: RunId) -> bool {
        let (scope, name) = key;
        let Some(gate) = self.tables.gates.get(key) else { return true };
        !gate.is_closed(self.now)
            && self.breaker_passes(gate, run)
            && gate.allowance_now(*scope, self.now).is_none_or(|allowance| allowance >= 1.0)
            && gate.concurrency.is_none_or(|limit| self.running_behind(*scope, name) < limit)
    }

    fn charge(&mut self, key: &(Scope, String), run: RunId) {
        let now = self.now;
        let Some(gate) = self.tables.gates.get_mut(key) else { return };
        if let Some(allowance) = gate.allowance_now(key.0, now) {
            gate.allowance = allowance - 1.0;
            gate.refilled_at = now;
        }
        if gate.is_half_open() {
            gate.let_through(run, now);
        }
    }

    /// How many steps behind a gate are running.
    pub(super) fn running_behind(&self, scope: Scope, name: &str) -> usize {
        let running = self.live_steps().filter(|(_, step)| step.state == StepState::Running);
        match scope {
            Scope::Workflow => 0,
            Scope::Step => running.filter(|(_, step)| step.name.as_str() == name).count(),
            Scope::Host => running.filter(|(_, step)| self.calls(&step.name, name)).count(),
        }
    }

    /// Whether a step of this name calls the host, in any definition.
    pub(super) fn calls(&self, step: &StepName, host: &str) -> bool {
        let steps = self.tables.registered.all().flat_map(|definition| &definition.steps);
        steps.into_iter().any(|known| known.name == *step && known.host.as_deref() == Some(host))
    }

    /// Every step of every active run.
    pub(super) fn live_steps(&self) -> impl Iterator<Item = (&Run, &Step)> {
        self.tables.active.iter().flat_map(|id| {
            let run = self.tables.runs.get(id);
            self.tables.steps.range((*id, 0)..=(*id, i16::MAX)).filter_map(move |(_, step)| Some((run?, step)))
        })
    }
}
