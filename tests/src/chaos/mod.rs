//! Chaos: real Postgres, Redis and separate processes, users who sign up, and faults on the way.
//! Each `Scenario` runs on a fleet of its own and ends with a `Report`: what was injected, and
//! which invariant held, read from the ledger's rows and from the simulated API's journal. Nothing
//! here mends anything but what it broke itself; it never touches a ledger row.

mod fault;
mod hands;
mod hold;
mod record;
mod report;
mod scenario;
mod stage;
mod verdict;

pub use fault::{Fault, Schedule};
pub use report::{Report, markdown};
pub use scenario::Scenario;

/// How a scenario runs. What is not given is the scenario's own.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many users sign up.
    pub users: Option<u32>,
    /// How long faults go on.
    pub seconds: Option<u32>,
    /// What the schedule of `mixed` and the API's timings are drawn from.
    pub seed: u64,
    /// Told what happens meanwhile.
    pub say: fn(&str),
}
