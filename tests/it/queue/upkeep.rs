//! What keeps Redis small and hints moving: dead workers, and what was not pushed by us.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_depth_counts_what_waits_and_what_is_fetched_and_not_acknowledged() {
    with_both(Options::default(), async |Setup { queue, .. }| {
        push(&queue, &hints(10)).await;
        let mut clinging = Clinging::to(&queue, 3).await;
        assert_eq!(queue.depth(&step()).await.unwrap(), 10);

        clinging.held.iter_mut().for_each(Delivery::acknowledge);

        until_depth(&queue, 7).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_had_not_acknowledged_comes_again_to_another() {
    with_both(Options::default(), async |setup: Setup| {
        let queue = setup.another_queue();
        let pushed = hints(3);
        push(&queue, &pushed).await;
        let dying = Clinging::to(&setup.queue, 3).await;

        dying.die();

        // It might live, and claim them yet.
        assert_eq!(push(&queue, &pushed).await, PushReport { pushed: 0, known: 3, left: 0 });
        let mut living = Consuming::start(&queue, 3);
        living.take_all(&queue, &pushed, &mut Vec::new()).await;
        until_depth(&queue, 0).await;
    })
    .await;
}

/// A relay's scan alone: there may be no worker for a long time.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_had_not_acknowledged_is_new_two_seconds_later() {
    let setup = Setup::start(Options::default(), Transport::Lists).await;
    let queue = setup.another_queue();
    let pushed = hints(3);
    push(&queue, &pushed).await;
    let dying = Clinging::to(&setup.queue, 3).await;

    dying.die();

    let died = tokio::time::Instant::now();
    let new = until(SOON, async || (push(&queue, &pushed).await.pushed == 3).then_some(died.elapsed()));
    let new = new.await.expect("a push is new again");
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&new), "after {new:?}");
    assert_eq!(queue.depth(&step()).await.unwrap(), 3);
}

