//! From `due` to `dispatched`, and back where a push failed or Redis lost what it held.

use std::time::Duration;

use workflows::{
    ids::{RunId, StepName, Token},
    state::{Event, StepState},
};

use super::{Dispatched, Key, Scope, Tx};

impl Tx<'_> {
    /// The queue's due steps in the order of their priority and moment, as far as the gates let them through.
    pub(super) fn dispatch(&mut self, queue: &StepName, host: Option<&str>, tokens: &[Token]) -> Vec<Dispatched> {
        let Some(mut due) = self.through_the_breaker(self.due(queue, host), host) else { return Vec::new() };
        let mut dispatched = Vec::new();
        let mut tokens = tokens.iter();
        let shared = [(Scope::Step, Some(queue.as_str())), (Scope::Host, host)];
        while shared.iter().all(|(scope, name)| name.is_none_or(|name| self.room_behind(*scope, name) > 0)) {
            let (Some(token), Some((run, position))) = (tokens.next(), self.first_let_through(&mut due)) else { break };
            dispatched.extend(self.hand_out(Key { run, position, token: *token }, host));
        }
        self.let_through(host, &dispatched);
        dispatched
    }

    pub(super) fn due_queues(&self) -> Vec<StepName> {
        let mut queues: Vec<StepName> = self
            .tables
            .active
            .iter()
            .flat_map(|(_, id)| self.tables.steps.range((*id, 0)..=(*id, i16::MAX)))
            .filter(|(_, step)| step.state == StepState::Due && step.due_at.is_some_and(|at| at <= self.now))
            .map(|(_, step)| step.name.clone())
            .collect();
        queues.sort();
        queues.dedup();
        queues
    }

    fn due(&self, queue: &StepName, host: Option<&str>) -> Vec<(RunId, i16)> {
        let mut due = Vec::new();
        for (run, id) in self.tables.active.iter().filter_map(|(_, id)| Some((self.tables.runs.get(id)?, *id))) {
            for ((_, position), step) in self.tables.steps.range((id, 0)..=(id, i16::MAX)) {
                let moment = step.due_at.filter(|at| *at <= self.now && step.state == StepState::Due);
                let Some(moment) = moment.filter(|_| &step.name == queue) else { continue };
                if !self.is_gate_closed(queue, &run.workflow, host) {
                    due.push((step.priority, moment, id, *position));
                }
            }
        }
        due.sort();
        due.into_iter().map(|(_, _, run, position)| (run, position)).collect()
    }

    /// The next step whose workflow has room.
    fn first_let_through(&mut self, due: &mut impl Iterator<Item = (RunId, i16)>) -> Option<(RunId, i16)> {
        due.find(|(run, _)| {
            let workflow = self.tables.runs.get(run).map(|run| run.workflow.clone());
            workflow.is_some_and(|workflow| self.room_behind(Scope::Workflow, workflow.as_str()) > 0)
        })
    }

    fn hand_out(&mut self, key: Key, host: Option<&str>) -> Option<Dispatched> {
        self.meet(key.run, key.position, Event::Dispatch)?;
        let now = self.now;
        let run = self.tables.runs.get(&key.run)?;
        let (workflow, traceparent) = (run.workflow.clone(), run.traceparent.clone());
        let linked = run.linked_traceparent.clone();
        let name = self.tables.steps.get(&(key.run, key.position))?.name.clone();
        let limited = self.is_limited(&name, host);
        let step = self.tables.steps.get_mut(&(key.run, key.position))?;
        if limited && step.due_at.is_some_and(|at| at + Duration::from_secs(1) < now) {
            step.note_wait(now);
        }
        step.token = Some(key.token);
        step.dispatched_at = Some(now);
        step.host = host.map(str::to_owned);
        self.spend(Scope::Step, name.as_str());
        self.spend(Scope::Workflow, workflow.as_str());
        if let Some(host) = host {
            self.spend(Scope::Host, host);
        }
        Some(Dispatched { key, workflow, traceparent, linked })
    }

    /// Whether the run was in no trace.
    pub(super) fn begin_trace(&mut self, run: RunId, context: &str) -> bool {
        let Some(run) = self.tables.runs.get_mut(&run).filter(|run| run.traceparent.is_none()) else { return false };
        run.traceparent = Some(context.to_owned());
        true
    }

    /// Whether the token was still the dispatched step's. It keeps its moment, and with it its place.
    pub(super) fn put_back(&mut self, key: &Key) -> bool {
        self.held(key, StepState::Dispatched).is_some() && self.meet(key.run, key.position, Event::PutBack).is_some()
    }

    pub(super) fn lose(&mut self) -> usize {
        let keys: Vec<(RunId, i16)> = self
            .tables
            .active
            .iter()
            .flat_map(|(_, id)| self.tables.steps.range((*id, 0)..=(*id, i16::MAX)))
            .filter(|(_, step)| step.state == StepState::Dispatched)
            .map(|(key, _)| *key)
            .collect();
        keys.iter().filter(|(run, position)| self.meet(*run, *position, Event::Lose).is_some()).count()
    }

    pub(super) fn unclaimed(&self, after: Duration, limit: usize) -> Vec<(StepName, Key)> {
        let before = self.now.saturating_sub(after);
        let mut unclaimed: Vec<_> = self
            .tables
            .active
            .iter()
            .flat_map(|(_, id)| self.tables.steps.range((*id, 0)..=(*id, i16::MAX)))
            .filter(|(_, step)| step.state == StepState::Dispatched)
            .filter_map(|((run, position), step)| {
                let at = step.dispatched_at.filter(|at| *at <= before)?;
                let key = Key { run: *run, position: *position, token: step.token? };
                Some((at, step.name.clone(), key))
            })
            .collect();
        unclaimed.sort();
        unclaimed.into_iter().take(limit).map(|(_, name, key)| (name, key)).collect()
    }
}
