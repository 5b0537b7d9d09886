//! The apalis backend of our own transport: as many hints at once as handlers could start now.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    layers::Identity,
    task::{Task, builder::TaskBuilder},
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tokio::time;
use tokio_util::sync::CancellationToken;
use workflows::ids::StepName;

use super::fetch;
use crate::queue::{
    Bell, Consumer, Delivery, Error, Hint, Queue,
    consume::CLOSE_WITHIN,
    service::{ConsumerState, HintService},
};

/// How late a hint may start when its wake was lost.
const TICK: Duration = Duration::from_secs(1);
/// The most that one fetch takes.
const BATCH: usize = 500;

/// One life of an apalis worker: until `shutdown` (`Ok`), or an error of Redis.
pub(in crate::queue) async fn work<H, Fut>(
    consumer: &Consumer,
    name: &Arc<str>,
    handler: H,
    shutdown: &CancellationToken,
) -> Result<(), String>
where
    H: FnMut(Delivery) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let fetching = Fetching {
        bell: consumer.queue.bell(consumer.queue.keys(&consumer.step).wake().to_owned()),
        queue: consumer.queue.clone(),
        step: consumer.step.clone(),
        worker: name.clone(),
        state: consumer.state.clone(),
        shutdown: shutdown.clone(),
        more: true,
    };
    let worker = WorkerBuilder::new(&**name).backend(SortedSets::new(fetching)).build(HintService::new(
        handler,
        name.clone(),
        consumer.state.clone(),
    ));
    let mut running = pin!(worker.run());
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = shutdown.cancelled() => match time::timeout(CLOSE_WITHIN, running).await {
            Ok(ended) => ended,
            Err(_) => return Ok(()),
        },
    };
    match ended {
        Ok(()) if shutdown.is_cancelled() => Ok(()),
        Ok(()) => Err("it ended by itself".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Looks for hints: at once where there may be more, else at each wake, and at a slow tick behind it.
struct Fetching {
    queue: Queue,
    step: StepName,
    worker: Arc<str>,
    state: ConsumerState,
    bell: Bell,
    shutdown: CancellationToken,
    /// The last fetch left some, perhaps.
    more: bool,
}

impl Fetching {
    /// The next hints; none after a shutdown. Called only while the service has a permit in hand, and the others that are
    /// free stay so: the service alone takes them.
    async fn next(&mut self) -> Result<Option<Vec<Hint>>, Error> {
        loop {
            if !self.more {
                tokio::select! {
                    _ = time::timeout(TICK, self.bell.rung()) => {}
                    () = self.shutdown.cancelled() => {}
                }
            }
            if self.shutdown.is_cancelled() {
                return Ok(None);
            }
            let free = (1 + self.state.permits.available_permits()).min(BATCH);
            let fetched = fetch(&self.queue, &self.step, free, &self.state.acknowledged.take()).await?;
            self.state.connected(&self.worker);
            self.more = fetched.len() == free;
            let hints: Vec<Hint> = fetched.iter().filter_map(|text| self.parse(text)).collect();
            if !hints.is_empty() {
                return Ok(Some(hints));
            }
        }
    }

    fn parse(&self, text: &str) -> Option<Hint> {
        let (id, trace) = text.split_once(' ').map_or((text, None), |(id, trace)| (id, Some(trace)));
        match Hint::parse(id, trace) {
            Ok(hint) => Some(hint),
            Err(error) => {
                self.state.garbled(error);
                self.state.acknowledged.add(id.to_owned());
                None
            }
        }
    }
}

struct SortedSets {
    batches: BoxStream<'static, Result<Vec<Hint>, Error>>,
    fetched: VecDeque<Hint>,
}

impl SortedSets {
    fn new(fetching: Fetching) -> Self {
        let batches = stream::try_unfold(fetching, async |mut fetching: Fetching| {
            Ok(fetching.next().await?.map(|hints| (hints, fetching)))
        });
        Self { batches: batches.into_stream().boxed(), fetched: VecDeque::new() }
    }
}

impl Backend for SortedSets {
    type Task = Task<Hint>;
    type Error = Error;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Option<Result<Task<Hint>, Error>>> {
        loop {
            if let Some(hint) = self.fetched.pop_front() {
                return Poll::Ready(Some(Ok(TaskBuilder::new(hint).build())));
            }
            match ready!(self.batches.poll_next_unpin(cx)) {
                Some(Ok(hints)) => self.fetched = hints.into(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    // apalis waits for a stop even where its backend has ended.
                    let _ = worker.stop();
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for SortedSets {
    type Args = Hint;
    type Id = String;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}
