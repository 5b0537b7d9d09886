//! A process that can be frozen and killed. Everything that an actor sends or receives passes here: nothing leaves or enters
//! a frozen process, and nothing ever again a dead one.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time};

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
    state: watch::Sender<State>,
    /// Since when it has not been frozen.
    steady_since: Mutex<Duration>,
}

impl Process {
    pub fn start(name: String, log: Arc<Log>) -> Arc<Self> {
        log.note(|| format!("{name} starts"));
        let steady_since = Mutex::new(log.now());
        Arc::new(Self { name, log, state: watch::Sender::new(State::Running), steady_since })
    }

    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Returns when the process runs; never, where it is dead.
    pub async fn pass(&self) {
        if self.state() == State::Running {
            return;
        }
        let mut state = self.state.subscribe();
        if state.wait_for(|state| *state == State::Running).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when it is killed.
    pub async fn killed(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| *state == State::Dead).await;
    }

    /// Nothing of it runs for so long. False where it does not run now.
    pub fn freeze(self: &Arc<Self>, how_long: Duration) -> bool {
        if self.state() != State::Running {
            return false;
        }
        self.log.note(|| format!("{} freezes for {how_long:?}", self.name));
        self.state.send_replace(State::Frozen);
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
            *self.steady_since.lock().unwrap_or_else(PoisonError::into_inner) = self.log.now();
            self.state.send_replace(State::Running);
        }
    }

    pub fn kill(&self) {
        self.log.note(|| format!("{} is killed", self.name));
        self.state.send_replace(State::Dead);
    }

    /// For how long it has been running without a freeze.
    pub fn steady_for(&self) -> Duration {
        if self.state() != State::Running {
            return Duration::ZERO;
        }
        let since = *self.steady_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.log.now().saturating_sub(since)
    }
}
