//! The world shared by the handlers, and the driver that lets its time follow the clock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::evolution::{Answer, Config, Request, Ticket, World};

/// The world with the callers that wait for it.
pub(super) struct Shared {
    state: Mutex<Waiting>,
    started: Instant,
    /// The world's agenda may have become shorter.
    changed: Notify,
    pub initial: Config,
    seed: u64,
}

struct Waiting {
    world: World,
    callers: HashMap<Ticket, oneshot::Sender<Answer>>,
    /// When the driver looks again by itself.
    awaited: Option<Duration>,
}

impl Waiting {
    /// Hands out the answers that are due; returns when the next thing is.
    fn advance(&mut self, now: Duration) -> Option<Duration> {
        for (ticket, answer) in self.world.advance(now) {
            if let Some(caller) = self.callers.remove(&ticket) {
                // A caller that just went away is told apart by its guard, not here.
                drop(caller.send(answer));
            }
        }
        self.world.next_wakeup()
    }
}

impl Shared {
    pub fn new(config: Config, seed: u64) -> Self {
        let world = World::new(config.clone(), seed);
        Self {
            state: Mutex::new(Waiting { world, callers: HashMap::new(), awaited: None }),
            started: Instant::now(),
            changed: Notify::new(),
            initial: config,
            seed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().expect("nobody panics while holding the simulated world")
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn with<T>(&self, work: impl FnOnce(&mut World, Duration) -> T) -> T {
        let result = work(&mut self.lock().world, self.now());
        self.changed.notify_one();
        result
    }

    /// A fresh world, as at the start; calls under way are dropped.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.world = World::new(self.initial.clone(), self.seed);
        state.world.advance(self.now());
        state.callers.clear();
        drop(state);
        self.changed.notify_one();
    }

    /// What needs no time is answered at once, without the driver.
    pub fn begin(&self, request: Request) -> (Ticket, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        let ticket = state.world.begin(self.now(), request);
        state.callers.insert(ticket, sender);
        let next = state.advance(self.now());
        let is_sooner = next.is_some_and(|next| state.awaited.is_none_or(|awaited| next < awaited));
        drop(state);
        if is_sooner {
            self.changed.notify_one();
        }
        (ticket, receiver)
    }

    fn advance(&self) -> Option<Duration> {
        let mut state = self.lock();
        state.awaited = state.advance(self.now());
        state.awaited
    }
}

pub(super) async fn drive(shared: Arc<Shared>, shutdown: CancellationToken) {
    loop {
        let next = shared.advance();
        let wait = async {
            match next {
                Some(at) => tokio::time::sleep(at.saturating_sub(shared.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = shared.changed.notified() => {}
            () = wait => {}
        }
    }
    // Nobody answers any more: whoever still waits sees the connection close.
    shared.lock().callers.clear();
}

/// Tells the world when the client goes away before its answer.
pub(super) struct Presence {
    pub shared: Arc<Shared>,
    pub ticket: Ticket,
    pub answered: bool,
}

impl Drop for Presence {
    fn drop(&mut self) {
        if !self.answered {
            let mut state = self.shared.lock();
            state.callers.remove(&self.ticket);
            state.world.cancel(self.ticket);
        }
    }
}
