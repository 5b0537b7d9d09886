//! Stopping a consumer in good order.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_runs_and_leaves_the_rest_in_redis() {
    with_both(Options::default(), async |Setup { queue, .. }| {
        let pushed = hints(50);
        push(&queue, &pushed).await;
        let (sender, mut started) = mpsc::unbounded_channel();
        let release = CancellationToken::new();
        let wait = release.clone();
        let (task, _, shutdown) = Consuming::start_with(&queue, 4, SOON, move |mut delivery: Delivery| {
            let (sender, wait) = (sender.clone(), wait.clone());
            async move {
                delivery.acknowledge();
                wait.cancelled().await;
                sender.send(delivery.hint.key).unwrap();
            }
        });
        until_depth(&queue, 46).await;

        shutdown.cancel();
        release.cancel();

        assert_eq!(task.await.unwrap(), 0);
        let mut finished = Vec::new();
        while let Ok(key) = started.try_recv() {
            finished.push(key);
        }
        let left = queue.depth(&step()).await.unwrap() as usize;
        assert_eq!(finished.len() + left, 50);
        let mut second = Consuming::start(&queue, 4);
        finished.extend(second.take(left).await);
        finished.sort();
        assert_eq!(finished, keys(&pushed));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_and_not_claimed_when_the_drain_ends_comes_again() {
    with_both(Options::default(), async |Setup { queue, .. }| {
        let pushed = hints(5);
        push(&queue, &pushed).await;
        let clinging = Clinging::to(&queue, 3).await;

        clinging.shutdown.cancel();
        assert_eq!(clinging.task.await.unwrap(), 3);

        // The handlers are gone, and with them their deliveries; those that the test has in hand
        // are claimed by nobody.
        let mut second = Consuming::start(&queue, 3);
        second.take_all(&queue, &pushed, &mut Vec::new()).await;
    })
    .await;
}

/// Up to what was on its way to a consumer that stopped: a relay's scan finds that.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_come_and_go_under_load_lose_nothing() {
    with_both(Options::default(), async |Setup { queue, .. }| {
        let pushed = hints(600);
        let mut seen = Vec::new();

        for batch in pushed.chunks(20) {
            let mut consuming = Consuming::start(&queue, 3);
            push(&queue, batch).await;
            seen.push(consuming.next().await.key);
            let Consuming { mut deliveries, task, shutdown, .. } = consuming;
            drop(shutdown);
            task.await.unwrap();
            while let Ok(hint) = deliveries.try_recv() {
                seen.push(hint.key);
            }
        }
        let mut last = Consuming::start(&queue, 3);
        last.take_all(&queue, &pushed, &mut seen).await;

        seen.sort();
        seen.dedup();
        assert_eq!(seen, keys(&pushed));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_outlasts_the_grace_period_is_left_to_its_lease() {
    with_both(Options::default(), async |Setup { queue, .. }| {
        push(&queue, &hints(2)).await;
        let (task, _, shutdown) =
            Consuming::start_with(&queue, 2, Duration::from_millis(100), |mut delivery: Delivery| async move {
                delivery.acknowledge();
                std::future::pending().await
            });
        until_depth(&queue, 0).await;

        shutdown.cancel();

        let drained = tokio::time::timeout(SOON, task).await.expect("the drain ends").unwrap();
        assert_eq!(drained, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_while_redis_is_frozen() {
    with_both(Options::default(), async |mut setup: Setup| {
        let mut consuming = Consuming::start(&setup.queue, 2);
        consuming.until_status(|status| status.up).await;

        setup.redis.pause().unwrap();
        let drained = tokio::time::timeout(Duration::from_secs(15), consuming.stop()).await;
        setup.redis.resume().unwrap();

        assert_eq!(drained.expect("the drain ends"), 0);
    })
    .await;
}
