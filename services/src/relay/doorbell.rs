//! Whether requests ring. A commit that rings holds a lock of the whole database until it is on
//! disk, so that sign-ups which ring commit one at a time: they ring only while a relay sleeps.
//! Intake says whether this one does; the connection that listens holds a lock of its session
//! meanwhile, which the triggers try.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, watch};

/// Between intake and the connection that listens.
pub(super) struct Doorbell {
    /// A request may be there.
    pub(super) rung: Notify,
    asleep: watch::Sender<bool>,
    heard: AtomicBool,
}

impl Default for Doorbell {
    /// A relay sleeps from its start on.
    fn default() -> Self {
        Self { rung: Notify::new(), asleep: watch::Sender::new(true), heard: AtomicBool::new(false) }
    }
}

impl Doorbell {
    /// Whether intake looks by itself all the time.
    pub(super) fn is_awake(&self) -> bool {
        !*self.asleep.borrow()
    }

    pub(super) fn stay_awake(&self) {
        self.set_asleep(false);
    }

    pub(super) fn fall_asleep(&self) {
        self.set_asleep(true);
    }

    /// Whether a ring would be heard now.
    pub(super) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire)
    }

    pub(super) fn set_heard(&self, heard: bool) {
        self.heard.store(heard, Ordering::Release);
    }

    /// Follows whether intake sleeps.
    pub(super) fn sleeping(&self) -> watch::Receiver<bool> {
        self.asleep.subscribe()
    }

    fn set_asleep(&self, asleep: bool) {
        self.asleep.send_if_modified(|before| std::mem::replace(before, asleep) != asleep);
    }
}
