//! The transport of the crate apalis-redis, contained: our own push in its layout, a connection
//! that is watched (`watched`), and a sweep that goes by Redis' clock (`sweep`).
//!
//! The keys of a queue: `data` (hash: id to payload), `meta:<id>` (hash), `active` (list of the ids
//! that wait), `scheduled` (sorted set; ours never go there), `inflight:<worker>` (set: fetched and
//! not acknowledged), `done` and `dead` (sets), `workers` (sorted set), `workers:metadata:<worker>`
//! (hash); and of our own `alive:<worker>`, which Redis' clock expires.

mod sweep;
mod watched;

use std::{
    pin::pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use apalis_core::{
    backend::ext::poll_strategy::PollWith,
    error::BoxDynError,
    layers::Service,
    task::Task,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_redis::RedisStorage;
use futures::{FutureExt, future::BoxFuture};
use redis::Script;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time,
};
use tokio_util::sync::{CancellationToken, PollSemaphore};
use workflows::ids::StepName;

pub(super) use self::sweep::keep_swept;
use self::watched::{Traffic, WakePolling, Watched};
use super::{
    Consumer, Delivery, Error, Hint, Queue,
    config::RESPONSE_TIMEOUT,
    consume::{CLOSE_WITHIN, Handle},
};

static PUSH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/push.lua")));
static DEPTH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/depth.lua")));

const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// apalis' own rescue goes by workers' clocks; ours by Redis' (see `sweep`). So many heartbeats
/// missed is never.
const NEVER: usize = 100_000;

/// A letter for each hint, up to the first one that there was no capacity for.
pub(super) async fn push(queue: &Queue, step: &StepName, hints: &[Hint], most: Option<usize>) -> Result<String, Error> {
    let keys = queue.keys(step);
    let mut call = PUSH.key(keys.key("data"));
    call.key(keys.key("active")).key(keys.key("meta")).key(keys.key("workers"));
    call.arg(keys.key("inflight")).arg(queue.capacity(most)).arg(&keys.wake);
    for hint in hints {
        call.arg(hint.id()).arg(hint.trace.as_deref().unwrap_or(""));
    }
    queue.ask("push hints", call.invoke_async(&mut queue.connection())).await
}

pub(super) async fn depth(queue: &Queue, step: &StepName) -> Result<u64, Error> {
    let keys = queue.keys(step);
    let mut call = DEPTH.key(keys.key("active"));
    call.key(keys.key("scheduled")).key(keys.key("workers")).arg(keys.key("inflight"));
    queue.ask("read the depth", call.invoke_async(&mut queue.connection())).await
}

/// One life of an apalis worker: until `shutdown` (`Ok`) or an error. It is struck off at its end,
/// which hands back what it had fetched; where Redis cannot be reached, another consumer's sweep
/// does that once the name has been silent.
pub(super) async fn work(
    consumer: &Arc<Consumer>,
    name: &str,
    handle: Handle,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let ended = live(consumer, name, handle, shutdown).await;
    let _ = consumer.queue.retire(&consumer.step, name).await;
    ended
}

async fn live(
    consumer: &Arc<Consumer>,
    name: &str,
    handle: Handle,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let (queue, step) = (&consumer.queue, &consumer.step);
    // Before it registers, or another consumer's sweep would find a registered worker without a
    // sign of life.
    queue.keep_alive(step, name).await.map_err(|error| error.to_string())?;
    let traffic = Traffic::new();
    let context = WorkerContext::new(name);
    let polling = WakePolling::new(queue.bell(queue.keys(step).wake), traffic.clone());
    let backend = PollWith::new(storage(queue, step, traffic.clone()), polling);
    let permits = PollSemaphore::new(consumer.permits.clone());
    let service = HintService { consumer: consumer.clone(), handle, permits, permit: None };
    let worker = WorkerBuilder::new(&context).backend(backend).build(service);
    consumer.connected();
    let mut running = pin!(worker.run());
    tokio::select! {
        ended = &mut running => match ended {
            Ok(()) => Err("it ended by itself".to_owned()),
            Err(error) => Err(error.to_string()),
        },
        silence = stay_alive(consumer, name, &traffic) => Err(silence),
        () = shutdown.cancelled() => {
            // Not yet started is the only fault, and then there is nothing to stop.
            if context.stop().is_ok() {
                let _ = time::timeout(CLOSE_WITHIN, running).await;
            }
            Ok(())
        }
    }
}

/// Batches of one: with more, a worker whose handlers are all busy neither sends heartbeats nor
/// acknowledges.
fn storage(queue: &Queue, step: &StepName, traffic: Arc<Traffic>) -> RedisStorage<(), Watched> {
    let keys = queue.keys(step);
    RedisStorage::new(Watched::new(queue, keys.clone(), traffic)).with_config(
        apalis_redis::Config::default()
            .queue(&keys.queue)
            .batch_size(1)
            .lock_tasks(false)
            .emit_events(false)
            .persist_results(true)
            .missed_heartbeats(NEVER),
    )
}

/// Gives signs of life to Redis, and ends where the worker gives none though it has hands free:
/// whatever made it stop looking, a new one looks again.
async fn stay_alive(consumer: &Consumer, name: &str, traffic: &Traffic) -> String {
    let mut every = time::interval(ALIVE_EVERY);
    let limit = RESPONSE_TIMEOUT + Duration::from_secs(5);
    loop {
        every.tick().await;
        // Failing is for the worker itself to notice; missing signs only mean that its hints are
        // handed back.
        let _ = consumer.queue.keep_alive(&consumer.step, name).await;
        let silent = traffic.silent_for();
        if consumer.running.len() < consumer.concurrency && silent > limit {
            return format!("it has not looked for hints for {silent:?}");
        }
    }
}

/// What the worker calls for each task, which waits for the acknowledgement.
struct HintService {
    consumer: Arc<Consumer>,
    handle: Handle,
    permits: PollSemaphore,
    /// Taken before apalis-redis fetches.
    permit: Option<OwnedSemaphorePermit>,
}

impl Service<Task<()>> for HintService {
    type Response = ();
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<(), BoxDynError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        if self.permit.is_none() {
            self.permit = ready!(self.permits.poll_acquire(cx));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<()>) -> Self::Future {
        let permit = self.permit.take();
        let id = task.task_id().map(ToString::to_string).unwrap_or_default();
        let (awaited, answered) = oneshot::channel();
        match Hint::parse(&id, task.metadata().get("traceparent")) {
            Ok(hint) => (self.handle)(Delivery::new(hint, permit, move || {
                // Nobody listens where the worker ended meanwhile; then the hint comes again, and
                // its claim finds nothing to do.
                let _ = awaited.send(());
            })),
            Err(error) => self.consumer.garbled(error),
        }
        // A task that ends in an error would be scheduled again by apalis: the ledger alone decides
        // about that.
        answered.map(|_| Ok(())).boxed()
    }
}
