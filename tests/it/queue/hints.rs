//! Hints on their way from a push to a handler.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_reaches_a_handler_as_it_was_pushed() {
    with_both(Options::default(), async |Setup { queue, .. }| {
        let mut consuming = Consuming::start(&queue, 4);
        let (traced, bare) = (hint(), Hint { trace: None, ..hint() });

        for pushed in [traced, bare] {
            let outcomes = queue.push(&step(), std::slice::from_ref(&pushed), None).await.unwrap();

            assert_eq!(outcomes, [Pushed::New]);
            assert_eq!(consuming.next().await, pushed);
        }
        until_depth(&queue, 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hint_of_a_batch_reaches_exactly_one_of_two_consumers() {
    with_both(Options::default(), async |Setup { queue, .. }| {
        let (mut one, mut two) = (Consuming::start(&queue, 8), Consuming::start(&queue, 8));
        let pushed = hints(400);

        push(&queue, &pushed).await;

        let mut seen = Vec::new();
        while seen.len() < pushed.len() {
            tokio::select! {
                hint = one.next() => seen.push(hint),
                hint = two.next() => seen.push(hint),
            }
        }
        assert_eq!(keys(&seen), keys(&pushed));
        until_depth(&queue, 0).await;
        assert!(one.deliveries.try_recv().is_err() && two.deliveries.try_recv().is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_come_in_the_order_of_their_push() {
    with_both(Options::default(), async |Setup { queue, .. }| {
        let pushed = hints(60);
        push(&queue, &pushed[..30]).await;
        for one in &pushed[30..] {
            push(&queue, std::slice::from_ref(one)).await;
        }

        let mut consuming = Consuming::start(&queue, 1);

        for expected in &pushed {
            assert_eq!(consuming.next().await, *expected);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_wakes_for_each_hint() {
    with_both(Options::default(), async |Setup { queue, .. }| {
        let mut consuming = Consuming::start(&queue, 1);
        consuming.until_status(|status| status.up).await;

        // Without wakes each of them would wait for the slow tick: twice as long in all.
        let all = tokio::time::timeout(Duration::from_secs(12), async {
            for _ in 0..100 {
                let pushed = hint();
                push(&queue, std::slice::from_ref(&pushed)).await;
                assert_eq!(consuming.next().await, pushed);
            }
        });
        assert!(all.await.is_ok());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_that_is_pushed_twice_is_held_once() {
    with_both(Options::default(), async |Setup { queue, .. }| {
        let pushed = hints(3);
        push(&queue, &pushed).await;

        let again = push(&queue, &pushed).await;
        let alone = push(&queue, &pushed[1..2]).await;
        let mixed = [pushed[2].clone(), hint(), pushed[0].clone()];
        let mixed = queue.push(&step(), &mixed, None).await.unwrap();

        assert_eq!(again, PushReport { pushed: 0, known: 3, left: 0 });
        assert_eq!(alone, PushReport { pushed: 0, known: 1, left: 0 });
        assert_eq!(mixed, [Pushed::Known, Pushed::New, Pushed::Known]);
        assert_eq!(queue.depth(&step()).await.unwrap(), 4);
        let mut consuming = Consuming::start(&queue, 2);
        consuming.take(4).await;
        until_depth(&queue, 0).await;
        assert!(consuming.deliveries.try_recv().is_err(), "one came twice");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_that_a_worker_is_claiming_is_known_and_new_once_the_claim_is_answered() {
    with_both(Options::default(), async |Setup { queue, .. }| {
        let pushed = hint();
        push(&queue, std::slice::from_ref(&pushed)).await;
        let mut clinging = Clinging::to(&queue, 1).await;

        let while_claiming = push(&queue, std::slice::from_ref(&pushed)).await;
        clinging.held[0].acknowledge();

        assert_eq!(while_claiming, PushReport { pushed: 0, known: 1, left: 0 });
        let new = until(SOON, async || (push(&queue, std::slice::from_ref(&pushed)).await.pushed == 1).then_some(()));
        assert!(new.await.is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pushers_at_once_keep_to_the_most() {
    with_both(Options::default(), async |setup: Setup| {
        let (one, two) = (setup.another_queue(), setup.another_queue());
        let step = step();
        let push_some = async |queue: &Queue| {
            let mut outcomes = Vec::new();
            for some in hints(50).chunks(5) {
                outcomes.extend(queue.push(&step, some, Some(32)).await.unwrap());
            }
            PushReport::of(&outcomes)
        };

        let (one, two) = tokio::join!(push_some(&one), push_some(&two));

        assert_eq!((one.pushed + two.pushed, one.left + two.left), (32, 68));
        assert_eq!(setup.queue.depth(&step).await.unwrap(), 32);
        // What is with a worker counts too.
        let mut clinging = Clinging::to(&setup.queue, 3).await;
        assert_eq!(setup.queue.push(&step, &hints(1), Some(32)).await.unwrap(), [Pushed::Left]);
        clinging.held[0].acknowledge();
        until_depth(&setup.queue, 31).await;
        assert_eq!(setup.queue.push(&step, &hints(1), Some(32)).await.unwrap(), [Pushed::New]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_hints_than_the_high_water_mark_lie_in_redis() {
    with_both(Options::default(), async |setup: Setup| {
        let queue = setup.queue_with_high_water(600);
        let pushed = hints(1300);

        let outcomes = queue.push(&step(), &pushed, Some(5000)).await.unwrap();

        assert_eq!(PushReport::of(&outcomes), PushReport { pushed: 600, known: 0, left: 700 });
        assert!(outcomes[..600].iter().all(|outcome| *outcome == Pushed::New), "not in their order");
        assert_eq!(push(&queue, &hints(1)).await, PushReport { pushed: 0, known: 0, left: 1 });
        assert_eq!(push(&queue, &pushed[..1]).await, PushReport { pushed: 0, known: 1, left: 0 });
        assert_eq!(queue.depth(&step()).await.unwrap(), 600);
    })
    .await;
}

/// Otherwise a burst beyond the mark would go on only at a relay's next scan.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_was_too_small_wakes_a_relay_once_it_runs_low() {
    let setup = Setup::start(Options::default(), Transport::Lists).await;
    let queue = setup.queue_with_high_water(20);
    let mut bell = setup.queue.relay_bell();
    tokio::time::timeout(SOON, bell.rung()).await.unwrap();
    push(&queue, &hints(30)).await;

    let mut consuming = Consuming::start(&queue, 2);

    consuming.take(20).await;
    tokio::time::timeout(SOON, bell.rung()).await.expect("a relay is woken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_twenty_thousand_hints_is_worked_off() {
    with_both(Options::default(), async |setup: Setup| {
        let queue = setup.queue_with_high_water(20_000);
        let pushed = hints(20_000);
        push(&queue, &pushed).await;
        assert_eq!(queue.depth(&step()).await.unwrap(), 20_000);

        let mut consuming = Consuming::start(&queue, 50);

        assert_eq!(consuming.take(pushed.len()).await, keys(&pushed));
        assert_eq!(consuming.status.borrow().rebuilds, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_prefixes_in_one_redis_do_not_meet() {
    with_both(Options::default(), async |setup: Setup| {
        let (ours, theirs) = (setup.queue_with_prefix("ours"), setup.queue_with_prefix("theirs"));
        let mut consuming = Consuming::start(&ours, 4);
        let (mine, other) = (hint(), hint());

        push(&theirs, std::slice::from_ref(&other)).await;
        push(&ours, std::slice::from_ref(&mine)).await;

        assert_eq!(consuming.next().await, mine);
        until_depth(&ours, 0).await;
        assert_eq!(theirs.depth(&step()).await.unwrap(), 1);
        assert!(consuming.deliveries.try_recv().is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_waits_is_woken() {
    let setup = Setup::start(Options::default(), Transport::Lists).await;
    let (worker, relay) = (setup.another_queue(), setup.another_queue());
    let mut bell = relay.relay_bell();

    let woken = until(SOON, async || {
        worker.wake_relay();
        tokio::time::timeout(Duration::from_millis(100), bell.rung()).await.ok()
    });

    assert!(woken.await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_wakes_at_once_become_few() {
    let setup = Setup::start(Options::default(), Transport::Lists).await;
    let (worker, relay) = (setup.another_queue(), setup.another_queue());
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
