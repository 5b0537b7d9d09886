//! Whether requests ring. A commit that rings holds a lock of the whole database until it is on
//! disk, so that sign-ups which ring commit one at a time: they ring only while a relay sleeps.
//! Intake says whether this one does; the connection that listens holds a lock of its session
//! meanwhile, which the triggers try.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, watch};

/// Between intake and the connection that listens.
#[derive(Default)]
pub(super) struct Doorbell {
    /// A request may be there.
    pub(super) rung: Notify,
    /// A relay sleeps from its start on.
    awake: watch::Sender<bool>,
    heard: AtomicBool,
}

impl Doorbell {
    /// Whether intake looks by itself all the time.
    pub(super) fn is_awake(&self) -> bool {
        *self.awake.borrow()
    }

    pub(super) fn set_awake(&self, awake: bool) {
        self.awake.send_if_modified(|before| std::mem::replace(before, awake) != awake);
    }

    /// Follows whether intake is awake.
    pub(super) fn follow(&self) -> watch::Receiver<bool> {
        self.awake.subscribe()
    }

    /// Whether a ring would be heard now.
    pub(super) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire)
    }

    pub(super) fn set_heard(&self, heard: bool) {
        self.heard.store(heard, Ordering::Release);
    }
}
