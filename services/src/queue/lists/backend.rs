//! The worker of our own transport: apalis' own backend for streams, over one that blocks in Redis,
//! which hands it the next hint at once, and asks for as many as handlers could start.

use std::{future, sync::Arc, time::Duration};

use apalis_core::worker::{builder::WorkerBuilder, context::WorkerContext};
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, FuturesOrdered},
};
use redis::{AsyncConnectionConfig, RedisResult, aio::MultiplexedConnection};
use tokio::{sync::OwnedSemaphorePermit, time};
use tokio_util::sync::CancellationToken;

use super::sweep;
use crate::queue::{
    Consumer, Delivery, Error, Hint, Queue,
    config::{COMMAND_TIMEOUT, CONNECT_TIMEOUT},
    consume::{CLOSE_WITHIN, Handle},
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

/// One life of an apalis worker: until `shutdown` (`Ok`), or an error of Redis. apalis is done with
/// a hint at once.
pub(in crate::queue) async fn work(
    consumer: &Arc<Consumer>,
    name: &str,
    handle: Handle,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let connection = connect(&consumer.queue).await.map_err(|error| error.to_string())?;
    consumer.connected();
    let context = WorkerContext::new(name);
    let fetching = Fetching {
        consumer: consumer.clone(),
        worker: context.clone(),
        connection,
        asked: FuturesOrdered::new(),
        ahead: AHEAD.min((consumer.concurrency / 2).max(1)),
        shutdown: shutdown.clone(),
    };
    let hints = stream::try_unfold(fetching, async |mut fetching: Fetching| {
        Ok::<_, Error>(fetching.next().await?.map(|hint| (hint, fetching)))
    });
    let start = move |delivery: Delivery| {
        handle(delivery);
        future::ready(())
    };
    let worker = WorkerBuilder::new(&context).backend(hints.boxed()).build(start);
    let mut running = worker.run().boxed();
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = shutdown.cancelled() => time::timeout(CLOSE_WITHIN, running).await.unwrap_or(Ok(())),
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

/// A hint as Redis has it, and the permit that its handler starts with. None where none came.
type Answer = RedisResult<Option<(String, OwnedSemaphorePermit)>>;

/// Asks for hints, never for more than there are permits in hand.
struct Fetching {
    consumer: Arc<Consumer>,
    worker: WorkerContext,
    connection: MultiplexedConnection,
    /// One for each hint that Redis has not handed out yet. It answers them in order.
    asked: FuturesOrdered<BoxFuture<'static, Answer>>,
    ahead: usize,
    shutdown: CancellationToken,
}

impl Fetching {
    /// The next hint; none after a shutdown.
    async fn next(&mut self) -> Result<Option<Delivery>, Error> {
        let shutdown = self.shutdown.clone();
        while !shutdown.is_cancelled() {
            let answer = tokio::select! {
                answer = self.ask() => answer?,
                () = shutdown.cancelled() => break,
            };
            match answer {
                Some(hint) => return Ok(Some(hint)),
                None => sweep(&self.consumer.queue, &self.consumer.step).await?,
            }
        }
        // Where hints wait, those that were asked for are on their way. Closing the connection ends
        // the other questions.
        while let Ok(Some(answer)) = time::timeout(LAST_WORDS, self.asked.next()).await {
            if let Some(hint) = answer.ok().flatten().and_then(|(hint, permit)| self.deliver(&hint, permit)) {
                return Ok(Some(hint));
            }
        }
        // apalis waits for a stop even where its backend has ended.
        let _ = self.worker.stop();
        Ok(None)
    }

    /// Asks in advance, and waits for one answer.
    async fn ask(&mut self) -> Result<Option<Delivery>, Error> {
        if self.asked.is_empty()
            && let Ok(permit) = self.consumer.permits.clone().acquire_owned().await
        {
            self.ask_one(permit);
        }
        if self.asked.len() <= self.ahead / 2 {
            while self.asked.len() < self.ahead
                && let Ok(permit) = self.consumer.permits.clone().try_acquire_owned()
            {
                self.ask_one(permit);
            }
        }
        let queue = &self.consumer.queue;
        let within = TICK + COMMAND_TIMEOUT;
        let asked = self.asked.next().map(|answer| answer.unwrap_or(Ok(None)));
        let answer = queue.ask_within(within, "wait for hints", asked).await?;
        Ok(answer.and_then(|(hint, permit)| self.deliver(&hint, permit)))
    }

    fn ask_one(&mut self, permit: OwnedSemaphorePermit) {
        let Consumer { queue, step, .. } = &*self.consumer;
        let mut call = redis::cmd("BLPOP");
        call.arg(queue.keys(step).key("waiting")).arg(TICK.as_secs());
        let mut connection = self.connection.clone();
        let asking = async move {
            let answer: Option<(String, String)> = call.query_async(&mut connection).await?;
            Ok(answer.map(|(_, hint)| (hint, permit)))
        };
        self.asked.push_back(asking.boxed());
    }

    fn deliver(&self, text: &str, permit: OwnedSemaphorePermit) -> Option<Delivery> {
        let (id, trace) = text.split_once(' ').map_or((text, None), |(id, trace)| (id, Some(trace)));
        let (consumer, answered) = (self.consumer.clone(), id.to_owned());
        let acknowledge = move || consumer.acknowledged.add(answered);
        match Hint::parse(id, trace) {
            Ok(hint) => Some(Delivery::new(hint, Some(permit), acknowledge)),
            Err(error) => {
                self.consumer.garbled(error);
                acknowledge();
                None
            }
        }
    }
}
