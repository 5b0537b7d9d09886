//! Stopping a consumer in good order.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_runs_and_leaves_the_rest_in_redis() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let pushed = hints(50);
    queue.push(&step(), &pushed).await.unwrap();
    let (sender, mut started) = mpsc::unbounded_channel();
    let release = CancellationToken::new();
    let wait = release.clone();
    let (task, _, shutdown) = Consuming::start_with(&queue, 4, SOON, move |mut delivery: Delivery| {
        let (sender, wait) = (sender.clone(), wait.clone());
        async move {
            delivery.acknowledge();
            let token = delivery.hint.token;
            wait.cancelled().await;
            sender.send(token).unwrap();
        }
    });
    until_depth(&queue, 46).await;

    shutdown.cancel();
    release.cancel();

    assert_eq!(task.await.unwrap(), Drained { abandoned: 0 });
    let mut finished = Vec::new();
    while let Ok(token) = started.try_recv() {
        finished.push(token);
    }
    let left = queue.depth(&step()).await.unwrap() as usize;
    assert_eq!(finished.len() + left, 50);
    let mut second = Consuming::start(&queue, 4);
    finished.extend(second.tokens(left).await);
    finished.sort();
    assert_eq!(finished, tokens(&pushed));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_and_not_claimed_waits_in_redis_when_the_drain_ends() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    queue.push(&step(), &hints(5)).await.unwrap();
    let (sender, mut held) = mpsc::unbounded_channel();
    let (task, _, shutdown) = Consuming::start_with(&queue, 3, Duration::ZERO, move |delivery| {
        sender.send(delivery).unwrap();
        std::future::pending()
    });
    let mut fetched = Vec::new();
    while fetched.len() < 3 {
        fetched.push(tokio::time::timeout(SOON, held.recv()).await.unwrap().unwrap());
    }

    shutdown.cancel();
    task.await.unwrap();

    assert_eq!(command::<usize>(&redis, "LLEN test:create-instance:active").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_come_and_go_under_load_lose_nothing() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let pushed = hints(600);
    let mut seen = Vec::new();

    for batch in pushed.chunks(20) {
        let mut consuming = Consuming::start(&queue, 3);
        queue.push(&step(), batch).await.unwrap();
        seen.push(consuming.next().await);
        let Consuming { mut deliveries, task, shutdown, .. } = consuming;
        drop(shutdown);
        task.await.unwrap();
        while let Ok(delivery) = deliveries.try_recv() {
            seen.push(delivery.hint.clone());
        }
    }
    let mut last = Consuming::start(&queue, 3);
    while queue.depth(&step()).await.unwrap() > 0 {
        if let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_millis(100), last.deliveries.recv()).await {
            seen.push(delivery.hint.clone());
        }
    }
    while let Ok(delivery) = last.deliveries.try_recv() {
        seen.push(delivery.hint.clone());
    }

    let mut seen = tokens(&seen);
    seen.dedup();
    assert_eq!(seen, tokens(&pushed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_outlasts_the_grace_period_is_left_to_its_lease() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    queue.push(&step(), &hints(2)).await.unwrap();
    let (task, _, shutdown) =
        Consuming::start_with(&queue, 2, Duration::from_millis(100), |mut delivery: Delivery| async move {
            delivery.acknowledge();
            std::future::pending().await
        });
    until_depth(&queue, 0).await;

    shutdown.cancel();

    let drained = tokio::time::timeout(SOON, task).await.expect("the drain ends").unwrap();
    assert_eq!(drained, Drained { abandoned: 2 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_while_redis_is_frozen() {
    let mut redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let mut consuming = Consuming::start(&queue, 2);
    consuming.until_status(|status| status.worker.is_some()).await;

    redis.pause().unwrap();
    let drained = tokio::time::timeout(Duration::from_secs(15), consuming.stop()).await;
    redis.resume().unwrap();

    assert_eq!(drained.expect("the drain ends"), Drained { abandoned: 0 });
}
