//! How runs end: the run's row, its event, its dead letter, and the turn that passes on. The deadline too.

use std::time::Duration;

use serde_json::json;
use workflows::{
    ids::RunId,
    outcome::Class,
    state::{DeathReason, Event, RunState, StepState},
};

use super::{By, DeadLetter, EventRow, Resolution, Run, Step, Tx};

impl Tx<'_> {
    /// The run needs a person: its step at `position` is dead already.
    pub(super) fn bury(&mut self, run: RunId, position: i16, reason: DeathReason, class: Option<Class>) {
        let Some(step) = self.tables.steps.get(&(run, position)) else { return };
        self.tables.dead_letters.push(DeadLetter {
            run,
            position,
            step: step.name.clone(),
            reason,
            class,
            error: step.error.clone(),
            died_at: self.now,
            resolved: None,
        });
        self.end(run, RunState::Dead);
    }

    /// The run is over: its event is written and its resource freed.
    pub(super) fn end(&mut self, id: RunId, state: RunState) {
        let Some(run) = self.tables.runs.get_mut(&id) else { return };
        run.state = state;
        run.ended_at = Some(self.now);
        self.tables.active.remove(&(run.created_at, id));
        if state != RunState::Dead {
            self.tables.unfinished.remove(&(run.workflow.clone(), run.subject.clone()));
        }
        if state == RunState::Cancelled {
            self.cancel_open_steps(id);
        }
        self.announce(id);
        self.pass_turn(id);
    }

    fn cancel_open_steps(&mut self, id: RunId) {
        let open: Vec<i16> =
            self.tables.steps.range((id, 0)..=(id, i16::MAX)).map(|((_, position), _)| *position).collect();
        for position in open {
            if self.tables.steps.get(&(id, position)).is_some_and(|step| step.state != StepState::Running) {
                self.meet(id, position, Event::Cancel);
            }
        }
    }

    /// One event per end of a run; its key says the workflow and the end.
    fn announce(&mut self, id: RunId) {
        let Some(run) = self.tables.runs.get(&id) else { return };
        let letter = self.tables.dead_letters.iter().rev().find(|letter| letter.run == id && letter.resolved.is_none());
        let payload = json!({
            "run": id,
            "workflow": run.workflow,
            "subject": run.subject,
            "resource": run.resource,
            "state": run.state,
            "step": letter.map(|letter| &letter.step),
            "reason": letter.map(|letter| letter.reason),
        });
        let sequence = self.tables.events.iter().rev().find(|event| event.run == id).map_or(0, |event| event.sequence);
        self.tables.events.push(EventRow {
            run: id,
            sequence: sequence + 1,
            routing_key: format!("{}.{}", run.workflow, run.state.as_str()),
            payload,
            traceparent: run.traceparent.clone(),
            created_at: self.now,
        });
    }

    /// Due steps of runs past their deadline die. The time that gates held a run is added to its deadline here, once that is
    /// reached.
    pub(super) fn exceed(&mut self, host: Option<&str>, limit: usize) -> usize {
        let mut died = 0;
        for (run, position) in self.late(host, limit) {
            if self.give_back(run, host) || self.meet(run, position, Event::Exceed).is_none() {
                continue;
            }
            if let Some(step) = self.tables.steps.get_mut(&(run, position)) {
                step.error.get_or_insert_with(|| "the run's deadline has passed".to_owned());
            }
            self.bury(run, position, DeathReason::DeadlineExceeded, None);
            self.project(run);
            died += 1;
        }
        died
    }

    /// The due steps of runs whose deadline has come, but for those behind a closed gate and those
    /// that wait for their turn behind a limit.
    fn late(&self, host: Option<&str>, limit: usize) -> Vec<(RunId, i16)> {
        let held = |run: &Run, step: &Step| {
            let waits = step.due_at.is_some_and(|at| at <= self.now) && self.is_limited(&step.name, host);
            waits || self.is_gate_closed(&step.name, &run.workflow, host) || self.half_open(host).is_some()
        };
        self.tables
            .active
            .iter()
            .filter_map(|(_, id)| self.tables.runs.get(id).filter(|run| run.deadline_at <= self.now))
            .flat_map(|run| self.tables.steps.range((run.id, 0)..=(run.id, i16::MAX)).map(move |entry| (run, entry)))
            .filter(|(run, (_, step))| step.state == StepState::Due && step.due_at.is_some() && !held(run, step))
            .map(|(_, (key, _))| *key)
            .take(limit)
            .collect()
    }

    /// Whether gates held the run since that was last accounted for.
    fn give_back(&mut self, run: RunId, host: Option<&str>) -> bool {
        let held = self.time_held(run, host);
        let Some(run) = self.tables.runs.get_mut(&run).filter(|_| held > Duration::ZERO) else { return false };
        run.deadline_at += held;
        run.deadline_from = self.now;
        true
    }

    /// A person has seen to the run's dead letter.
    pub(super) fn resolve(&mut self, run: RunId, resolution: &'static str, by: &By) -> Option<i16> {
        let at = self.now;
        let mut letters = self.tables.dead_letters.iter_mut().rev();
        let letter = letters.find(|letter| letter.run == run && letter.resolved.is_none())?;
        letter.resolved = Some(Resolution { resolution, at, by: by.actor.clone(), note: by.note.clone() });
        Some(letter.position)
    }
}
