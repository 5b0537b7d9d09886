//! Redis killed, restarted, restored, frozen and wiped under a consumer that works.

use std::sync::{Arc, Mutex};

use tests::servers::redis::Persistence;
use tokio::sync::oneshot;

use super::*;

/// A consumer with one handler in the middle of its work, which ends when the test says so.
pub(super) struct Working {
    pub(super) task: JoinHandle<u64>,
    pub(super) status: watch::Receiver<Status>,
    shutdown: CancellationToken,
    deliveries: mpsc::UnboundedReceiver<Hint>,
    finish: oneshot::Sender<()>,
    finished: oneshot::Receiver<()>,
}

impl Working {
    pub(super) async fn start(queue: &Queue) -> Self {
        let (finish, wait) = oneshot::channel();
        let (done, finished) = oneshot::channel();
        let first = Arc::new(Mutex::new(Some((wait, done))));
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
        push(queue, &hints(1)).await;
        tokio::time::timeout(SOON, deliveries.recv()).await.unwrap().unwrap();
        Self { task, status, shutdown, deliveries, finish, finished }
    }

    /// Pushes until one of the pushed hints arrives: Redis may still be on its way back.
    pub(super) async fn still_delivers(&mut self, queue: &Queue) {
        let delivered = until(SOON, async || {
            queue.push(&step(), &hints(1), None).await.ok()?;
            tokio::time::timeout(Duration::from_secs(2), self.deliveries.recv()).await.ok()?
        });
        assert!(delivered.await.is_some(), "no hint came through any more");
    }

    pub(super) async fn ends_well(self) {
        self.finish.send(()).expect("the handler was cancelled");
        self.finished.await.expect("the handler was cancelled");
        self.shutdown.cancel();
        assert_eq!(self.task.await.unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_redis_takes_every_hint_anew_and_ends_no_handler() {
    with_both(Options::default(), async |Setup { redis, queue, .. }| {
        let mut working = Working::start(&queue).await;
        let bystanders = hints(3);
        let other: StepName = "verify".parse().unwrap();
        queue.push(&other, &bystanders, None).await.unwrap();

        let _: () = command(&redis, "FLUSHALL").await;

        assert_eq!(queue.push(&other, &bystanders, None).await.unwrap(), [Pushed::New; 3]);
        working.still_delivers(&queue).await;
        working.ends_well().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_wiped_again_and_again_under_load_stops_nothing() {
    with_both(Options::default(), async |Setup { redis, queue, .. }| {
        let mut working = Working::start(&queue).await;

        for _ in 0..10 {
            push(&queue, &hints(200)).await;
            working.deliveries.recv().await.unwrap();
            let _: () = command(&redis, "FLUSHALL").await;
        }

        working.still_delivers(&queue).await;
        working.ends_well().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_restored_from_an_old_snapshot_takes_what_it_lost() {
    with_both(Options::default(), async |mut setup: Setup| {
        let (before, after) = (hints(20), hints(20));
        push(&setup.queue, &before).await;
        let clinging = Clinging::to(&setup.queue, 5).await;
        let _: () = command(&setup.redis, "SAVE").await;
        push(&setup.queue, &after).await;
        clinging.die();

        setup.redis.kill().await.unwrap();
        setup.redis.restart().await.unwrap();

        let queue = setup.another_queue();
        let all = [before, after].concat();
        let mut consuming = Consuming::start(&queue, 4);
        consuming.take_all(&queue, &all, &mut Vec::new()).await;
        until_depth(&queue, 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_ends_no_handler_and_the_consumer_comes_back_with_it() {
    with_both(Options::default(), async |mut setup: Setup| {
        let queue = setup.queue;
        let mut working = Working::start(&queue).await;

        setup.redis.kill().await.unwrap();
        until_status(&mut working.status, |status| status.rebuilds > 2).await;
        assert!(queue.push(&step(), &hints(1), None).await.is_err());
        assert!(queue.depth(&step()).await.is_err());
        assert!(queue.ping().await.is_err());
        setup.redis.restart().await.unwrap();

        working.still_delivers(&queue).await;
        working.ends_well().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_with_its_data_loses_no_waiting_hint() {
    with_both(Options::default().persistence(Persistence::EveryWrite), async |mut setup: Setup| {
        let queue = setup.queue;
        let pushed = hints(300);
        push(&queue, &pushed).await;

        setup.redis.restart().await.unwrap();
        let mut consuming = Consuming::start(&queue, 4);
        let mut seen = consuming.take(100).await;
        setup.redis.restart().await.unwrap();

        // Up to those that were on their way to the consumer: a relay's scan finds them.
        consuming.take_all(&queue, &pushed, &mut seen).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_pause_of_redis_is_not_even_noticed() {
    with_both(Options::default(), async |mut setup: Setup| {
        let queue = setup.queue;
        let mut working = Working::start(&queue).await;

        setup.redis.pause().unwrap();
        let step = step();
        let mut asked = std::pin::pin!(queue.depth(&step));
        let unanswered = tokio::time::timeout(Duration::from_millis(800), &mut asked).await;
        setup.redis.resume().unwrap();

        assert!(unanswered.is_err(), "Redis answered while it stood still");
        asked.await.unwrap();
        working.still_delivers(&queue).await;
        assert_eq!(working.status.borrow().rebuilds, 0);
        working.ends_well().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_long_pause_of_redis_every_call_ends() {
    with_both(Options::default(), async |mut setup: Setup| {
        let queue = setup.queue;
        let mut working = Working::start(&queue).await;

        setup.redis.pause().unwrap();
        for _ in 0..2 {
            let (step, hints) = (step(), hints(1));
            let calls = async { (queue.push(&step, &hints, None).await, queue.depth(&step).await) };
            let ended = tokio::time::timeout(Duration::from_secs(5), calls).await;
            assert!(matches!(ended, Ok((Err(_), Err(_)))), "{ended:?}");
        }
        setup.redis.resume().unwrap();

        working.still_delivers(&queue).await;
        working.ends_well().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_started_without_redis_begins_when_it_comes() {
    with_both(Options::default(), async |mut setup: Setup| {
        setup.redis.kill().await.unwrap();
        let queue = setup.another_queue();
        let mut consuming = Consuming::start(&queue, 4);
        consuming.until_status(|status| status.rebuilds > 1).await;

        setup.redis.restart().await.unwrap();

        let delivered = until(SOON, async || {
            queue.push(&step(), &hints(1), None).await.ok()?;
            tokio::time::timeout(Duration::from_secs(2), consuming.deliveries.recv()).await.ok()?
        });
        assert!(delivered.await.is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_relay_is_woken_again_after_a_restart() {
    let mut setup = Setup::start(Options::default(), Transport::Lists).await;
    let (worker, relay) = (setup.another_queue(), setup.another_queue());
    let mut bell = relay.relay_bell();
    tokio::time::timeout(SOON, bell.rung()).await.unwrap();

    setup.redis.kill().await.unwrap();
    setup.redis.restart().await.unwrap();

    // Once for the connection that was found again, then for each wake.
    tokio::time::timeout(SOON, bell.rung()).await.unwrap();
    let woken = until(SOON, async || {
        worker.wake_relay();
        tokio::time::timeout(Duration::from_millis(100), bell.rung()).await.ok()
    });
    assert!(woken.await.is_some());
}
