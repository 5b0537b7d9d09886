//! When gates were closed, and how much of that time a run stood behind them.

use std::time::Duration;

use workflows::ids::RunId;

use super::{Scope, Tx};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closure {
    pub scope: Scope,
    pub name: String,
    pub why: Why,
    pub closed_at: Duration,
    pub opened_at: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Pause,
    Hold,
    Breaker,
}

impl Tx<'_> {
    /// A hold that is there grows.
    pub(super) fn note_closed(&mut self, scope: Scope, name: &str, why: Why, until: Option<Duration>) {
        if let Some(closure) = self.open_closure(scope, name, why) {
            closure.opened_at = until;
            return;
        }
        let (name, closed_at) = (name.to_owned(), self.now);
        self.tables.closures.push(Closure { scope, name, why, closed_at, opened_at: until });
    }

    pub(super) fn note_opened(&mut self, scope: Scope, name: &str, why: Why) {
        let now = self.now;
        if let Some(closure) = self.open_closure(scope, name, why) {
            closure.opened_at = Some(now);
        }
    }

    fn open_closure(&mut self, scope: Scope, name: &str, why: Why) -> Option<&mut Closure> {
        let now = self.now;
        let is_open = |closure: &&mut Closure| closure.opened_at.is_none_or(|at| at > now);
        let of_this = |closure: &&mut Closure| (closure.scope, &*closure.name, closure.why) == (scope, name, why);
        self.tables.closures.iter_mut().rev().filter(is_open).find(of_this)
    }

    /// How long a gate before any of the run's steps was closed, or a limit let one of them wait, since that was last
    /// accounted for. What overlaps counts once.
    pub(super) fn time_held(&self, id: RunId, host: Option<&str>) -> Duration {
        let Some(run) = self.tables.runs.get(&id) else { return Duration::ZERO };
        let steps = || self.tables.steps.range((id, 0)..=(id, i16::MAX));
        let before = |closure: &&Closure| match closure.scope {
            Scope::Workflow => closure.name == run.workflow.as_str(),
            Scope::Step => steps().any(|(_, step)| step.name.as_str() == closure.name),
            Scope::Host => host == Some(&*closure.name),
        };
        let mut spans: Vec<_> = self
            .tables
            .closures
            .iter()
            .filter(before)
            .map(|closure| (closure.closed_at, closure.opened_at.map_or(self.now, |at| at.min(self.now))))
            .chain(steps().flat_map(|(_, step)| step.waits.iter().copied()))
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
