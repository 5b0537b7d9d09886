//! Time that does not count towards the deadlines of runs, whatever caused it.

use std::time::Duration;

use workflows::{ids::RunId, state::StepState};

use super::{Scope, Tx};

/// When a gate was closed, or when a step waited for its turn behind a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedTime {
    pub behind: Behind,
    pub cause: Cause,
    pub closed_at: Duration,
    pub passed_at: Option<Duration>,
}

/// Whose time it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behind {
    /// Of every run behind this gate.
    Gate(Scope, String),
    /// Of this run alone.
    Run(RunId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Pause,
    Hold,
    Breaker,
    Limit,
}

impl Tx<'_> {
    /// A hold that is there grows.
    pub(super) fn note_closed(&mut self, behind: Behind, cause: Cause, until: Option<Duration>) {
        if let Some(there) = self.not_passed(&behind, cause) {
            there.passed_at = until;
            return;
        }
        let closed_at = self.now;
        self.tables.closed_times.push(ClosedTime { behind, cause, closed_at, passed_at: until });
    }

    pub(super) fn note_passed(&mut self, behind: &Behind, cause: Cause) {
        let now = self.now;
        if let Some(there) = self.not_passed(behind, cause) {
            there.passed_at = Some(now);
        }
    }

    fn not_passed(&mut self, behind: &Behind, cause: Cause) -> Option<&mut ClosedTime> {
        let now = self.now;
        let closed = |time: &&mut ClosedTime| time.passed_at.is_none_or(|at| at > now);
        let of_this = |time: &&mut ClosedTime| time.behind == *behind && time.cause == cause;
        self.tables.closed_times.iter_mut().rev().filter(closed).find(of_this)
    }

    /// The run's step waited since `since` for its turn behind a limit.
    pub(super) fn note_wait(&mut self, run: RunId, since: Duration) {
        let time =
            ClosedTime { behind: Behind::Run(run), cause: Cause::Limit, closed_at: since, passed_at: Some(self.now) };
        self.tables.closed_times.push(time);
    }

    /// Who waited behind the last limit that is taken away: from now on nothing says that there was
    /// one.
    pub(super) fn note_waits(&mut self, scope: Scope, name: &str) {
        if self.gate_mut(scope, name).has_limit() {
            return;
        }
        let waits = |step: &super::Step| {
            let behind = match scope {
                Scope::Host => self.calls(&step.name, name),
                _ => step.name.as_str() == name,
            };
            step.due_at.filter(|at| step.state == StepState::Due && behind && *at < self.now)
        };
        let waited: Vec<_> =
            self.tables.steps.iter().filter_map(|((run, _), step)| Some((*run, waits(step)?))).collect();
        for (run, since) in waited {
            self.note_wait(run, since);
        }
    }

    /// How long a gate before any of the run's steps was closed, or a limit let one of them wait,
    /// since that was last accounted for. What overlaps counts once.
    pub(super) fn time_held(&self, id: RunId) -> Duration {
        let Some(run) = self.tables.runs.get(&id) else { return Duration::ZERO };
        let hosts: Vec<_> = self.definition(id).into_iter().flat_map(|d| &d.steps).map(|step| &step.host).collect();
        let steps = self.tables.steps.range((id, 0)..=(id, i16::MAX));
        let holds = |time: &&ClosedTime| match &time.behind {
            Behind::Run(whose) => *whose == id,
            Behind::Gate(Scope::Workflow, name) => name == run.workflow.as_str(),
            Behind::Gate(Scope::Step, name) => steps.clone().any(|(_, step)| step.name.as_str() == name),
            Behind::Gate(Scope::Host, name) => hosts.iter().any(|host| host.as_ref() == Some(name)),
        };
        let mut spans: Vec<_> = self
            .tables
            .closed_times
            .iter()
            .filter(holds)
            .map(|time| (time.closed_at, time.passed_at.map_or(self.now, |at| at.min(self.now))))
            .map(|(since, until)| (since.max(run.deadline_from), until))
            .collect();
        spans.sort_unstable();
        let (mut held, mut counted) = (Duration::ZERO, run.deadline_from);
        for (start, end) in spans {
            held += end.saturating_sub(start.max(counted));
            counted = counted.max(end);
        }
        held
    }
}
