//! The breaker of an API host. What follows from a report or a probe is decided by
//! `workflows::breaker`.

use std::time::Duration;

use sluice::ledger::{HostGate, Probe};
use workflows::{
    breaker::{Answer, Breaker, Rules, Say, Signal, State, Word},
    ids::RunId,
    state::StepState,
};

use super::{
    Gate, Scope, Step, Tx,
    closed_time::{Behind, Cause},
};

/// What a host may be sent after it was closed: the backlog of an hour is not let go at once.
/// Twenty starts a second, which ordinary sign-ups do not feel, doubling every second; after six
/// seconds (over 1200 a second) there is no limit any more.
pub fn slow_start(open_for: Duration) -> Option<f64> {
    (open_for < Duration::from_secs(6)).then(|| 20.0 * 2f64.powf(open_for.as_secs_f64()))
}

/// How long a half-open breaker looks for a run that has not failed yet before it lets one of the
/// others through.
pub const PREFER_UNTRIED: Duration = Duration::from_secs(2);

/// The least time between two runs that a half-open breaker lets through: by then the first one's
/// answer was reported.
pub const BETWEEN_RUNS: Duration = Duration::from_secs(1);

impl Gate {
    /// Its half-open breaker lets this run through.
    pub(super) fn let_through(&mut self, run: RunId, now: Duration) {
        if self.breaker.probe_run != Some(run) {
            self.probe_at = now + BETWEEN_RUNS;
        }
        self.breaker.probe_run = Some(run);
    }
}

impl Tx<'_> {
    pub(super) fn report(
        &mut self,
        host: &str,
        signals: &[Signal],
        word: Option<&Word>,
        rules: &Rules,
        jitter: f64,
    ) -> HostGate {
        let before = self.breaker(host);
        let after = before.clone().hear(signals, rules);
        if after != before {
            let pause = rules.pause(&after, jitter);
            self.write(after, pause, &Say { host, advice: rules.key_advice, word });
        }
        if let Some(longest) = signals.iter().filter_map(Signal::hold).max() {
            self.hold(Scope::Host, host, longest);
        }
        self.host_gate(host)
    }

    pub(super) fn host_gate(&self, host: &str) -> HostGate {
        let Some(gate) = self.tables.gates.get(&(Scope::Host, host.to_owned())) else { return HostGate::default() };
        HostGate {
            breaker: gate.breaker.state,
            cause: gate.breaker.cause,
            failing: !gate.breaker.failing.is_empty(),
            probe_due: gate.breaker.state == State::Open && gate.probe_at <= self.now,
            closed_for: gate.reopened_at.map(|at| self.now.saturating_sub(at)),
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

    pub(super) fn probed(&mut self, host: &str, probe: Probe, answer: &Answer, rules: &Rules, jitter: f64) -> HostGate {
        let before = self.breaker(host);
        if before.state == State::Open && before.probes == probe.number {
            let after = before.probed(answer.found);
            let pause = if after.state == State::HalfOpen { Duration::ZERO } else { rules.pause(&after, jitter) };
            self.write(after, pause, &Say { host, advice: rules.key_advice, word: answer.word.as_ref() });
        }
        self.host_gate(host)
    }

    fn breaker(&mut self, host: &str) -> Breaker {
        let now = self.now;
        let gate = self.gate_mut(Scope::Host, host);
        let failing_for = gate.failing_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        Breaker { failing_for, ..gate.breaker.clone() }
    }

    fn write(&mut self, after: Breaker, pause: Duration, say: &Say) {
        let (now, host) = (self.now, say.host);
        let gate = self.gate_mut(Scope::Host, host);
        let before = gate.breaker.state;
        gate.failing_since = (!after.failing.is_empty()).then(|| now.saturating_sub(after.failing_for));
        gate.probe_at = now + pause;
        gate.breaker_reason = after.reason(gate.breaker.cause, gate.breaker_reason.take(), say);
        if before != after.state {
            gate.breaker_at = now;
        }
        let (was_closed, is_closed) = (before == State::Closed, after.state == State::Closed);
        gate.breaker = Breaker { failing_for: Duration::ZERO, ..after };
        let behind = Behind::Gate(Scope::Host, host.to_owned());
        match (was_closed, is_closed) {
            (true, false) => self.note_closed(behind, Cause::Breaker, None),
            (false, true) => {
                self.gate_mut(Scope::Host, host).reopened_at = Some(now);
                self.note_passed(&behind, Cause::Breaker);
            }
            _ => {}
        }
    }

    /// Whether the gate's breaker lets this run through, in so far as it is not open: where it is
    /// half-open, the run that was let through, or another one where that has come to nothing.
    pub(super) fn breaker_passes(&self, gate: &Gate, run: RunId) -> bool {
        let under_way = |run| {
            let mut steps = self.tables.steps.range((run, 0)..=(run, i16::MAX));
            steps.any(|(_, step)| step.state == StepState::Running)
        };
        gate.breaker.state != State::HalfOpen
            || gate.breaker.probe_run == Some(run)
            || (gate.probe_at <= self.now
                && !gate.breaker.probe_run.is_some_and(under_way)
                && !gate.shuns(run, self.now))
    }

    /// Due steps behind an open breaker say so. Those that said so and do not wait for it any more
    /// are due at once.
    pub(super) fn explain(&mut self, limit: usize) -> usize {
        let now = self.now;
        let mut told = self.untold();
        told.truncate(limit);
        for (key, reason) in &told {
            if let Some(step) = self.tables.steps.get_mut(key) {
                step.held_by.clone_from(reason);
                if reason.is_none() && step.state == StepState::Due {
                    step.due_at = step.due_at.map(|at| at.min(now));
                }
            }
        }
        // Of one that has ended the row says so already, or what a later run made of it.
        told.retain(|((run, _), _)| self.tables.active.contains(run));
        told.iter().for_each(|((run, _), _)| self.project(*run));
        told.len()
    }

    /// The steps that do not say what they should, and what that is.
    pub(super) fn untold(&self) -> Vec<((RunId, i16), Option<String>)> {
        let reason = |step: &Step| {
            let waits = step.state == StepState::Due && step.due_at.is_some();
            let open = self.tables.gates.iter().filter(|((scope, host), gate)| {
                *scope == Scope::Host && gate.breaker.state == State::Open && self.calls(&step.name, host)
            });
            open.filter(|_| waits).find_map(|(_, gate)| gate.breaker_reason.clone())
        };
        let steps = self.tables.steps.iter().map(|(key, step)| (*key, step, reason(step)));
        steps.filter(|(_, step, reason)| step.held_by != *reason).map(|(key, _, reason)| (key, reason)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_back_gets_more_and_more() {
        let limits = [0, 1, 4, 8].map(|seconds| slow_start(Duration::from_secs(seconds)));

        assert_eq!(limits, [Some(20.0), Some(40.0), Some(320.0), None]);
    }
}
