//! Hints on their way from a push to a handler.

use sluice::queue::PushReport;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_reaches_a_handler_as_it_was_pushed() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let mut consuming = Consuming::start(&queue, 4);
    let pushed = hint();

    let report = queue.push(&step(), std::slice::from_ref(&pushed)).await.unwrap();

    assert_eq!(report, PushReport { pushed: 1, known: 0 });
    assert_eq!(consuming.next().await, pushed);
    until_depth(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hint_of_a_batch_reaches_exactly_one_of_two_consumers() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let (mut one, mut two) = (Consuming::start(&queue, 8), Consuming::start(&queue, 8));
    let pushed = hints(400);

    queue.push(&step(), &pushed).await.unwrap();

    let mut seen = Vec::new();
    while seen.len() < pushed.len() {
        tokio::select! {
            hint = one.next() => seen.push(hint),
            hint = two.next() => seen.push(hint),
        }
    }
    assert_eq!(tokens(&seen), tokens(&pushed));
    until_depth(&queue, 0).await;
    assert!(one.deliveries.try_recv().is_err() && two.deliveries.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_wakes_for_each_hint() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let mut consuming = Consuming::start(&queue, 1);
    consuming.until_status(|status| status.worker.is_some()).await;

    // Without wakes each of them would wait for the slow tick: twice as long in all.
    let all = tokio::time::timeout(Duration::from_secs(12), async {
        for _ in 0..100 {
            let pushed = hint();
            queue.push(&step(), std::slice::from_ref(&pushed)).await.unwrap();
            assert_eq!(consuming.next().await, pushed);
            until_depth(&queue, 0).await;
        }
    });
    assert!(all.await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn pushing_the_same_tokens_again_says_so_and_makes_no_copy() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let pushed = hints(3);
    queue.push(&step(), &pushed).await.unwrap();

    let again = queue.push(&step(), &pushed).await.unwrap();

    assert_eq!(again, PushReport { pushed: 0, known: 3 });
    assert_eq!(queue.depth(&step()).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_twenty_thousand_hints_is_worked_off() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let pushed = hints(20_000);
    queue.push(&step(), &pushed).await.unwrap();
    assert_eq!(queue.depth(&step()).await.unwrap(), 20_000);

    let mut consuming = Consuming::start(&queue, 50);

    assert_eq!(consuming.tokens(pushed.len()).await, tokens(&pushed));
    assert_eq!(consuming.status.borrow().rebuilds, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_hints_that_still_wait_are_withdrawn() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);
    let (first, rest) = (hint(), hints(150));
    queue.push(&step(), std::slice::from_ref(&first)).await.unwrap();
    let (sender, mut held) = mpsc::unbounded_channel();
    let (_task, _, shutdown) = Consuming::start_with(&queue, 1, Duration::ZERO, move |delivery| {
        // Keeps the delivery unacknowledged, and its hands full.
        sender.send(delivery).unwrap();
        std::future::pending()
    });
    let _shutdown = shutdown.drop_guard();
    let _held = held.recv().await.unwrap();
    queue.push(&step(), &rest).await.unwrap();

    let mut all = rest;
    all.push(first);

    assert_eq!(queue.withdraw(&step(), &all).await.unwrap(), 150);
    assert_eq!(queue.depth(&step()).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_prefixes_in_one_redis_do_not_meet() {
    let redis = redis(Options::default()).await;
    let (ours, theirs) = (queue_with_prefix(&redis, "ours"), queue_with_prefix(&redis, "theirs"));
    let mut consuming = Consuming::start(&ours, 4);
    let (mine, other) = (hint(), hint());

    theirs.push(&step(), std::slice::from_ref(&other)).await.unwrap();
    ours.push(&step(), std::slice::from_ref(&mine)).await.unwrap();

    assert_eq!(consuming.next().await, mine);
    until_depth(&ours, 0).await;
    assert_eq!(theirs.depth(&step()).await.unwrap(), 1);
    assert!(consuming.deliveries.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_waits_is_woken() {
    let redis = redis(Options::default()).await;
    let (worker, relay) = (queue(&redis), queue(&redis));
    let mut bell = relay.relay_bell();

    let woken = until(SOON, async || {
        worker.wake_relay();
        tokio::time::timeout(Duration::from_millis(100), bell.rung()).await.ok()
    });

    assert!(woken.await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_wakes_at_once_become_few() {
    let redis = redis(Options::default()).await;
    let (worker, relay) = (queue(&redis), queue(&redis));
    let mut bell = relay.relay_bell();
    // The first ring says that the listener is connected.
    tokio::time::timeout(SOON, bell.rung()).await.unwrap();

    (0..10_000).for_each(|_| worker.wake_relay());

    let mut rings = 0;
    while tokio::time::timeout(Duration::from_millis(300), bell.rung()).await.is_ok() {
        rings += 1;
    }
    assert!((1..1_000).contains(&rings), "rang {rings} times");
}
