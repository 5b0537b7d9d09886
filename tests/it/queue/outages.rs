//! Redis killed, restarted, frozen and wiped under a consumer that works.

use tests::servers::redis::Persistence;
use tokio::sync::oneshot;

use super::*;

/// A consumer with one handler in the middle of its work, which ends when the test says so.
struct Working {
    task: JoinHandle<Drained>,
    status: watch::Receiver<Status>,
    shutdown: CancellationToken,
    deliveries: mpsc::UnboundedReceiver<Hint>,
    finish: oneshot::Sender<()>,
    finished: oneshot::Receiver<()>,
}

impl Working {
    async fn start(queue: &Queue) -> Self {
        let (finish, wait) = oneshot::channel();
        let (done, finished) = oneshot::channel();
        let first = std::sync::Arc::new(std::sync::Mutex::new(Some((wait, done))));
        let (sender, mut deliveries) = mpsc::unbounded_channel();
        let (task, status, shutdown) = Consuming::start_with(queue, 4, SOON, move |mut delivery: Delivery| {
            let work = first.lock().unwrap().take();
            let sender = sender.clone();
            async move {
                delivery.acknowledge();
                let _ = sender.send(delivery.hint.clone());
                if let Some((wait, done)) = work {
                    wait.await.unwrap();
                    done.send(()).unwrap();
                }
            }
        });
        queue.push(&step(), &hints(1)).await.unwrap();
        tokio::time::timeout(SOON, deliveries.recv()).await.unwrap().unwrap();
        Self { task, status, shutdown, deliveries, finish, finished }
    }

    /// Pushes until one of the pushed hints arrives: Redis may still be on its way back.
    async fn still_delivers(&mut self, queue: &Queue) {
        let delivered = until(SOON, async || {
            queue.push(&step(), &hints(1)).await.ok()?;
            tokio::time::timeout(Duration::from_secs(2), self.deliveries.recv()).await.ok()?
        });
        assert!(delivered.await.is_some(), "no hint came through any more");
    }

    async fn ends_well(self) {
        self.finish.send(()).expect("the handler was cancelled");
        self.finished.await.expect("the handler was cancelled");
        self.shutdown.cancel();
        assert_eq!(self.task.await.unwrap(), Drained { abandoned: 0 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_redis_ends_no_handler_and_the_consumer_goes_on() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let mut working = Working::start(&queue).await;

    let _: () = command(&redis, "FLUSHALL").await;

    until_status(&mut working.status, |status| status.rebuilds > 0 && status.worker.is_some()).await;
    working.still_delivers(&queue).await;
    working.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_wiped_again_and_again_under_load_stops_nothing() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let mut working = Working::start(&queue).await;

    for _ in 0..10 {
        queue.push(&step(), &hints(200)).await.unwrap();
        working.deliveries.recv().await.unwrap();
        let _: () = command(&redis, "FLUSHALL").await;
    }

    working.still_delivers(&queue).await;
    working.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_ends_no_handler_and_the_consumer_comes_back_with_it() {
    let mut redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let mut working = Working::start(&queue).await;

    redis.kill().await.unwrap();
    until_status(&mut working.status, |status| status.rebuilds > 2).await;
    assert!(queue.push(&step(), &hints(1)).await.is_err());
    assert!(queue.depth(&step()).await.is_err());
    redis.restart().await.unwrap();

    working.still_delivers(&queue).await;
    working.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_with_its_data_loses_no_waiting_hint() {
    let mut redis = redis(Options::default().persistence(Persistence::EveryWrite)).await;
    let queue = queue(&redis);
    let pushed = hints(300);
    queue.push(&step(), &pushed).await.unwrap();

    redis.restart().await.unwrap();
    let mut consuming = Consuming::start(&queue, 4);
    let mut seen = consuming.tokens(100).await;
    redis.restart().await.unwrap();

    // What was handed over and not acknowledged comes again: at least once, and the claim sorts it out.
    let wanted = tokens(&pushed);
    while seen != wanted {
        seen.push(consuming.next().await.token);
        seen.sort();
        seen.dedup();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_pause_of_redis_is_not_even_noticed() {
    let mut redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let mut working = Working::start(&queue).await;

    redis.pause().unwrap();
    let step = step();
    let mut asked = std::pin::pin!(queue.depth(&step));
    let unanswered = tokio::time::timeout(Duration::from_millis(800), &mut asked).await;
    redis.resume().unwrap();

    assert!(unanswered.is_err(), "Redis answered while it stood still");
    asked.await.unwrap();
    working.still_delivers(&queue).await;
    assert_eq!(working.status.borrow().rebuilds, 0);
    working.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_long_pause_of_redis_every_call_ends() {
    let mut redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let mut working = Working::start(&queue).await;

    redis.pause().unwrap();
    for _ in 0..2 {
        let (step, hints) = (step(), hints(1));
        let calls = async { (queue.push(&step, &hints).await, queue.depth(&step).await) };
        let ended = tokio::time::timeout(Duration::from_secs(5), calls).await;
        assert!(matches!(ended, Ok((Err(_), Err(_)))), "{ended:?}");
    }
    redis.resume().unwrap();

    working.still_delivers(&queue).await;
    working.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_started_without_redis_begins_when_it_comes() {
    let mut redis = redis(Options::default()).await;
    redis.kill().await.unwrap();
    let queue = queue(&redis);
    let mut consuming = Consuming::start(&queue, 4);
    consuming.until_status(|status| status.rebuilds > 1).await;

    redis.restart().await.unwrap();

    let delivered = until(SOON, async || {
        queue.push(&step(), &hints(1)).await.ok()?;
        tokio::time::timeout(Duration::from_secs(2), consuming.deliveries.recv()).await.ok()?
    });
    assert!(delivered.await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_relay_is_woken_again_after_a_restart() {
    let mut redis = redis(Options::default()).await;
    let (worker, relay) = (queue(&redis), queue(&redis));
    let mut bell = relay.relay_bell();
    tokio::time::timeout(SOON, bell.rung()).await.unwrap();

    redis.kill().await.unwrap();
    redis.restart().await.unwrap();

    // Once for the connection that was found again, then for each wake.
    tokio::time::timeout(SOON, bell.rung()).await.unwrap();
    let woken = until(SOON, async || {
        worker.wake_relay();
        tokio::time::timeout(Duration::from_millis(100), bell.rung()).await.ok()
    });
    assert!(woken.await.is_some());
}
