//! A process that can be frozen and killed. Everything that an actor sends or receives passes here:
//! nothing leaves or enters a frozen process, and nothing ever again a dead one.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time};

use crate::log::Log;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    Frozen,
    Dead,
}

pub struct Process {
    pub name: String,
    log: Arc<Log>,
    state: Mutex<State>,
    /// Wakes in the order of waiting, which a `watch` does not.
    changed: Notify,
    /// Since when it has been as it is, running or not.
    since: Mutex<Duration>,
}

impl Process {
    pub fn start(name: String, log: Arc<Log>) -> Arc<Self> {
        log.note(|| format!("{name} starts"));
        let since = Mutex::new(log.now());
        Arc::new(Self { name, log, state: Mutex::new(State::Running), changed: Notify::new(), since })
    }

    pub fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the process runs; never, where it is dead.
    pub async fn pass(&self) {
        self.wait_for(State::Running).await;
    }

    async fn wait_for(&self, wanted: State) {
        while self.state() != wanted {
            self.changed.notified().await;
        }
    }

    fn enter(&self, state: State) {
        // A frozen one that is killed has been silent all along.
        if (self.state() == State::Running) != (state == State::Running) {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = self.log.now();
        }
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_waiters();
    }

    /// Returns when it is killed.
    pub async fn killed(&self) {
        self.wait_for(State::Dead).await;
    }

    /// Nothing of it runs for so long. False where it does not run now.
    pub fn freeze(self: &Arc<Self>, how_long: Duration) -> bool {
        if self.state() != State::Running {
            return false;
        }
        self.log.note(|| format!("{} freezes for {how_long:?}", self.name));
        self.enter(State::Frozen);
        let process = self.clone();
        tokio::spawn(async move {
            time::sleep(how_long).await;
            process.thaw();
        });
        true
    }

    fn thaw(&self) {
        if self.state() == State::Frozen {
            self.log.note(|| format!("{} thaws", self.name));
            self.enter(State::Running);
        }
    }

    pub fn kill(&self) {
        self.log.note(|| format!("{} is killed", self.name));
        self.enter(State::Dead);
    }

    /// For how long it has been running without a freeze.
    pub fn steady_for(&self) -> Duration {
        if self.state() == State::Running { self.unchanged_for() } else { Duration::ZERO }
    }

    /// For how long nothing has been heard of it.
    pub fn silent_for(&self) -> Duration {
        if self.state() == State::Running { Duration::ZERO } else { self.unchanged_for() }
    }

    fn unchanged_for(&self) -> Duration {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        self.log.now().saturating_sub(since)
    }
}
