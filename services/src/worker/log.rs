//! What the log says of attempts.

use workflows::{outcome::Class, state::RunState};

use crate::ledger::{
    Claim, Settlement,
    settlement::{Attempt, Then},
};

/// One line per attempt that ended, at the level of what it means for the run.
pub(super) fn log(claim: &Claim, settlement: &Settlement, state: RunState) {
    let (run, step, attempt, subject) = (claim.key.run, &claim.step, claim.attempt, &claim.input.subject);
    let Attempt { outcome, class, error, note, trace_id, .. } = &settlement.attempt;
    let (class, error, note) = (class.map(Class::as_str), error.as_deref(), note.as_deref());
    let trace_id = trace_id.as_deref();
    match (state, &settlement.then) {
        (RunState::Dead, _) => {
            tracing::warn!(%run, %step, attempt, %subject, trace_id, outcome, class, error, "run died: it needs a person");
        }
        (RunState::Succeeded, _) => {
            tracing::info!(%run, %step, attempt, %subject, trace_id, note, "step succeeded, and with it the run");
        }
        (RunState::Cancelled, _) => {
            tracing::info!(%run, %step, attempt, %subject, trace_id, outcome, class, error, "run cancelled");
        }
        (RunState::Active, Then::Rerun { .. }) => {
            tracing::info!(%run, %step, attempt, %subject, trace_id, class, error, "run sent back");
        }
        (RunState::Active, _) if settlement.output.is_some() => {
            tracing::info!(%run, %step, attempt, %subject, trace_id, note, "step succeeded");
        }
        (RunState::Active, _) => {
            tracing::info!(%run, %step, attempt, %subject, trace_id, outcome, class, error, "step is tried again");
        }
    }
}
