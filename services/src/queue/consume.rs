//! The consumer of one step's queue: an apalis worker and the supervisor that rebuilds it.
//!
//! Any error of Redis ends an apalis worker, so ending is ordinary here: the next one starts under
//! a new name after a short backoff. Handlers run on and never notice. It must never decide
//! anything about a step.

use std::{convert::Infallible, num::NonZeroUsize, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{
    sync::{Semaphore, watch},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use workflows::ids::StepName;

use super::{
    Delivery, Queue, Transport, apalis_redis, lists,
    service::{ConsumerState, Handler},
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
    /// The name of the apalis worker that runs now; none while Redis is away.
    pub worker: Option<Arc<str>>,
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

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Handlers that were dropped because the grace period was over.
    pub abandoned: u64,
}

/// Consumes one step's queue.
pub struct Consumer {
    pub(super) queue: Queue,
    pub(super) step: StepName,
    pub(super) concurrency: usize,
    pub(super) state: ConsumerState,
    grace: Duration,
    pulse: Pulse,
}

impl Queue {
    /// A consumer that runs up to `concurrency` handlers at once and, when told to stop, gives
    /// those that run `grace`.
    pub fn consumer(&self, step: &StepName, concurrency: NonZeroUsize, grace: Duration) -> Consumer {
        Consumer {
            queue: self.clone(),
            step: step.clone(),
            concurrency: concurrency.get(),
            state: ConsumerState::new(concurrency.get()),
            grace,
            pulse: Pulse::default(),
        }
    }
}

impl Consumer {
    /// Beats this pulse, while it runs.
    pub fn beating(self, pulse: Pulse) -> Self {
        Self { pulse, ..self }
    }

    /// How this consumer does, while it runs.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.state.status.subscribe()
    }

    /// One for each handler that may start.
    pub fn places(&self) -> Arc<Semaphore> {
        self.state.permits.clone()
    }

    /// Runs until `shutdown`, through any outage of Redis. Then nothing more is fetched, and
    /// handlers that run may finish within the grace period.
    pub async fn run<Fut>(
        self,
        handler: impl Fn(Delivery) -> Fut + Send + Sync + 'static,
        shutdown: CancellationToken,
    ) -> Drained
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |delivery| handler(delivery).boxed());
        let work = async {
            self.supervise(&handler, &shutdown).await;
            self.drain().await
        };
        let drained = tokio::select! {
            drained = work => drained,
            never = self.keep_up() => match never {},
        };
        lists::tell(&self.queue, &self.step, &self.state.acknowledged).await;
        drained
    }

    async fn supervise(&self, handler: &Handler, shutdown: &CancellationToken) {
        let mut backoff = FIRST_BACKOFF;
        while !shutdown.is_cancelled() {
            let started = Instant::now();
            // Unique per start: apalis-redis refuses a name for 30 s after its last heartbeat.
            let name: Arc<str> = name::unique(self.step.as_str()).into();
            // One life of an apalis worker: until `shutdown` (`Ok`) or an error.
            let ended = match self.queue.shared.config.transport {
                Transport::Lists => lists::work(self, &name, handler.clone(), shutdown).await,
                Transport::ApalisRedis => apalis_redis::work(self, &name, handler.clone(), shutdown).await,
            };
            self.state.status.send_modify(|status| status.worker = None);
            let Err(error) = ended else { continue };
            if started.elapsed() >= STEADY {
                backoff = FIRST_BACKOFF;
            }
            // Once per outage, not once a second.
            if backoff == FIRST_BACKOFF {
                tracing::warn!(step = %self.step, worker = %name, error, "Redis is lost; trying again");
            }
            self.state.status.send_modify(|status| status.rebuilds += 1);
            let _ = time::timeout(backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0), shutdown.cancelled()).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// What goes on beside the worker.
    async fn keep_up(&self) -> Infallible {
        let beating = async {
            let mut every = time::interval(BEAT_EVERY);
            loop {
                every.tick().await;
                self.pulse.beat();
            }
        };
        let upkeep = async {
            match self.queue.shared.config.transport {
                Transport::Lists => lists::keep_acknowledging(&self.queue, &self.step, &self.state.acknowledged).await,
                Transport::ApalisRedis => apalis_redis::keep_swept(&self.queue, &self.step, &self.state).await,
            }
        };
        tokio::select! {
            never = beating => never,
            never = upkeep => never,
        }
    }

    async fn drain(&self) -> Drained {
        self.state.running.close();
        if self.pulse.waiting(time::timeout(self.grace, self.state.running.wait())).await.is_err() {
            self.state.abandon.cancel();
            self.state.running.wait().await;
        }
        let abandoned = self.state.status.borrow().abandoned;
        Drained { abandoned }
    }
}
