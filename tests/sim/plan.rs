//! What a seed stands for: how many of everything there are, for how long things go wrong, and
//! which kinds of mishap there are in this run. Few kinds at once show more than all of them
//! always.

use std::time::Duration;

use sluice::ledger::scenario::{Met, Scenario};
use tests::ledger::Safeguard;
use uuid::Uuid;
use workflows::whatsapp::names::{InstanceName, UserId};

use crate::{chance::Chance, mishaps::Mishap};

/// A guard that is taken away, to see what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    Ledger(Safeguard),
    /// No relay looks for what is due: only what has just become due is pushed.
    Scan,
    /// "Absent" is what the API's memory says, and its database is not asked.
    DatabasesWord,
    /// What a failed create left at the API is never deleted there.
    Discard,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub users: Vec<UserId>,
    pub workers: usize,
    pub relays: usize,
    /// How many attempts of each step a worker makes at once.
    pub slots: usize,
    pub batch: usize,
    pub high_water: usize,
    /// Whether the API asks memory and cache for a name, and never its database.
    pub save_instances: bool,
    /// For how long things go wrong.
    pub bad_times: Duration,
    /// Milliseconds between two mishaps, at most.
    pub pace: u64,
    pub mishaps: Vec<Mishap>,
    /// The users whose step kills every worker that takes it.
    pub poison: Vec<UserId>,
    pub removed: Option<Removed>,
    /// What the attempts of the one user meet, where the run is a recorded one.
    pub script: Vec<Met>,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let chance = Chance::of(seed, "plan");
        let users = (0..chance.between(1, 5)).map(|number| user(seed, number)).collect::<Vec<_>>();
        let share = chance.pick(&[15, 25, 40, 60]).unwrap_or_default();
        let mut mishaps: Vec<Mishap> = Mishap::ALL.into_iter().filter(|_| chance.percent(share)).collect();
        if mishaps.is_empty() {
            mishaps.push(Mishap::KillWorker);
        }
        let poison = if chance.percent(4) { chance.pick(&users) } else { None }.into_iter().collect();
        Self {
            seed,
            workers: chance.between(2, 3) as usize,
            relays: 2,
            slots: 2,
            batch: chance.between(1, 20) as usize,
            high_water: chance.between(1, 20) as usize,
            save_instances: chance.percent(50),
            bad_times: chance.millis(10_000, 60_000),
            pace: chance.pick(&[800, 2_000, 5_000, 10_000]).unwrap_or(2_000),
            mishaps,
            poison,
            users,
            removed: None,
            script: Vec::new(),
        }
    }

    /// One user, whose run meets what a recorded one met, and nothing else.
    pub fn replaying(scenario: Scenario) -> Self {
        let last = scenario.attempts.last().map_or(0, |met| met.began_ms + met.took_ms);
        Self {
            users: vec![user(0, 0)],
            workers: 2,
            mishaps: Vec::new(),
            poison: Vec::new(),
            bad_times: Duration::from_millis(last * 4 + 60_000),
            batch: 20,
            high_water: 20,
            save_instances: false,
            script: scenario.attempts,
            ..Self::of(0)
        }
    }

    /// Whether working on this instance kills the worker.
    pub fn is_poison(&self, name: &InstanceName) -> bool {
        self.poison.iter().any(|user| InstanceName::of_user(*user) == *name)
    }
}

pub fn user(seed: u64, number: u64) -> UserId {
    let high = u128::from(seed) << 64;
    UserId::new(Uuid::from_u128(0xaaaa_0000_0000_4000_8000_0000_0000_0000 ^ high ^ u128::from(number)))
}
