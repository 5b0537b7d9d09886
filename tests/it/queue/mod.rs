//! The queue against a real Redis, which each test starts for itself and may kill, freeze or wipe.
//! What holds for one transport holds for both.

mod checks;
mod drains;
mod failover;
mod hints;
mod outages;
mod upkeep;

use std::{collections::BTreeMap, num::NonZeroUsize, time::Duration};

use sluice::{
    ledger::DueKey,
    queue::{Config, Delivery, Hint, HintSink, Prefix, PushReport, Pushed, Queue, Status, Transport},
};
use tests::servers::{Redis, redis::Options, until};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;
use workflows::{
    ids::{RunId, StepName},
    secret::Secret,
};

const SOON: Duration = Duration::from_secs(30);

/// A Redis, and a queue in it.
struct Setup {
    redis: Redis,
    queue: Queue,
    transport: Transport,
}

/// Runs a test with each transport, and a Redis of its own for each.
async fn with_both(options: Options, test: impl AsyncFn(Setup)) {
    for transport in [Transport::Lists, Transport::ApalisRedis] {
        test(Setup::start(options.clone(), transport).await).await;
    }
}

impl Setup {
    async fn start(options: Options, transport: Transport) -> Self {
        // Seen where the test fails.
        eprintln!("{transport:?}");
        let redis = redis(options).await;
        let queue = Queue::connect(&config(&redis.url(), transport)).unwrap();
        Self { redis, queue, transport }
    }

    /// As another process would have it.
    fn another_queue(&self) -> Queue {
        Queue::connect(&config(&self.redis.url(), self.transport)).unwrap()
    }

    fn queue_with_high_water(&self, high_water: u64) -> Queue {
        Queue::connect(&Config { high_water, ..config(&self.redis.url(), self.transport) }).unwrap()
    }

    fn queue_with_prefix(&self, prefix: &str) -> Queue {
        let prefix: Prefix = prefix.parse().unwrap();
        Queue::connect(&Config { prefix, ..config(&self.redis.url(), self.transport) }).unwrap()
    }
}

fn config(url: &str, transport: Transport) -> Config {
    Config { transport, ..Config::new(Secret::new(url), "test".parse().unwrap()) }
}

async fn redis(options: Options) -> Redis {
    Redis::start(options).await.unwrap()
}

async fn command<T: redis::FromRedisValue>(redis: &Redis, line: &str) -> T {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        command.arg(word);
    });
    command.query_async(&mut client.get_multiplexed_async_connection().await.unwrap()).await.unwrap()
}

fn step() -> StepName {
    "create-instance".parse().unwrap()
}

fn hint() -> Hint {
    Hint {
        key: DueKey { run: RunId::new(Uuid::now_v7()), position: 1, generation: 7 },
        trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    }
}

fn hints(count: usize) -> Vec<Hint> {
    (0..count).map(|_| hint()).collect()
}

/// Pushes without a limit.
async fn push(queue: &Queue, hints: &[Hint]) -> PushReport {
    PushReport::of(&queue.push(&step(), hints, None).await.unwrap())
}

/// A consumer on a task of its own; its handler hands each hint to the test.
struct Consuming {
    deliveries: mpsc::UnboundedReceiver<Hint>,
    status: watch::Receiver<Status>,
    task: JoinHandle<u64>,
    shutdown: DropGuard,
}

impl Consuming {
    /// `work` is what the handler does with a delivery.
    fn start_with<Fut>(
        queue: &Queue,
        concurrency: usize,
        grace: Duration,
        work: impl Fn(Delivery) -> Fut + Clone + Send + Sync + 'static,
    ) -> (JoinHandle<u64>, watch::Receiver<Status>, CancellationToken)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let consumer = queue.consumer(&step(), NonZeroUsize::new(concurrency).unwrap(), grace, Default::default());
        let (status, shutdown) = (consumer.status(), CancellationToken::new());
        let task = tokio::spawn(consumer.run(work, shutdown.clone()));
        (task, status, shutdown)
    }

    /// Acknowledges at once and keeps the hint for the test.
    fn start(queue: &Queue, concurrency: usize) -> Self {
        let (sender, deliveries) = mpsc::unbounded_channel();
        let (task, status, shutdown) = Self::start_with(queue, concurrency, SOON, move |mut delivery: Delivery| {
            delivery.acknowledge();
            // The test may have seen enough.
            let _ = sender.send(delivery.hint.clone());
            std::future::ready(())
        });
        Self { deliveries, status, task, shutdown: shutdown.drop_guard() }
    }

    async fn next(&mut self) -> Hint {
        let delivery = tokio::time::timeout(SOON, self.deliveries.recv()).await;
        delivery.expect("a hint was to come").expect("the consumer still runs")
    }

    /// The next `count` hints, sorted.
    async fn take(&mut self, count: usize) -> Vec<DueKey> {
        let mut keys = Vec::with_capacity(count);
        while keys.len() < count {
            keys.push(self.next().await.key);
        }
        keys.sort();
        keys
    }

    /// Takes what comes until all that is `wanted` was seen, and pushes what was not seen every
    /// half second, as a relay's scan does: what a dead worker had in hand comes again.
    async fn take_all(&mut self, queue: &Queue, wanted: &[Hint], seen: &mut Vec<DueKey>) {
        let mut scan = tokio::time::interval(Duration::from_millis(500));
        let mut missing: BTreeMap<DueKey, &Hint> = wanted.iter().map(|hint| (hint.key, hint)).collect();
        missing.retain(|key, _| !seen.contains(key));
        let all = tokio::time::timeout(SOON, async {
            while !missing.is_empty() {
                tokio::select! {
                    Some(hint) = self.deliveries.recv() => {
                        missing.remove(&hint.key);
                        seen.push(hint.key);
                    }
                    _ = scan.tick() => {
                        let hints: Vec<Hint> = missing.values().copied().cloned().collect();
                        let _ = queue.push(&step(), &hints, None).await;
                    }
                }
            }
        });
        assert!(all.await.is_ok(), "{} of {} hints did not come", missing.len(), wanted.len());
    }

    async fn stop(self) -> u64 {
        drop(self.shutdown);
        self.task.await.unwrap()
    }

    async fn until_status(&mut self, condition: impl Fn(&Status) -> bool) {
        until_status(&mut self.status, condition).await;
    }
}

/// A consumer that is given `count` hints and acknowledges none, as a worker whose claims take
/// long.
struct Clinging {
    held: Vec<Delivery>,
    task: JoinHandle<u64>,
    shutdown: CancellationToken,
}

impl Clinging {
    async fn to(queue: &Queue, count: usize) -> Self {
        let (sender, mut deliveries) = mpsc::unbounded_channel();
        let (task, _, shutdown) = Consuming::start_with(queue, count, Duration::ZERO, move |delivery| {
            let _ = sender.send(delivery);
            std::future::pending()
        });
        let mut held = Vec::new();
        while held.len() < count {
            held.push(tokio::time::timeout(SOON, deliveries.recv()).await.unwrap().unwrap());
        }
        Self { held, task, shutdown }
    }

    /// As a process that is killed: no drain, no word to Redis.
    fn die(self) {
        self.task.abort();
        // Dropping them would acknowledge them.
        self.held.into_iter().for_each(std::mem::forget);
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

fn keys(hints: &[Hint]) -> Vec<DueKey> {
    let mut keys: Vec<_> = hints.iter().map(|hint| hint.key).collect();
    keys.sort();
    keys
}
