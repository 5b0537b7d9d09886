//! The state machine: the only definition of how a step and its run may move. The ledger's SQL
//! repeats these moves as guards, and a test compares the two.
//! ```text
//! due ──claim──► running ──succeed──► succeeded
//!  ▲               │                      │
//!  ├── fail, defer, expire, send back     │
//!  ├── rerun ─────────────────────────────┘
//!  └── revive ── dead ◄── refused, a spent budget, the deadline
//!                cancelled ◄── cancel (from running: at its settle)
//! ```
//! Whether Redis holds a hint for a due step is no state: a hint may be pushed twice, a claim is
//! won once.

use serde::{Deserialize, Serialize};

/// Where a run stands. `dead` waits for a person; the other two ends are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Active,
    Succeeded,
    Dead,
    Cancelled,
}

/// Where a step stands. A step that waits (for an earlier step, or for its run's turn on a
/// resource) is `due` without a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    Due,
    Running,
    Succeeded,
    Dead,
    Cancelled,
}

impl RunState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

impl StepState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a step has spent since its run began or was last revived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Spent {
    pub failures: u32,
    pub crashes: u32,
    /// How often a later step sent the run back to this one.
    pub send_backs: u32,
    /// Defers in a row. They are limited by nothing: the number only makes the delays grow.
    pub defers: u32,
}

/// What a step may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    pub failures: u32,
    pub crashes: u32,
    pub send_backs: u32,
}

/// Where a step stands, and what it has spent: a step as the state machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    pub state: StepState,
    pub spent: Spent,
}

/// Whether a step is its workflow's last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    Inner,
    Last,
}

/// How a step may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Move {
    /// A worker takes it, under a token of its own.
    Claim,
    /// The attempt succeeded.
    Succeed(Place),
    /// The attempt failed and may be tried again.
    Fail,
    /// The attempt ended without a verdict: not counted.
    Defer,
    /// The lease ran out: the worker crashed.
    Expire,
    /// The attempt sends the run back to an earlier step, and waits for it.
    SendBack,
    /// A later step sends the run back to this one.
    Rerun,
    /// The attempt says that this will never work.
    Refuse,
    /// The run's deadline has passed.
    Exceed,
    /// A person ends the run, or its subject is gone.
    Cancel,
    /// A person gives a dead run a fresh budget.
    Revive,
}

/// Why a run died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeathReason {
    PermanentError,
    AttemptsExhausted,
    WorkerLost,
    DeadlineExceeded,
}

impl DeathReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PermanentError => "permanent_error",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::WorkerLost => "worker_lost",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }
}

/// What a move brings with it, in the same transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// An attempt ended: one row says how.
    RecordAttempt,
    /// The next step becomes due.
    Advance,
    /// The run ends: its event is written and its resource freed.
    EndRun(RunState),
    /// The run needs a person: a dead letter is written.
    Bury(DeathReason),
    /// The run is active again.
    ReviveRun,
}

/// A move that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a step that is {} cannot make the move {wanted:?}", state.as_str())]
pub struct Illegal {
    pub state: StepState,
    pub wanted: Move,
}

/// The step after the move that is wanted, and what comes with it. Every other combination is
/// illegal.
pub fn transition(step: Standing, wanted: Move, limits: &Limits) -> Result<(Standing, Vec<Effect>), Illegal> {
    use StepState::*;
    let spent = step.spent;
    let to = |state, spent| Standing { state, spent };
    let rested = Spent { defers: 0, ..spent };
    Ok(match (step.state, wanted) {
        (Due, Move::Claim) => (to(Running, spent), vec![]),

        (Running, Move::Succeed(Place::Inner)) => (to(Succeeded, rested), vec![Effect::RecordAttempt, Effect::Advance]),
        (Running, Move::Succeed(Place::Last)) => {
            (to(Succeeded, rested), vec![Effect::RecordAttempt, Effect::EndRun(RunState::Succeeded)])
        }
        (Running, Move::Fail) => {
            let spent = Spent { failures: spent.failures + 1, ..rested };
            ended(spent, (spent.failures >= limits.failures).then_some(DeathReason::AttemptsExhausted))
        }
        (Running, Move::Expire) => {
            let spent = Spent { crashes: spent.crashes + 1, ..rested };
            ended(spent, (spent.crashes >= limits.crashes).then_some(DeathReason::WorkerLost))
        }
        (Running, Move::Defer) => ended(Spent { defers: spent.defers.saturating_add(1), ..spent }, None),
        (Running, Move::SendBack) => ended(rested, None),
        (Running, Move::Refuse) => ended(rested, Some(DeathReason::PermanentError)),
        (Running, Move::Cancel) => {
            (to(Cancelled, rested), vec![Effect::RecordAttempt, Effect::EndRun(RunState::Cancelled)])
        }

        (Succeeded, Move::Rerun) if spent.send_backs < limits.send_backs => {
            (to(Due, Spent { send_backs: spent.send_backs + 1, ..spent }), vec![])
        }
        (Succeeded, Move::Rerun) => (to(Dead, spent), death(DeathReason::AttemptsExhausted)),

        (Due | Dead, Move::Cancel) => (to(Cancelled, spent), vec![Effect::EndRun(RunState::Cancelled)]),
        (Due, Move::Exceed) => (to(Dead, spent), death(DeathReason::DeadlineExceeded)),
        (Dead, Move::Revive) => (to(Due, Spent::default()), vec![Effect::ReviveRun]),

        (state, wanted) => return Err(Illegal { state, wanted }),
    })
}

/// The attempt ended without success: the step is due again, or dead.
fn ended(spent: Spent, dies: Option<DeathReason>) -> (Standing, Vec<Effect>) {
    let state = if dies.is_some() { StepState::Dead } else { StepState::Due };
    let effects = [Effect::RecordAttempt].into_iter().chain(dies.into_iter().flat_map(death));
    (Standing { state, spent }, effects.collect())
}

fn death(reason: DeathReason) -> Vec<Effect> {
    vec![Effect::Bury(reason), Effect::EndRun(RunState::Dead)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { failures: 3, crashes: 2, send_backs: 1 };

    fn step(state: StepState) -> Standing {
        Standing { state, spent: Spent::default() }
    }

    #[test]
    fn a_revived_step_has_a_fresh_budget() {
        let spent = Spent { failures: 3, crashes: 1, send_backs: 1, defers: 9 };

        let (next, effects) = transition(Standing { state: StepState::Dead, spent }, Move::Revive, &LIMITS).unwrap();

        assert_eq!(next, step(StepState::Due));
        assert_eq!(effects, [Effect::ReviveRun]);
    }

    #[test]
    fn a_run_that_keeps_being_sent_back_dies() {
        let (again, _) = transition(step(StepState::Succeeded), Move::Rerun, &LIMITS).unwrap();
        let again = Standing { state: StepState::Succeeded, ..again };

        let (dead, effects) = transition(again, Move::Rerun, &LIMITS).unwrap();

        assert_eq!(dead.state, StepState::Dead);
        assert!(effects.contains(&Effect::EndRun(RunState::Dead)));
    }

    #[test]
    fn what_has_ended_stays_ended() {
        for wanted in [Move::Claim, Move::Fail, Move::Revive, Move::Exceed, Move::Cancel] {
            assert!(transition(step(StepState::Succeeded), wanted, &LIMITS).is_err(), "{wanted:?}");
            assert!(transition(step(StepState::Cancelled), wanted, &LIMITS).is_err(), "{wanted:?}");
        }
    }
}
