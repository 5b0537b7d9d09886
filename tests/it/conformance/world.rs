//! What the suite must see and do beyond the ledger's own verbs: look at rows, set the time, set
//! gates, be the app's user.

use std::time::Duration;

use serde_json::Value;
pub use sluice::ledger::Scope;
use sluice::ledger::{By, OperatorLedger};
use tests::ledger::Ledger;
use workflows::{
    definition::Registry,
    ids::{ResourceName, RunId},
    outcome::Class,
    state::{DeathReason, RunState, Spent, StepState},
    whatsapp::names::UserId,
};

/// A ledger, and a way round its verbs.
pub trait World {
    type Ledger: Ledger;

    fn ledger(&self) -> &Self::Ledger;

    /// The same rows as a build with other definitions sees them, once it has registered these.
    async fn build(&self, registry: Registry) -> Self::Ledger;

    async fn run(&self, run: RunId) -> RunState;
    async fn step(&self, run: RunId, position: i16) -> Option<StepSeen>;
    /// In the order in which they ended.
    async fn attempts(&self, run: RunId) -> Vec<AttemptSeen>;
    /// In the order of the deaths.
    async fn dead_letters(&self, run: RunId) -> Vec<LetterSeen>;
    /// Their routing keys, in order.
    async fn events(&self, run: RunId) -> Vec<String>;
    async fn resource(&self, name: &ResourceName) -> ResourceSeen;
    async fn is_busy(&self, resource: &ResourceName) -> bool;
    /// Every row of the ledger but heartbeats, as text: the same text twice means that nothing was
    /// written in between.
    async fn rows(&self) -> String;
    /// What the ledger's rows say against the invariants, a line each.
    async fn violations(&self) -> Vec<String>;

    /// Let so much time go by.
    async fn advance(&self, by: Duration);

    /// As an operator does it.
    async fn set(&self, gate: Gate<'_>) {
        let (ledger, by) = (self.ledger(), &By { actor: "ana".to_owned(), note: None });
        let changed = match gate {
            Gate::Pause(scope, name) => ledger.pause(scope, name, by).await,
            Gate::Resume(scope, name) => ledger.resume(scope, name, by).await,
            Gate::Hold(scope, name, duration) => ledger.hold(scope, name, duration).await,
            Gate::Rate(scope, name, rate) => ledger.set_rate(scope, name, Some(rate), by).await,
            Gate::Concurrency(scope, name, limit) => ledger.set_concurrency(scope, name, Some(limit), by).await,
        };
        assert!(changed.unwrap(), "{gate:?} changed nothing");
    }

    async fn sign_up(&self, user: UserId);
    /// The user is deleted, with all that the app has of them.
    async fn leave(&self, user: UserId);
    /// Set the row to `pending` by hand; with `Budget::Fresh` its `retry_count` to 0 too.
    async fn ask_again(&self, user: UserId, budget: Budget);
    async fn queue_row(&self, user: UserId) -> RowSeen;
}

#[derive(Debug, Clone, PartialEq)]
pub struct StepSeen {
    pub state: StepState,
    /// How often it became due.
    pub generation: i32,
    pub spent: Spent,
    pub moment: Moment,
    pub output: Option<Value>,
}

/// When a step may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// For an earlier step, or for its run's turn.
    Waits,
    Now,
    Later,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptSeen {
    pub position: i16,
    pub outcome: String,
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterSeen {
    pub position: i16,
    pub reason: DeathReason,
    pub class: Option<Class>,
    pub error: Option<String>,
    pub resolution: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceSeen {
    pub secret: String,
    pub memory: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSeen {
    pub status: String,
    pub retry_count: u32,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    Kept,
    Fresh,
}

/// A change of a gate, as an operator makes it.
#[derive(Debug, Clone, Copy)]
pub enum Gate<'a> {
    Pause(Scope, &'a str),
    Resume(Scope, &'a str),
    Hold(Scope, &'a str, Duration),
    Rate(Scope, &'a str, f64),
    Concurrency(Scope, &'a str, u32),
}
