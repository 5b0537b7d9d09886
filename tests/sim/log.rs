//! What happened in one simulated run: how often each mishap struck, which invariants broke, and,
//! where it is kept, a line for each thing that happened. It must never change what happens.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Whether lines are kept: that costs time, and a seed replays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Lines,
    Counts,
}

pub struct Log {
    start: Instant,
    keep: Keep,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    lines: Vec<String>,
    hits: BTreeMap<&'static str, u64>,
    broken: Vec<String>,
}

/// More of them say nothing new.
const MOST_BROKEN: usize = 20;

impl Log {
    /// Time counts from now on.
    pub fn new(keep: Keep) -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), keep, inner: Mutex::default() })
    }

    /// The virtual time since the start.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub fn hit(&self, what: &'static str) {
        *self.lock().hits.entry(what).or_default() += 1;
    }

    pub fn note(&self, line: impl FnOnce() -> String) {
        if self.keep == Keep::Lines {
            let line = format!("{:>9.3} {}", self.now().as_secs_f64(), line());
            self.lock().lines.push(line);
        }
    }

    /// An invariant does not hold.
    pub fn broken(&self, what: String) {
        self.note(|| format!("BROKEN {what}"));
        let at = self.now().as_secs_f64();
        let mut inner = self.lock();
        if inner.broken.len() < MOST_BROKEN {
            inner.broken.push(format!("at {at:.3} s: {what}"));
        }
    }

    pub fn is_broken(&self) -> bool {
        !self.lock().broken.is_empty()
    }

    /// Hits, broken invariants and lines, taken out.
    pub fn take(&self) -> (BTreeMap<&'static str, u64>, Vec<String>, Vec<String>) {
        let inner = std::mem::take(&mut *self.lock());
        (inner.hits, inner.broken, inner.lines)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
