//! What keeps Redis small and hints moving: the sweep, dead workers, poisoned and foreign tasks.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_depth_counts_what_waits_and_what_is_fetched_and_not_acknowledged() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let (sender, mut held) = mpsc::unbounded_channel();
    let (_task, _, shutdown) = Consuming::start_with(&queue, 3, Duration::ZERO, move |delivery| {
        sender.send(delivery).unwrap();
        std::future::pending()
    });
    let _shutdown = shutdown.drop_guard();
    queue.push(&step(), &hints(10)).await.unwrap();
    let mut fetched = Vec::new();
    while fetched.len() < 3 {
        fetched.push(tokio::time::timeout(SOON, held.recv()).await.unwrap().unwrap());
    }
    assert_eq!(queue.depth(&step()).await.unwrap(), 10);

    fetched.iter_mut().for_each(Delivery::acknowledge);

    until_depth(&queue, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_had_not_acknowledged_is_soon_fetched_by_another() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let pushed = hints(3);
    queue.push(&step(), &pushed).await.unwrap();
    let (sender, mut held) = mpsc::unbounded_channel();
    let (dying, _, _shutdown) = Consuming::start_with(&queue, 3, Duration::ZERO, move |delivery| {
        sender.send(delivery).unwrap();
        std::future::pending()
    });
    let mut fetched = Vec::new();
    while fetched.len() < 3 {
        fetched.push(tokio::time::timeout(SOON, held.recv()).await.unwrap().unwrap());
    }

    // As a killed process would: no drain, no word to Redis.
    dying.abort();
    let mut living = Consuming::start(&queue, 3);

    assert_eq!(living.tokens(3).await, tokens(&pushed));
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_tasks_and_killed_workers_leave_no_keys_behind() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let pushed = hints(2_000);
    queue.push(&step(), &pushed).await.unwrap();
    let mut seen = Vec::new();

    for _ in 0..30 {
        let mut consuming = Consuming::start(&queue, 5);
        seen.extend(consuming.tokens(10).await);
        consuming.task.abort();
        let _ = (&mut consuming.task).await;
        while let Ok(delivery) = consuming.deliveries.try_recv() {
            seen.push(delivery.hint.token);
        }
    }
    let mut last = Consuming::start(&queue, 5);
    let wanted = tokens(&pushed);
    while seen != wanted {
        seen.push(last.next().await.token);
        seen.sort();
        seen.dedup();
    }

    // apalis' list of queues and set of workers, and of the one worker that lives its metadata and sign of life.
    let mut keys = Vec::new();
    let level = until(SOON, async || {
        keys = command::<Vec<String>>(&redis, "KEYS *").await;
        (keys.len() <= 4).then_some(())
    });
    let level = level.await;
    assert!(level.is_some(), "{} keys are left: {:?}", keys.len(), &keys[..keys.len().min(20)]);
    assert_eq!(command::<usize>(&redis, "ZCARD test:create-instance:workers").await, 1);
    last.stop().await;
    assert_eq!(command::<usize>(&redis, "DBSIZE").await, 1, "a consumer that stops leaves apalis' list of queues only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_whose_payload_is_missing_does_not_stop_the_queue() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    queue.push(&step(), &hints(1)).await.unwrap();
    let _: () = command(&redis, "DEL test:create-instance:data").await;
    let healthy = hint();
    queue.push(&step(), std::slice::from_ref(&healthy)).await.unwrap();

    let mut consuming = Consuming::start(&queue, 2);

    assert_eq!(consuming.next().await, healthy);
    until_depth(&queue, 0).await;
    assert_eq!(consuming.status.borrow().rebuilds, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_whose_payload_is_garbage_does_not_stop_the_queue() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let poisoned = hint();
    queue.push(&step(), std::slice::from_ref(&poisoned)).await.unwrap();
    let id = command::<Vec<String>>(&redis, "LRANGE test:create-instance:active 0 -1").await.remove(0);
    let _: () = command(&redis, &format!("HSET test:create-instance:data {id} {{")).await;
    let healthy = hint();
    queue.push(&step(), std::slice::from_ref(&healthy)).await.unwrap();

    let mut consuming = Consuming::start(&queue, 2);

    assert_eq!(consuming.next().await, healthy);
    until_depth(&queue, 0).await;
    assert!(consuming.deliveries.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_not_ours_is_dropped_and_counted() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let _: () = command(&redis, "HSET test:create-instance:data 01ABC null").await;
    let _: () = command(&redis, "HSET test:create-instance:meta:01ABC attempts 0 max_attempts 1 status Pending").await;
    let _: () = command(&redis, "RPUSH test:create-instance:active 01ABC").await;

    let mut consuming = Consuming::start(&queue, 2);

    consuming.until_status(|status| status.garbled == 1).await;
    until_depth(&queue, 0).await;
    assert_eq!(consuming.status.borrow().rebuilds, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_stops_nobody_else() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    queue.push(&step(), &hints(20)).await.unwrap();

    let (_task, mut status, shutdown) =
        Consuming::start_with(&queue, 2, SOON, |_: Delivery| async { panic!("this handler panics") });

    let _shutdown = shutdown.drop_guard();
    until_status(&mut status, |status| status.panics == 20).await;
    until_depth(&queue, 0).await;
    assert_eq!(status.borrow().rebuilds, 0);
}
