//! What was injected, and when: for the table, the time to recover, and the calls that only a
//! frozen process explains.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use super::Fault;
use crate::evolution::server::Server;

#[derive(Default)]
pub(super) struct Record {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    injected: BTreeMap<Fault, u32>,
    last: Option<SystemTime>,
    frozen: Vec<Frozen>,
    ended_by_themselves: u32,
}

/// A moment by the API's clock and by the machine's, which is the database's too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moment {
    pub api: Duration,
    pub wall: SystemTime,
}

/// One worker stood still.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Frozen {
    /// The process, which the names of its workers tell.
    pub pid: u32,
    pub from: Moment,
    pub to: Moment,
}

impl Moment {
    pub fn now(api: &Server) -> Self {
        Self { api: api.with(|_, now| now), wall: SystemTime::now() }
    }
}

impl Record {
    /// A fault was injected; where it lasted, it is over now.
    pub fn injected(&self, fault: Fault) {
        let mut inner = self.lock();
        *inner.injected.entry(fault).or_default() += 1;
        inner.last = Some(SystemTime::now());
    }

    /// A worker stood still.
    pub fn frozen(&self, frozen: Frozen) {
        self.lock().frozen.push(frozen);
    }

    /// A process ended that nobody had killed; it was started again, as a supervisor does.
    pub fn ended_by_itself(&self) {
        self.lock().ended_by_themselves += 1;
    }

    pub fn freezes(&self) -> Vec<Frozen> {
        self.lock().frozen.clone()
    }

    pub fn counts(&self) -> BTreeMap<Fault, u32> {
        self.lock().injected.clone()
    }

    pub fn total(&self) -> u32 {
        self.lock().injected.values().sum()
    }

    pub fn last(&self) -> Option<SystemTime> {
        self.lock().last
    }

    pub fn processes_that_ended(&self) -> u32 {
        self.lock().ended_by_themselves
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
