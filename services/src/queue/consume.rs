//! The consumer of one step's queue: an apalis worker and the supervisor that rebuilds it.
//!
//! Any error of Redis ends an apalis worker, so ending is ordinary here: the worker is struck off in Redis, which hands
//! back what it had fetched, and the next one starts under a new name (apalis refuses a used one) after a short
//! backoff. Handlers run on and never notice. It must never decide anything about a step.

use std::{num::NonZeroUsize, pin::pin, sync::Arc, time::Duration};

use apalis_core::{
    backend::ext::poll_strategy::PollWith,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_redis::RedisStorage;
use tokio::{
    sync::{Semaphore, watch},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use workflows::ids::StepName;

use super::{
    Delivery, Queue,
    connection::{Lookout, Traffic, Watched},
    handover::{Desk, Handover},
};
use crate::telemetry::health::Pulse;

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// A worker that lived this long has earned a fresh backoff.
const STEADY: Duration = Duration::from_secs(10);
const ALIVE_EVERY: Duration = Duration::from_secs(1);
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long a stopping worker may take to give back what it holds, before Redis takes it.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// apalis' own rescue goes by workers' clocks; ours by Redis' (see `sweep`). So many heartbeats missed is never.
const NEVER: usize = 100_000;

/// How a consumer does: for metrics, `/livez` and logs.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The name of the apalis worker that runs now; none while Redis is away.
    pub worker: Option<Arc<str>>,
    /// How often the worker had to be rebuilt.
    pub rebuilds: u64,
    /// Why it was rebuilt last.
    pub last_error: Option<String>,
    /// Handlers that panicked.
    pub panics: u64,
    /// Handlers that were dropped when the grace period of a drain was over; their leases expire.
    pub abandoned: u64,
    /// Tasks that were not pushed by us.
    pub garbled: u64,
    /// Hints that were handed back for silent workers.
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
    queue: Queue,
    step: StepName,
    concurrency: usize,
    grace: Duration,
    desk: Desk,
    pulse: Pulse,
}

impl Queue {
    /// A consumer that runs up to `concurrency` handlers at once and, when told to stop, gives those that run `grace`.
    pub fn consumer(&self, step: &StepName, concurrency: NonZeroUsize, grace: Duration) -> Consumer {
        Consumer {
            queue: self.clone(),
            step: step.clone(),
            concurrency: concurrency.get(),
            grace,
            desk: Desk {
                permits: Arc::new(Semaphore::new(concurrency.get())),
                running: TaskTracker::new(),
                abandon: CancellationToken::new(),
                status: watch::Sender::default(),
            },
            pulse: Pulse::default(),
        }
    }
}

impl Consumer {
    /// Beats this pulse, while it runs.
    pub fn beating(self, pulse: Pulse) -> Self {
        Self { pulse, ..self }
    }

    /// Tells how this consumer does, while it runs.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.desk.status.subscribe()
    }

    /// Runs until `shutdown`, through any outage of Redis. Then nothing more is fetched, what was fetched and not
    /// started goes back to Redis, and handlers that run may finish within the grace period.
    pub async fn run<H, Fut>(self, handler: H, shutdown: CancellationToken) -> Drained
    where
        H: FnMut(Delivery) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        tokio::select! {
            () = self.supervise(handler, &shutdown) => {}
            () = self.keep_swept() => {}
        }
        self.drain().await
    }

    async fn supervise<H, Fut>(&self, handler: H, shutdown: &CancellationToken)
    where
        H: FnMut(Delivery) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut backoff = FIRST_BACKOFF;
        while !shutdown.is_cancelled() {
            self.pulse.beat();
            let started = Instant::now();
            let name = worker_name(&self.step);
            let ended = self.run_worker(&name, handler.clone(), shutdown).await;
            self.desk.status.send_modify(|status| status.worker = None);
            // Where Redis cannot be reached, another consumer's sweep does this once the name has been silent.
            let _ = self.queue.retire(&self.step, &name).await;
            let Err(error) = ended else { continue };
            if started.elapsed() >= STEADY {
                backoff = FIRST_BACKOFF;
            }
            // Once per outage, not once a second.
            if backoff == FIRST_BACKOFF {
                tracing::warn!(step = %self.step, worker = %name, error, "rebuilding a worker that Redis ended");
            }
            self.desk.status.send_modify(|status| {
                status.rebuilds += 1;
                status.last_error = Some(error);
            });
            let _ = time::timeout(backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0), shutdown.cancelled()).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// One life of an apalis worker: until `shutdown` (`Ok`) or an error.
    async fn run_worker<H, Fut>(&self, name: &Arc<str>, handler: H, shutdown: &CancellationToken) -> Result<(), String>
    where
        H: FnMut(Delivery) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        // Before it registers, or another consumer's sweep would find a registered worker without a sign of life.
        self.queue.keep_alive(&self.step, name).await.map_err(|error| error.to_string())?;
        let traffic = Traffic::new();
        let context = WorkerContext::new(name);
        let worker = WorkerBuilder::new(&context)
            .backend(PollWith::new(
                self.storage(traffic.clone()),
                Lookout::new(self.queue.bell(self.queue.keys(&self.step).wake()), traffic.clone()),
            ))
            .build(Handover::new(handler, name.clone(), self.desk.clone()));
        self.desk.status.send_modify(|status| status.worker = Some(name.clone()));
        let mut running = pin!(worker.run());
        tokio::select! {
            ended = &mut running => match ended {
                Ok(()) => Err("it ended by itself".to_owned()),
                Err(error) => Err(error.to_string()),
            },
            silence = self.stay_alive(name, &traffic) => Err(silence),
            () = shutdown.cancelled() => {
                // Not yet started is the only fault, and then there is nothing to stop.
                if context.stop().is_ok() {
                    let _ = time::timeout(CLOSE_WITHIN, running).await;
                }
                Ok(())
            }
        }
    }

    /// Batches of one: with more, a worker whose handlers are all busy neither sends heartbeats nor acknowledges.
    fn storage(&self, traffic: Arc<Traffic>) -> RedisStorage<(), Watched> {
        let config = &self.queue.shared.config;
        let connection = Watched::new(self.queue.manager(), traffic, config.response_timeout);
        RedisStorage::new(connection).with_config(
            apalis_redis::Config::default()
                .queue(self.queue.keys(&self.step).queue())
                .batch_size(1)
                .lock_tasks(false)
                .emit_events(false)
                .persist_results(true)
                .missed_heartbeats(NEVER),
        )
    }

    /// Gives signs of life to Redis, and ends where the worker gives none though it has hands free: whatever made
    /// it stop looking, a new one looks again.
    async fn stay_alive(&self, name: &str, traffic: &Traffic) -> String {
        let mut every = time::interval(ALIVE_EVERY);
        let limit = self.queue.shared.config.response_timeout + Duration::from_secs(5);
        loop {
            every.tick().await;
            self.pulse.beat();
            // Failing is for the worker itself to notice; missing signs only mean that its hints are handed back.
            let _ = self.queue.keep_alive(&self.step, name).await;
            let silent = traffic.silent_for();
            if self.desk.running.len() < self.concurrency && silent > limit {
                return format!("it has not looked for hints for {silent:?}");
            }
        }
    }

    async fn keep_swept(&self) {
        loop {
            time::sleep(SWEEP_EVERY.mul_f64(0.5 + rand::random::<f64>())).await;
            match self.queue.sweep(&self.step).await {
                Ok(swept) => self.desk.status.send_if_modified(|status| {
                    status.handed_back += swept.handed_back as u64;
                    swept.handed_back > 0
                }),
                Err(_) => continue,
            };
        }
    }

    async fn drain(self) -> Drained {
        self.desk.running.close();
        if self.pulse.waiting(time::timeout(self.grace, self.desk.running.wait())).await.is_err() {
            self.desk.abandon.cancel();
            self.desk.running.wait().await;
        }
        let abandoned = self.desk.status.borrow().abandoned;
        Drained { abandoned }
    }
}

/// Unique per start: apalis refuses a name for 30 s after its last heartbeat.
fn worker_name(step: &StepName) -> Arc<str> {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "local".to_owned());
    format!("{step}-{host}-{}-{:08x}", std::process::id(), rand::random::<u32>()).into()
}
