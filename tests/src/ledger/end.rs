//! How runs end: the run's row, its event, its dead letter, and the turn that passes on. The
//! deadline too.

use std::time::Duration;

use serde_json::json;
use sluice::ledger::{By, Upkeep, WholeRun, settlement};
use workflows::{
    ids::RunId,
    state::{DeathReason, Move, RunState, StepState},
};

use super::{DeadLetter, EventRow, Resolution, Tx};

/// How long ago a run may have ended whose span is still worth telling.
const FRESH: Duration = Duration::from_secs(60);

const TOO_LATE: &str = "the run's deadline has passed";

impl Tx<'_> {
    /// The run needs a person: its step at `position` is dead already.
    pub(super) fn bury(&mut self, run: RunId, position: i16, reason: DeathReason, attempt: &settlement::Attempt) {
        let Some(step) = self.tables.steps.get(&(run, position)) else { return };
        self.tables.dead_letters.push(DeadLetter {
            run,
            position,
            step: step.name.clone(),
            reason,
            class: attempt.class,
            error: attempt.error.clone(),
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
        run.waits = false;
        self.tables.active.remove(&id);
        if state != RunState::Dead {
            self.tables.unfinished.remove(&(run.workflow.clone(), run.subject.clone()));
        }
        if state == RunState::Cancelled {
            self.cancel_open_steps(id);
        }
        self.announce(id, state.as_str());
        self.give_up_turn(id);
    }

    fn cancel_open_steps(&mut self, id: RunId) {
        let positions: Vec<i16> =
            self.tables.steps.range((id, 0)..=(id, i16::MAX)).map(|((_, position), _)| *position).collect();
        for position in positions {
            if self.tables.steps.get(&(id, position)).is_some_and(|step| step.state != StepState::Running) {
                self.make(id, position, Move::Cancel);
            }
        }
    }

    /// One event for each start, revival and end of a run; its key says the workflow and which.
    pub(super) fn announce(&mut self, id: RunId, what: &str) {
        let Some(run) = self.tables.runs.get(&id) else { return };
        // Nobody asked for an internal run.
        if run.internal && matches!(run.state, RunState::Active | RunState::Succeeded) {
            return;
        }
        let letter = self.open_letter(id);
        let payload = json!({
            "run": id,
            "workflow": run.workflow,
            "version": run.version,
            "subject": run.subject,
            "resource": run.resource,
            "step": letter.map(|letter| &letter.step),
            "reason": letter.map(|letter| letter.reason),
            "error": letter.map(|letter| &letter.error),
            "by": run.cancel_by,
        });
        let sequence = self.tables.events.iter().rev().find(|event| event.run == id).map_or(0, |event| event.sequence);
        self.tables.events.push(EventRow {
            run: id,
            sequence: sequence + 1,
            routing_key: format!("{}.{what}", run.workflow),
            payload,
            traceparent: run.traceparent.clone(),
            created_at: self.now,
            claimed: None,
            is_published: false,
        });
    }

    fn give_up_turn(&mut self, id: RunId) {
        let Some(name) = self.tables.runs.get(&id).map(|run| run.resource.clone()) else { return };
        let resource = self.tables.resources.get_mut(&name).filter(|resource| resource.run == Some(id));
        if let Some(resource) = resource {
            resource.run = None;
            self.give_turn(id);
        }
    }

    /// Due steps of runs past their deadline die. The time that gates held a run is added to its
    /// deadline here, once that is reached.
    pub(super) fn exceed(&mut self, limit: usize) -> Vec<WholeRun> {
        let mut died = Vec::new();
        for (run, position) in self.late(limit) {
            if self.give_back(run) || self.make(run, position, Move::Exceed).is_none() {
                continue;
            }
            let Some(step) = self.tables.steps.get_mut(&(run, position)) else { continue };
            let error = step.error.get_or_insert_with(|| TOO_LATE.to_owned()).clone();
            let last = self.tables.attempts.iter().rfind(|attempt| (attempt.run, attempt.position) == (run, position));
            let class = last.and_then(|attempt| attempt.ended.class);
            let attempt = settlement::Attempt { class, error: Some(error), ..Default::default() };
            self.bury(run, position, DeathReason::DeadlineExceeded, &attempt);
            self.project(run);
            died.extend(self.whole(run));
        }
        died
    }

    /// What the span of a run that has ended says.
    pub(super) fn whole(&self, id: RunId) -> Option<WholeRun> {
        let run = self.tables.runs.get(&id)?;
        let ended_at = run.ended_at?;
        let dead = run.state == RunState::Dead;
        Some(WholeRun {
            run: id,
            workflow: run.workflow.to_string(),
            subject: run.subject.to_string(),
            state: run.state,
            reason: self.open_letter(id).filter(|_| dead).map(|letter| letter.reason),
            attempts: self.tables.steps.range((id, 0)..=(id, i16::MAX)).map(|(_, step)| step.attempts).sum(),
            lasted: ended_at.saturating_sub(run.revived_at.unwrap_or(run.requested_at)),
            ended_ago: self.now.saturating_sub(ended_at),
            traceparent: run.traceparent.clone(),
            asked_traceparent: run.asked_traceparent.clone(),
        })
    }

    /// What upkeep would find. The public rows of this ledger never refuse a write.
    pub(super) fn upkeep(&self) -> Upkeep {
        let active = || self.tables.active.iter().filter_map(|id| self.tables.runs.get(id));
        Upkeep {
            running: self.tables.steps.values().any(|step| step.state == StepState::Running),
            gone: !self.held_by_gone().is_empty(),
            expired: !self.expired(1).is_empty(),
            late: active().any(|run| run.deadline_at < self.now),
            cancelled: self.tables.runs.values().any(|run| run.span_waits),
            unwritten: false,
            untold: !self.untold().is_empty(),
            doubted: self.doubted().next().is_some(),
        }
    }

    pub(super) fn spans_that_wait(&mut self, limit: usize) -> Vec<WholeRun> {
        let waiting = self.tables.runs.values_mut().filter(|run| run.span_waits).take(limit);
        let told: Vec<RunId> = waiting.map(|run| (run.span_waits = false, run.id).1).collect();
        told.into_iter().filter_map(|run| self.whole(run)).filter(|whole| whole.ended_ago < FRESH).collect()
    }

    /// The due steps of runs whose deadline has come, but for those behind a closed gate and those
    /// that wait for their turn behind a limit.
    fn late(&self, limit: usize) -> Vec<(RunId, i16)> {
        self.tables
            .active
            .iter()
            .filter(|id| self.tables.runs.get(*id).is_some_and(|run| run.deadline_at < self.now))
            .flat_map(|id| self.tables.steps.range((*id, 0)..=(*id, i16::MAX)))
            .filter(|((run, position), step)| {
                let waits = step.due_at.is_some_and(|at| at <= self.now);
                let is_due = step.state == StepState::Due && step.due_at.is_some();
                is_due && self.gates_before(*run, *position).count_time(waits)
            })
            .map(|(key, _)| *key)
            .take(limit)
            .collect()
    }

    /// Whether gates held the run since that was last accounted for.
    fn give_back(&mut self, run: RunId) -> bool {
        let held = self.time_held(run);
        let Some(run) = self.tables.runs.get_mut(&run).filter(|_| held > Duration::ZERO) else { return false };
        run.deadline_at += held;
        run.deadline_from = self.now;
        true
    }

    pub(super) fn open_letter(&self, run: RunId) -> Option<&DeadLetter> {
        self.tables.dead_letters.iter().rev().find(|letter| letter.run == run && letter.resolved.is_none())
    }

    /// A person has seen to the run's dead letter.
    pub(super) fn resolve(&mut self, run: RunId, resolution: &'static str, by: &By) {
        let at = self.now;
        let mut letters = self.tables.dead_letters.iter_mut().rev();
        if let Some(letter) = letters.find(|letter| letter.run == run && letter.resolved.is_none()) {
            letter.resolved = Some(Resolution { resolution, at, by: by.actor.clone(), note: by.note.clone() });
        }
    }
}
