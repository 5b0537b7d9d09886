//! What was injected, and when: for the table, the time to recover, and the overlaps that only a frozen process explains.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use super::Fault;

#[derive(Default)]
pub(super) struct Record {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    injected: BTreeMap<Fault, u32>,
    last: Option<SystemTime>,
    frozen: Vec<(Duration, Duration)>,
    ended_by_themselves: u32,
}

/// What a process that was frozen had in hand goes out within this of its waking, also on a busy machine.
const AFTER_WAKING: Duration = Duration::from_secs(2);

impl Record {
    /// A fault was injected; where it lasted, it is over now.
    pub fn injected(&self, fault: Fault) {
        let mut inner = self.lock();
        *inner.injected.entry(fault).or_default() += 1;
        inner.last = Some(SystemTime::now());
    }

    /// A worker stood still between these moments of the API's time.
    pub fn frozen(&self, from: Duration, to: Duration) {
        self.lock().frozen.push((from, to + AFTER_WAKING));
    }

    /// A process ended that nobody had killed; it was started again, as a supervisor does.
    pub fn ended_by_itself(&self) {
        self.lock().ended_by_themselves += 1;
    }

    pub fn is_explained_by_a_frozen_worker(&self, at: Duration) -> bool {
        self.lock().frozen.iter().any(|(from, to)| (*from..=*to).contains(&at))
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
