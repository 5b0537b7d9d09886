//! The breaker of an API host in memory. What follows from a report or a probe is decided by `workflows::breaker`.

use std::time::Duration;

use workflows::{
    breaker::{BETWEEN_RUNS, Breaker, Cause, PREFER_UNTRIED, Probed, Rules, Signal, State},
    ids::RunId,
    state::StepState,
};

use super::{Dispatched, Gate, HostGate, Probe, Scope, Tx, closure::Why};

impl Tx<'_> {
    pub(super) fn report(&mut self, host: &str, signals: &[Signal], rules: &Rules, jitter: f64) -> HostGate {
        let before = self.breaker(host);
        let after = before.clone().hear(signals, rules);
        if after != before {
            let pause = rules.pause(&after, jitter);
            self.write(host, after, pause);
        }
        for signal in signals {
            if let Signal::Hold(duration) = signal {
                self.hold(Scope::Host, host, *duration);
            }
        }
        self.host_gate(host)
    }

    pub(super) fn host_gate(&mut self, host: &str) -> HostGate {
        let now = self.now;
        let Some(gate) = self.tables.gates.get(&(Scope::Host, host.to_owned())) else { return HostGate::default() };
        HostGate {
            breaker: gate.breaker.state,
            failing: !gate.breaker.failing.is_empty(),
            probe_due: gate.breaker.state == State::Open && gate.probe_at <= now,
            closed_for: gate.reopened_at.map(|at| now.saturating_sub(at)),
        }
    }

    pub(super) fn probe(&mut self, host: &str, lease: Duration) -> Option<Probe> {
        if !self.host_gate(host).probe_due {
            return None;
        }
        let probe_at = self.now + lease;
        let gate = self.gate_mut(Scope::Host, host);
        gate.probe_at = probe_at;
        gate.breaker.probes += 1;
        Some(Probe { number: gate.breaker.probes })
    }

    pub(super) fn probed(&mut self, host: &str, probe: Probe, found: Probed, rules: &Rules, jitter: f64) -> HostGate {
        let before = self.breaker(host);
        if before.state == State::Open && before.probes == probe.number {
            let after = before.probed(found);
            let pause = if after.state == State::HalfOpen { Duration::ZERO } else { rules.pause(&after, jitter) };
            self.write(host, after, pause);
        }
        self.host_gate(host)
    }

    fn breaker(&mut self, host: &str) -> Breaker {
        let now = self.now;
        let gate = self.gate_mut(Scope::Host, host);
        let failing_for = gate.failing_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        Breaker { failing_for, ..gate.breaker.clone() }
    }

    fn write(&mut self, host: &str, after: Breaker, pause: Duration) {
        let now = self.now;
        let gate = self.gate_mut(Scope::Host, host);
        let before = gate.breaker.state;
        gate.failing_since = (!after.failing.is_empty()).then(|| now.saturating_sub(after.failing_for));
        gate.probe_at = now + pause;
        if before != after.state {
            gate.breaker_at = now;
        }
        let (tripped, closed) = (before == State::Closed, after.state == State::Closed);
        gate.breaker = after;
        match (tripped, closed) {
            (true, false) => self.note_closed(Scope::Host, host, Why::Breaker, None),
            (false, true) => {
                gate.reopened_at = Some(now);
                self.note_opened(Scope::Host, host, Why::Breaker);
            }
            _ => {}
        }
    }

    /// The host's gate, where its breaker is half-open.
    pub(super) fn half_open(&self, host: Option<&str>) -> Option<&Gate> {
        let gate = self.tables.gates.get(&(Scope::Host, host?.to_owned()));
        gate.filter(|gate| gate.breaker.state == State::HalfOpen)
    }

    /// Whether the host's breaker is not half-open, or this is the run that may pass.
    pub(super) fn is_let_through(&self, run: RunId, host: Option<&str>) -> bool {
        self.half_open(host).is_none_or(|gate| gate.breaker.probe_run == Some(run))
    }

    /// What of these due steps may pass the host's breaker. `None`: nothing.
    pub(super) fn through_the_breaker(
        &self,
        due: Vec<(RunId, i16)>,
        host: Option<&str>,
    ) -> Option<std::vec::IntoIter<(RunId, i16)>> {
        let Some(gate) = self.half_open(host) else { return Some(due.into_iter()) };
        let shuns = self.now.saturating_sub(gate.breaker_at) < PREFER_UNTRIED;
        let may = |run: &RunId| !(shuns && gate.breaker.failing.contains(run));
        let first = due.into_iter().find(|(run, _)| may(run)).filter(|_| self.is_free(gate))?;
        Some(vec![first].into_iter())
    }

    /// Whether no run that was let through is under way.
    fn is_free(&self, gate: &Gate) -> bool {
        let under_way = |run| {
            let mut steps = self.tables.steps.range((run, 0)..=(run, i16::MAX));
            steps.any(|(_, step)| matches!(step.state, StepState::Dispatched | StepState::Running))
        };
        gate.probe_at <= self.now && !gate.breaker.probe_run.is_some_and(under_way)
    }

    pub(super) fn let_through(&mut self, host: Option<&str>, dispatched: &[Dispatched]) {
        let (Some(host), Some(first)) = (host, dispatched.first()) else { return };
        let probe_at = self.now + BETWEEN_RUNS;
        let gate = self.tables.gates.get_mut(&(Scope::Host, host.to_owned()));
        if let Some(gate) = gate.filter(|gate| gate.breaker.state == State::HalfOpen) {
            gate.breaker.probe_run = Some(first.key.run);
            gate.probe_at = probe_at;
        }
    }

    /// Due steps behind the host's open breaker take over its reason.
    pub(super) fn explain(&mut self, host: &str, limit: usize) -> usize {
        let gate = self.tables.gates.get(&(Scope::Host, host.to_owned()));
        let cause = gate.filter(|gate| gate.breaker.state == State::Open).and_then(|gate| gate.breaker.cause);
        let Some(reason) = cause.map(|cause: Cause| cause.reason(host)) else { return 0 };
        let silent: Vec<_> = self
            .tables
            .active
            .iter()
            .flat_map(|(_, id)| self.tables.steps.range((*id, 0)..=(*id, i16::MAX)))
            .filter(|(_, step)| step.state == StepState::Due && step.due_at.is_some())
            .filter(|(_, step)| step.error.as_ref() != Some(&reason))
            .map(|(key, _)| *key)
            .take(limit)
            .collect();
        for key in &silent {
            if let Some(step) = self.tables.steps.get_mut(key) {
                step.error = Some(reason.clone());
            }
            self.project(key.0);
        }
        silent.len()
    }
}
