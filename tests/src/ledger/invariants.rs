//! The invariants of the design that rows alone can show, read from the rows and not from the
//! indexes: I2, I5, I6 and I9.

use std::collections::{BTreeMap, BTreeSet};

use workflows::state::{Limits, RunState, Spent, StepState};

use super::{Attempt, Run, Step, Tables};

pub(super) fn check(tables: &Tables) -> Vec<String> {
    let mut broken = Vec::new();
    one_unfinished_run(tables, &mut broken);
    one_run_at_a_time(tables, &mut broken);
    one_end_per_attempt(tables, &mut broken);
    for run in tables.runs.values() {
        within_limits(tables, run, &mut broken);
        every_end_has_a_row(tables, run, &mut broken);
        held_by_one_token(tables, run, &mut broken);
    }
    broken
}

/// I2: at most one unfinished run per subject and workflow.
fn one_unfinished_run(tables: &Tables, broken: &mut Vec<String>) {
    let mut seen = BTreeMap::new();
    for run in tables.runs.values().filter(|run| matches!(run.state, RunState::Active | RunState::Dead)) {
        if let Some(other) = seen.insert((&run.workflow, &run.subject), run.id) {
            broken.push(format!("I2: {} and {other} are both unfinished for {} {}", run.id, run.workflow, run.subject));
        }
    }
}

/// I2: one run at a time per resource, and somebody's turn wherever somebody is active.
fn one_run_at_a_time(tables: &Tables, broken: &mut Vec<String>) {
    for run in tables.runs.values() {
        let turn = tables.resources.get(&run.resource).and_then(|resource| resource.run);
        let live = steps_of(tables, run).filter(|(_, step)| is_live(step)).count();
        let has_turn = run.state == RunState::Active && turn == Some(run.id);
        if live != usize::from(has_turn) {
            broken
                .push(format!("I2: {} is {:?}, its turn is {turn:?}, and {live} of its steps live", run.id, run.state));
        }
        let active = turn.and_then(|turn| tables.runs.get(&turn)).is_some_and(|turn| turn.state == RunState::Active);
        if turn.is_some() != active || (run.state == RunState::Active && turn.is_none()) {
            broken.push(format!("I2: it is the turn of {turn:?} on {}, which {} works on", run.resource, run.id));
        }
        if run.waits != (run.state == RunState::Active && !has_turn) {
            let waits = run.waits;
            broken.push(format!("I2: {} is {:?}, its turn is {turn:?}, and it waits: {waits}", run.id, run.state));
        }
    }
}

/// In somebody's hands, or about to be.
fn is_live(step: &Step) -> bool {
    match step.state {
        StepState::Due => step.due_at.is_some(),
        StepState::Running => true,
        StepState::Succeeded | StepState::Dead | StepState::Cancelled => false,
    }
}

/// I5: what a step has spent since its last fresh budget is within its limits and counts its
/// attempts.
fn within_limits(tables: &Tables, run: &Run, broken: &mut Vec<String>) {
    let workflow = tables.registered.find(&run.workflow, run.version);
    for (position, step) in steps_of(tables, run) {
        let ended = tables.attempts.iter().filter(|attempt| attempt.run == run.id && attempt.position == position);
        let since: Vec<_> = ended.skip(step.budget_from).collect();
        let count = |outcome| since.iter().filter(|attempt| attempt.ended.outcome == outcome).count() as u32;
        let spent = step.spent;
        // A person may have set the failures back to none.
        if spent.failures > count("failed") || spent.crashes != count("crashed") {
            broken.push(format!("I5: {} at {position} has spent {spent:?}, which its attempts do not show", run.id));
        }
        let Some(limits) = workflow.and_then(|workflow| workflow.step(position)).map(|step| step.retry.limits) else {
            continue;
        };
        if !is_within(spent, limits, step.state) {
            broken.push(format!("I5: {} at {position} is {:?} and has spent {spent:?}", run.id, step.state));
        }
    }
}

fn is_within(spent: Spent, limits: Limits, state: StepState) -> bool {
    let over = matches!(state, StepState::Dead | StepState::Cancelled);
    let failures = spent.failures < limits.failures || (over && spent.failures == limits.failures);
    let crashes = spent.crashes < limits.crashes || (over && spent.crashes == limits.crashes);
    failures && crashes && spent.send_backs <= limits.send_backs
}

/// I6: every attempt that ended, and every end of a run, left a row that says why.
fn every_end_has_a_row(tables: &Tables, run: &Run, broken: &mut Vec<String>) {
    for (position, step) in steps_of(tables, run) {
        let of_this = |attempt: &&Attempt| attempt.run == run.id && attempt.position == position;
        let ended = tables.attempts.iter().filter(of_this).count();
        let running = usize::from(step.state == StepState::Running);
        if ended + running != step.attempts as usize {
            let claims = step.attempts;
            broken.push(format!("I6: {} at {position} was claimed {claims} times and ended {ended} times", run.id));
        }
    }
    let letters = tables.dead_letters.iter().filter(|letter| letter.run == run.id && letter.resolved.is_none());
    let letters = letters.count();
    if letters != usize::from(run.state == RunState::Dead) {
        broken.push(format!("I6: {} is {:?} and has {letters} open dead letters", run.id, run.state));
    }
    if run.state == RunState::Cancelled && run.cancel_by.is_none() {
        broken.push(format!("I6: {} is cancelled and nobody says by whom", run.id));
    }
    let key = format!("{}.{}", run.workflow, run.state.as_str());
    let last = tables.events.iter().rev().find(|event| event.run == run.id);
    let silent = run.internal && run.state == RunState::Succeeded;
    if run.state != RunState::Active && !silent && last.is_none_or(|event| event.routing_key != key) {
        broken.push(format!("I6: {} is {:?} and no event says so", run.id, run.state));
    }
}

/// I9: a running step, and no other, is held: under one token and with a lease.
fn held_by_one_token(tables: &Tables, run: &Run, broken: &mut Vec<String>) {
    for (position, step) in steps_of(tables, run) {
        let running = step.state == StepState::Running;
        if step.token.is_some() != running || step.lease_until.is_some() != running {
            let state = step.state;
            broken.push(format!("I9: {} at {position} is {state:?}, and its token is {:?}", run.id, step.token));
        }
    }
}

/// I9: no attempt ends twice.
fn one_end_per_attempt(tables: &Tables, broken: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for attempt in &tables.attempts {
        if !seen.insert((attempt.run, attempt.position, attempt.token)) {
            let Attempt { run, position, token, .. } = attempt;
            broken.push(format!("I9: the attempt {token} of {run} at {position} ended twice"));
        }
    }
}

fn steps_of<'t>(tables: &'t Tables, run: &Run) -> impl Iterator<Item = (i16, &'t Step)> + use<'t> {
    tables.steps.range((run.id, 0)..=(run.id, i16::MAX)).map(|((_, position), step)| (*position, step))
}