/// They would take the place of others where only a few may lie in Redis.
#[tokio::test(flavor = "multi_thread")]
async fn hints_that_died_with_their_worker_and_are_due_no_more_are_forgotten() {
    with_both(Options::default(), async |setup: Setup| {
        let queue = setup.another_queue();
        push(&queue, &hints(3)).await;
        let dying = Clinging::to(&setup.queue, 3).await;
        dying.die();

        let _living = Consuming::start(&queue, 3);

        until_depth(&queue, 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_hints_and_killed_workers_leave_no_keys_behind() {
    with_both(Options::default(), async |setup: Setup| {
        let queue = setup.queue_with_high_water(2_000);
        let pushed = hints(2_000);
        push(&queue, &pushed).await;
        let mut seen = Vec::new();

        for _ in 0..30 {
            let mut consuming = Consuming::start(&queue, 5);
            seen.extend(consuming.take(10).await);
            consuming.task.abort();
            let _ = (&mut consuming.task).await;
            while let Ok(hint) = consuming.deliveries.try_recv() {
                seen.push(hint.key);
            }
        }
        let mut last = Consuming::start(&queue, 5);
        last.take_all(&queue, &pushed, &mut seen).await;

        // Of the one worker of apalis-redis that lives: that it is registered, its metadata, and
        // its sign of life.
        let most = if setup.transport == Transport::Lists { 0 } else { 3 };
        let mut keys = Vec::new();
        let level = until(SOON, async || {
            keys = command::<Vec<String>>(&setup.redis, "KEYS *").await;
            (keys.len() <= most).then_some(())
        });
        let level = level.await;
        assert!(level.is_some(), "{} keys are left: {:?}", keys.len(), &keys[..keys.len().min(20)]);
        last.stop().await;
        assert_eq!(command::<usize>(&setup.redis, "DBSIZE").await, 0);
    })
    .await;
}

/// With one user for each Sluice in a Redis that several share.
#[tokio::test(flavor = "multi_thread")]
async fn every_key_and_channel_begins_with_the_prefix() {
    let rights = Options::default().set("user", "default on nopass ~test:* &test:* +@all -@dangerous");
    with_both(rights, async |Setup { queue, .. }| {
        let mut bell = queue.relay_bell();
        let (mut one, two) = (Consuming::start(&queue, 2), Consuming::start(&queue, 2));
        let pushed = hints(20);

        push(&queue, &pushed).await;
        two.stop().await;
        one.take_all(&queue, &pushed, &mut Vec::new()).await;
        until_depth(&queue, 0).await;
        queue.wake_relay();

        tokio::time::timeout(SOON, bell.rung()).await.unwrap();
        queue.ping().await.unwrap();
        assert_eq!(one.status.borrow().rebuilds, 0, "{:?}", *one.status.borrow());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_whose_payload_is_missing_does_not_stop_the_queue() {
    let Setup { redis, queue, .. } = Setup::start(Options::default(), Transport::ApalisRedis).await;
    push(&queue, &hints(1)).await;
    let _: () = command(&redis, "DEL test:create-instance:data").await;
    let healthy = hint();
    push(&queue, std::slice::from_ref(&healthy)).await;

    let mut consuming = Consuming::start(&queue, 2);

    assert_eq!(consuming.next().await, healthy);
    until_depth(&queue, 0).await;
    assert_eq!(consuming.status.borrow().rebuilds, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_whose_payload_is_garbage_does_not_stop_the_queue() {
    let Setup { redis, queue, .. } = Setup::start(Options::default(), Transport::ApalisRedis).await;
    let poisoned = hint();
    push(&queue, std::slice::from_ref(&poisoned)).await;
    let id = command::<Vec<String>>(&redis, "LRANGE test:create-instance:active 0 -1").await.remove(0);
    let _: () = command(&redis, &format!("HSET test:create-instance:data {id} {{")).await;
    let healthy = hint();
    push(&queue, std::slice::from_ref(&healthy)).await;

    let mut consuming = Consuming::start(&queue, 2);

    assert_eq!(consuming.next().await, healthy);
    until_depth(&queue, 0).await;
    assert!(consuming.deliveries.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_that_is_not_ours_is_dropped_and_counted() {
    with_both(Options::default(), async |Setup { redis, queue, transport }| {
        let foreign: &[&str] = match transport {
            Transport::Lists => &["ZADD test:create-instance:held 0 01ABC", "RPUSH test:create-instance:waiting 01ABC"],
            Transport::ApalisRedis => &[
                "HSET test:create-instance:data 01ABC null",
                "HSET test:create-instance:meta:01ABC attempts 0 max_attempts 1 status Pending",
                "RPUSH test:create-instance:active 01ABC",
            ],
        };
        for line in foreign {
            let _: redis::Value = command(&redis, line).await;
        }

        let mut consuming = Consuming::start(&queue, 2);

        consuming.until_status(|status| status.garbled == 1).await;
        until_depth(&queue, 0).await;
        assert_eq!(consuming.status.borrow().rebuilds, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_kind_stops_nobody_for_ever() {
    let Setup { redis, queue, .. } = Setup::start(Options::default(), Transport::Lists).await;
    let _: () = command(&redis, "SET test:create-instance:waiting 1").await;
    let mut consuming = Consuming::start(&queue, 2);
    consuming.until_status(|status| status.rebuilds > 1).await;
    assert!(queue.push(&step(), &hints(2), None).await.is_err());

    let _: () = command(&redis, "DEL test:create-instance:waiting").await;

    let pushed = hints(2);
    consuming.take_all(&queue, &pushed, &mut Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_stops_nobody_else() {
    with_both(Options::default(), async |Setup { queue, .. }| {
        push(&queue, &hints(20)).await;

        let (_task, mut status, shutdown) =
            Consuming::start_with(&queue, 2, SOON, |_: Delivery| async { panic!("this handler panics") });

        let _shutdown = shutdown.drop_guard();
        until_status(&mut status, |status| status.panics == 20).await;
        until_depth(&queue, 0).await;
        assert_eq!(status.borrow().rebuilds, 0);
    })
    .await;
}
