//! One run as the simulator replays it: what happened, when and how often, and nothing of whom it happened to.
//!
//! The format is JSON and its names are stable: a change that an older reader cannot bear raises `FORMAT`. It holds no
//! subject, resource, e-mail address, input, output, token, URL or error text, and no moment: times are milliseconds since
//! the run was started. A scenario may be pasted into a bug report.

use serde::{Deserialize, Serialize};
use workflows::{
    ids::{StepName, WorkflowName},
    outcome::Class,
    state::{DeathReason, RunState, StepState},
};

/// The version of this format.
pub const FORMAT: u32 = 1;

/// One run from its start to the moment of the export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    pub format: u32,
    /// Stands for the subject: the same for all runs of one subject in one database, different in every other database.
    pub subject: String,
    pub workflow: WorkflowName,
    pub version: i16,
    pub state: RunState,
    /// None while it is active.
    pub ended_after_ms: Option<i64>,
    /// In their order; those after the current one may be missing.
    pub steps: Vec<Step>,
    /// In the order in which they ended. A long run has its last 500 only.
    pub attempts: Vec<Attempt>,
    /// The youngest dead letter.
    pub dead_letter: Option<DeadLetter>,
}

/// Where a step stands, and what it has spent since the run began or was last revived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub position: i16,
    pub name: StepName,
    pub state: StepState,
    pub failures: i32,
    pub crashes: i32,
    pub send_backs: i32,
    pub defers: i32,
    /// Over the step's whole life.
    pub attempts: i32,
}

/// One attempt that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub position: i16,
    pub step: StepName,
    /// The workers of this run, numbered from 1 in the order in which they appear.
    pub worker: usize,
    pub outcome: Ended,
    pub class: Option<Class>,
    pub http_status: Option<i16>,
    pub started_after_ms: i64,
    pub took_ms: i64,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Succeeded,
    Failed,
    Deferred,
    Crashed,
    SentBack,
    Refused,
    Cancelled,
}

/// Why the run died, and what became of that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub step: StepName,
    pub reason: DeathReason,
    pub class: Option<Class>,
    pub died_after_ms: i64,
    pub resolution: Option<Resolution>,
    pub resolved_after_ms: Option<i64>,
}

/// What a person did about a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    Revived,
    Discarded,
}
