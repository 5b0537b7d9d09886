//! The consumer of one step's queue: an apalis worker and the supervisor that rebuilds it.
//!
//! Any error of Redis ends an apalis worker, so ending is ordinary here: the next one starts under
//! a new name after a short backoff. Handlers run on and never notice. It must never decide
//! anything about a step.

use std::{convert::Infallible, fmt::Display, num::NonZeroUsize, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{
    sync::{Semaphore, watch},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use workflows::ids::StepName;

use super::{
    Delivery, Queue, Transport, apalis_redis,
    lists::{self, Acknowledged},
};
use crate::{name, telemetry::health::Pulse};

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// A worker that lived this long has earned a fresh backoff.
const STEADY: Duration = Duration::from_secs(10);
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long a stopping worker may take.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// How a consumer does: for metrics, `/livez` and logs.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Whether an apalis worker runs now. None does while Redis is away.
    pub up: bool,
    /// How often the worker had to be rebuilt.
    pub rebuilds: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Handlers that were dropped when the grace period of a drain was over; their leases expire.
    pub abandoned: u64,
    /// Hints that were not pushed by us.
    pub garbled: u64,
    /// Hints that were handed back for silent workers of apalis-redis.
    pub handed_back: u64,
}

/// What is done with each hint: a handler starts at once, so that nothing waits in memory.
pub(super) type Handle = Arc<dyn Fn(Delivery) + Send + Sync>;

/// Consumes one step's queue.
pub struct Consumer {
    pub(super) queue: Queue,
    pub(super) step: StepName,
    pub(super) concurrency: usize,
    /// One for each handler that may start.
    pub(super) permits: Arc<Semaphore>,
    pub(super) running: TaskTracker,
    /// Cancelled when the grace period of a drain is over.
    abandon: CancellationToken,
    pub(super) acknowledged: Acknowledged,
    pub(super) status: watch::Sender<Status>,
    grace: Duration,
    pulse: Pulse,
}

impl Queue {
    /// A consumer that runs up to `concurrency` handlers at once and, when told to stop, gives
    /// those that run `grace`. It beats the pulse while it runs.
    pub fn consumer(&self, step: &StepName, concurrency: NonZeroUsize, grace: Duration, pulse: Pulse) -> Consumer {
        Consumer {
            queue: self.clone(),
            step: step.clone(),
            concurrency: concurrency.get(),
            permits: Arc::new(Semaphore::new(concurrency.get())),
            running: TaskTracker::new(),
            abandon: CancellationToken::new(),
            acknowledged: Acknowledged::default(),
            status: watch::Sender::default(),
            grace,
            pulse,
        }
    }
}

impl Consumer {
    /// How this consumer does, while it runs.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// One for each handler that may start.
    pub fn places(&self) -> Arc<Semaphore> {
        self.permits.clone()
    }

    /// Runs until `shutdown`, through any outage of Redis. Then nothing more is fetched, and
    /// handlers that run may finish within the grace period. How many were dropped at its end.
    pub async fn run<Fut>(
        mut self,
        handler: impl Fn(Delivery) -> Fut + Send + Sync + 'static,
        shutdown: CancellationToken,
    ) -> u64
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        // It ends with this function, whatever goes on.
        let pulse = std::mem::take(&mut self.pulse);
        let consumer = Arc::new(self);
        let starting = consumer.clone();
        let handle: Handle = Arc::new(move |delivery| starting.start(handler(delivery)));
        let work = async {
            consumer.supervise(&handle, &shutdown).await;
            consumer.drain(&pulse).await;
        };
        tokio::select! {
            () = work => {}
            never = consumer.keep_up(&pulse) => match never {},
        }
        lists::tell(&consumer).await;
        consumer.status.borrow().abandoned
    }

    async fn supervise(self: &Arc<Self>, handle: &Handle, shutdown: &CancellationToken) {
        let mut backoff = FIRST_BACKOFF;
        while !shutdown.is_cancelled() {
            let started = Instant::now();
            // Unique per start: apalis-redis refuses a name for 30 s after its last heartbeat.
            let name = name::unique(self.step.as_str());
            // One life of an apalis worker: until `shutdown` (`Ok`) or an error.
            let ended = match self.queue.shared.config.transport {
                Transport::Lists => lists::work(self, &name, handle.clone(), shutdown).await,
                Transport::ApalisRedis => apalis_redis::work(self, &name, handle.clone(), shutdown).await,
            };
            self.status.send_modify(|status| status.up = false);
            let Err(error) = ended else { continue };
            if started.elapsed() >= STEADY {
                backoff = FIRST_BACKOFF;
            }
            // Once per outage, not once a second.
            if backoff == FIRST_BACKOFF {
                tracing::warn!(step = %self.step, worker = %name, error, "Redis is lost; trying again");
            }
            self.status.send_modify(|status| status.rebuilds += 1);
            let _ = time::timeout(backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0), shutdown.cancelled()).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// What goes on beside the worker.
    async fn keep_up(&self, pulse: &Pulse) -> Infallible {
        let beating = async {
            let mut every = time::interval(BEAT_EVERY);
            loop {
                every.tick().await;
                pulse.beat();
            }
        };
        let upkeep = async {
            match self.queue.shared.config.transport {
                Transport::Lists => lists::keep_acknowledging(self).await,
                Transport::ApalisRedis => apalis_redis::keep_swept(self).await,
            }
        };
        tokio::select! {
            never = beating => never,
            never = upkeep => never,
        }
    }

    /// Lets a handler run on a task of our own: a worker that ends (any error of Redis ends it, and
    /// drops what it runs) cancels nothing.
    fn start(self: &Arc<Self>, handling: impl Future<Output = ()> + Send + 'static) {
        let consumer = self.clone();
        self.running.spawn(async move {
            tokio::select! {
                ended = AssertUnwindSafe(handling).catch_unwind() => if ended.is_err() {
                    tracing::error!("a handler panicked: its lease will expire and count as a crash");
                    consumer.status.send_modify(|status| status.panics += 1);
                },
                () = consumer.abandon.cancelled() => consumer.status.send_modify(|status| status.abandoned += 1),
            }
        });
    }

    async fn drain(&self, pulse: &Pulse) {
        self.running.close();
        if pulse.waiting(time::timeout(self.grace, self.running.wait())).await.is_err() {
            self.abandon.cancel();
            self.running.wait().await;
        }
    }

    /// Redis has answered this worker.
    pub(super) fn connected(&self) {
        self.status.send_if_modified(|status| !std::mem::replace(&mut status.up, true));
    }

    pub(super) fn garbled(&self, error: impl Display) {
        tracing::warn!(%error, "dropped a hint that is not ours: does something else write to our Redis keys?");
        self.status.send_modify(|status| status.garbled += 1);
    }
}
