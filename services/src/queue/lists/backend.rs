//! The apalis backend of our own transport: its worker blocks in Redis, which hands it the next
//! hint at once, and asks for as many as handlers could start.

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
    task::{Task, builder::TaskBuilder, task_id::TaskId},
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesOrdered},
};
use redis::{AsyncConnectionConfig, RedisResult, aio::MultiplexedConnection};
use tokio::{sync::OwnedSemaphorePermit, time};
use tokio_util::sync::CancellationToken;
use workflows::ids::StepName;

use super::sweep;
use crate::queue::{
    Consumer, Error, Hint, Queue,
    config::CONNECT_TIMEOUT,
    consume::CLOSE_WITHIN,
    service::{ConsumerState, Handler, HintService},
};

/// How long a worker blocks in Redis before it hears that Redis is still there.
const TICK: Duration = Duration::from_secs(2);
/// How many hints at most are asked for in advance. While one question blocks, Redis has the next
/// ones at hand already, so that they cost neither side a call of its own. A worker that freezes
/// takes so many hints with it, until a sweep forgets them. At most half of a step's permits wait
/// so (one, where there is only one): the others are for runs that the process carries on.
const AHEAD: usize = 16;
/// How long a worker that stops listens for hints that are on their way to it.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// One life of an apalis worker: until `shutdown` (`Ok`), or an error of Redis.
pub(in crate::queue) async fn work(
    consumer: &Consumer,
    name: &Arc<str>,
    handler: Handler,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let connection = connect(&consumer.queue).await.map_err(|error| error.to_string())?;
    consumer.state.connected(name);
    let fetching = Fetching {
        queue: consumer.queue.clone(),
        step: consumer.step.clone(),
        state: consumer.state.clone(),
        connection,
        asked: FuturesOrdered::new(),
        permits: VecDeque::new(),
        ahead: AHEAD.min((consumer.concurrency / 2).max(1)),
        shutdown: shutdown.clone(),
    };
    let hints = stream::try_unfold(fetching, async |mut fetching: Fetching| {
        Ok(fetching.next().await?.map(|hint| (hint, fetching)))
    });
    let lists = Lists { hints: hints.boxed(), tasks: 0 };
    let service = HintService::new(handler, name.clone(), consumer.state.clone());
    let worker = WorkerBuilder::new(&**name).backend(lists).build(service);
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

/// A connection of its own, because nothing else can be asked on one that blocks.
async fn connect(queue: &Queue) -> Result<MultiplexedConnection, Error> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(None);
    queue.ask("connect", queue.shared.link.client.get_multiplexed_async_connection_with_config(&config)).await
}

/// A hint, and the permit that its handler starts with.
pub(in crate::queue) struct Fetched {
    pub(in crate::queue) hint: Hint,
    pub(in crate::queue) permit: OwnedSemaphorePermit,
}

type Answer = RedisResult<Option<(String, String)>>;

/// Asks for hints, never for more than there are permits in hand.
struct Fetching {
    queue: Queue,
    step: StepName,
    state: ConsumerState,
    connection: MultiplexedConnection,
    /// One for each hint that Redis has not handed out yet. It answers them in order.
    asked: FuturesOrdered<BoxFuture<'static, Answer>>,
    permits: VecDeque<OwnedSemaphorePermit>,
    ahead: usize,
    shutdown: CancellationToken,
}

impl Fetching {
    /// The next hint; none after a shutdown.
    async fn next(&mut self) -> Result<Option<Fetched>, Error> {
        let shutdown = self.shutdown.clone();
        while !shutdown.is_cancelled() {
            let answer = tokio::select! {
                answer = self.ask() => answer?,
                () = shutdown.cancelled() => break,
            };
            match answer {
                Some(hint) => return Ok(Some(hint)),
                None => sweep(&self.queue, &self.step).await?,
            }
        }
        // Where hints wait, those that were asked for are on their way. Closing the connection ends
        // the other questions.
        while let Ok(Some(answer)) = time::timeout(LAST_WORDS, self.asked.next()).await {
            if let Some(hint) = answer.ok().flatten().and_then(|(_, hint)| self.start(&hint)) {
                return Ok(Some(hint));
            }
        }
        Ok(None)
    }

    /// Asks in advance, and waits for one answer.
    async fn ask(&mut self) -> Result<Option<Fetched>, Error> {
        if self.asked.is_empty()
            && let Ok(permit) = self.state.permits.clone().acquire_owned().await
        {
            self.ask_one(permit);
        }
        if self.asked.len() <= self.ahead / 2 {
            while self.asked.len() < self.ahead
                && let Ok(permit) = self.state.permits.clone().try_acquire_owned()
            {
                self.ask_one(permit);
            }
        }
        let within = TICK + self.queue.shared.config.command_timeout;
        let asked = self.asked.next().map(|answer| answer.unwrap_or(Ok(None)));
        let answer = self.queue.ask_within(within, "wait for hints", asked).await?;
        match answer {
            Some((_, hint)) => Ok(self.start(&hint)),
            None => {
                self.permits.pop_front();
                Ok(None)
            }
        }
    }

    fn ask_one(&mut self, permit: OwnedSemaphorePermit) {
        let mut call = redis::cmd("BLPOP");
        call.arg(self.queue.keys(&self.step).key("waiting")).arg(TICK.as_secs());
        let mut connection = self.connection.clone();
        self.asked.push_back(async move { call.query_async(&mut connection).await }.boxed());
        self.permits.push_back(permit);
    }

    fn start(&mut self, text: &str) -> Option<Fetched> {
        let permit = self.permits.pop_front()?;
        let (id, trace) = text.split_once(' ').map_or((text, None), |(id, trace)| (id, Some(trace)));
        match Hint::parse(id, trace) {
            Ok(hint) => Some(Fetched { hint, permit }),
            Err(error) => {
                self.state.garbled(error);
                self.state.acknowledged.add(id.to_owned());
                None
            }
        }
    }
}

struct Lists {
    hints: BoxStream<'static, Result<Fetched, Error>>,
    /// How many were handed to apalis.
    tasks: u64,
}

impl Backend for Lists {
    type Task = Task<Fetched>;
    type Error = Error;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Task<Fetched>, Error>>> {
        Poll::Ready(match ready!(self.hints.poll_next_unpin(cx)) {
            Some(fetched) => {
                // An id that no other task of this worker has: with some features apalis insists on
                // it.
                self.tasks += 1;
                let id = TaskId::from_int(self.tasks);
                Some(fetched.map(|hint| TaskBuilder::new(hint).task_id(id).build()))
            }
            None => {
                // apalis waits for a stop even where its backend has ended.
                let _ = worker.stop();
                None
            }
        })
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Lists {
    type Args = Fetched;
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
