//! The queue against a real Redis, which each test starts for itself and may kill, freeze or wipe.

mod checks;
mod drains;
mod hints;
mod loss;
mod outages;
mod upkeep;

use std::{num::NonZeroUsize, time::Duration};

use sluice::queue::{Config, Delivery, Drained, Hint, Prefix, Queue, Status};
use tests::servers::{Redis, redis::Options, until};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;
use workflows::{
    ids::{RunId, StepName, Token},
    secret::Secret,
};

const SOON: Duration = Duration::from_secs(30);

async fn redis(options: Options) -> Redis {
    Redis::start(options).await.unwrap()
}

fn queue(redis: &Redis) -> Queue {
    queue_with_prefix(redis, "test")
}

fn queue_with_prefix(redis: &Redis, prefix: &str) -> Queue {
    let prefix: Prefix = prefix.parse().unwrap();
    Queue::connect(&Config::new(Secret::new(redis.url()), prefix)).unwrap()
}

async fn connection(redis: &Redis) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(redis.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn command<T: redis::FromRedisValue>(redis: &Redis, line: &str) -> T {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        command.arg(word);
    });
    command.query_async(&mut connection(redis).await).await.unwrap()
}

fn step() -> StepName {
    "create-instance".parse().unwrap()
}

fn hint() -> Hint {
    Hint {
        run: RunId::new(Uuid::now_v7()),
        position: 1,
        token: Token::new(rand::random()),
        trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    }
}

fn hints(count: usize) -> Vec<Hint> {
    (0..count).map(|_| hint()).collect()
}

/// A consumer on a task of its own; its handler hands each delivery to the test.
struct Consuming {
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    status: watch::Receiver<Status>,
    task: JoinHandle<Drained>,
    shutdown: DropGuard,
}

impl Consuming {
    /// `work` is what the handler does with a delivery.
    fn start_with<Fut>(
        queue: &Queue,
        concurrency: usize,
        grace: Duration,
        work: impl Fn(Delivery) -> Fut + Clone + Send + Sync + 'static,
    ) -> (JoinHandle<Drained>, watch::Receiver<Status>, CancellationToken)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let consumer = queue.consumer(&step(), NonZeroUsize::new(concurrency).unwrap(), grace);
        let (status, shutdown) = (consumer.status(), CancellationToken::new());
        let task = tokio::spawn(consumer.run(work, shutdown.clone()));
        (task, status, shutdown)
    }

    /// Acknowledges at once and keeps the delivery for the test.
    fn start(queue: &Queue, concurrency: usize) -> Self {
        let (sender, deliveries) = mpsc::unbounded_channel();
        let (task, status, shutdown) = Self::start_with(queue, concurrency, SOON, move |mut delivery: Delivery| {
            delivery.acknowledge();
            // The test may have seen enough.
            let _ = sender.send(delivery);
            std::future::ready(())
        });
        Self { deliveries, status, task, shutdown: shutdown.drop_guard() }
    }

    async fn next(&mut self) -> Hint {
        let delivery = tokio::time::timeout(SOON, self.deliveries.recv()).await;
        delivery.expect("a hint was to come").expect("the consumer still runs").hint
    }

    /// The tokens of the next `count` hints, sorted.
    async fn tokens(&mut self, count: usize) -> Vec<Token> {
        let mut tokens = Vec::with_capacity(count);
        while tokens.len() < count {
            tokens.push(self.next().await.token);
        }
        tokens.sort();
        tokens
    }

    async fn stop(self) -> Drained {
        drop(self.shutdown);
        self.task.await.unwrap()
    }

    async fn until_status(&mut self, condition: impl Fn(&Status) -> bool) {
        until_status(&mut self.status, condition).await;
    }
}

async fn until_status(status: &mut watch::Receiver<Status>, condition: impl Fn(&Status) -> bool) {
    let arrived = tokio::time::timeout(SOON, status.wait_for(|status| condition(status))).await.is_ok();
    assert!(arrived, "the consumer did not get there: {:?}", *status.borrow());
}

async fn until_depth(queue: &Queue, wanted: u64) {
    let mut last = None;
    let reached = until(SOON, async || {
        last = queue.depth(&step()).await.ok();
        (last == Some(wanted)).then_some(())
    });
    let reached = reached.await;
    assert!(reached.is_some(), "the depth is {last:?}, not {wanted}");
}

fn tokens(hints: &[Hint]) -> Vec<Token> {
    let mut tokens: Vec<_> = hints.iter().map(|hint| hint.token).collect();
    tokens.sort();
    tokens
}
