//! A loss of Redis is noticed by whichever relay looks next, with a ledger that stands in memory.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use sluice::queue::{
    self, Marks, Round, Stamps,
    loss::{Epoch, Loss, Mark},
    watch_once,
};
use tests::servers::redis::Persistence;

use super::*;

/// The ledger's marks with the guards that the SQL has.
#[derive(Clone)]
struct Ledger {
    mark: Arc<Mutex<Mark>>,
    /// How often every dispatched step was put back to due.
    put_back: Arc<AtomicUsize>,
    /// Lets a relay die after it stamped Redis and before it told the ledger.
    dies: Arc<AtomicBool>,
    knows_servers: bool,
}

#[derive(Debug)]
enum Failed {
    #[expect(dead_code, reason = "shown where a test fails")]
    Queue(queue::Error),
    Died,
}

impl From<queue::Error> for Failed {
    fn from(error: queue::Error) -> Self {
        Self::Queue(error)
    }
}

impl Ledger {
    fn new() -> Self {
        let mark = Mark { epoch: None, beat: 0, server: None, beat_is_due: true };
        Self { mark: Arc::new(Mutex::new(mark)), put_back: Arc::default(), dies: Arc::default(), knows_servers: true }
    }

    fn put_back(&self) -> usize {
        self.put_back.load(Ordering::SeqCst)
    }
}

impl Marks for Ledger {
    type Error = Failed;

    async fn read(&self) -> Result<Mark, Failed> {
        Ok(self.mark.lock().unwrap().clone())
    }

    async fn record_beat(&self, epoch: Epoch, beat: i64, server: Option<&str>) -> Result<(), Failed> {
        let mut mark = self.mark.lock().unwrap();
        if mark.epoch == Some(epoch) && mark.beat < beat {
            mark.beat = beat;
            if self.knows_servers && mark.server.is_none() {
                mark.server = server.map(str::to_owned);
            }
        }
        Ok(())
    }

    async fn take_epoch(&self, was: Option<Epoch>, now: Epoch, server: Option<&str>) -> Result<bool, Failed> {
        if self.dies.swap(false, Ordering::SeqCst) {
            return Err(Failed::Died);
        }
        let mut mark = self.mark.lock().unwrap();
        if mark.epoch != was {
            return Ok(false);
        }
        let server = server.filter(|_| self.knows_servers).map(str::to_owned);
        *mark = Mark { epoch: Some(now), beat: 0, server, beat_is_due: true };
        self.put_back.fetch_add(1, Ordering::SeqCst);
        Ok(true)
    }
}

async fn round(queue: &Queue, ledger: &Ledger) -> Result<Round, Failed> {
    watch_once(queue, ledger, Epoch::new(rand::random())).await
}

/// The first round that finds Redis: after a restart the old connection has to fail first.
async fn round_after_restart(queue: &Queue, ledger: &Ledger) -> Round {
    until(SOON, async || round(queue, ledger).await.ok()).await.expect("Redis is found again")
}

/// A relay with a stamped Redis and a few beats behind it.
async fn settled(queue: &Queue, ledger: &Ledger) {
    assert_eq!(round(queue, ledger).await.unwrap(), Round::Handled(Loss::Unstamped));
    beats(queue, ledger, 3).await;
}

async fn beats(queue: &Queue, ledger: &Ledger, count: usize) {
    for _ in 0..count {
        assert_eq!(round(queue, ledger).await.unwrap(), Round::Intact);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_redis_is_noticed_once() {
    let redis = redis(Options::default()).await;
    let (queue, ledger) = (queue(&redis), Ledger::new());
    settled(&queue, &ledger).await;

    let _: () = command(&redis, "FLUSHALL").await;

    assert_eq!(round(&queue, &ledger).await.unwrap(), Round::Handled(Loss::Wiped));
    beats(&queue, &ledger, 2).await;
    assert_eq!(ledger.put_back(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_restored_from_an_old_snapshot_is_noticed_even_where_it_hides_its_run_id() {
    let mut redis = redis(Options::default()).await;
    let (queue, ledger) = (queue(&redis), Ledger { knows_servers: false, ..Ledger::new() });
    settled(&queue, &ledger).await;
    let _: () = command(&redis, "SAVE").await;
    beats(&queue, &ledger, 2).await;

    redis.kill().await.unwrap();
    assert!(round(&queue, &ledger).await.is_err());
    redis.restart().await.unwrap();

    assert_eq!(round_after_restart(&queue, &ledger).await, Round::Handled(Loss::Older { beats: 2 }));
    beats(&queue, &ledger, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_restored_from_a_snapshot_younger_than_the_last_beat_is_noticed() {
    let mut redis = redis(Options::default()).await;
    let (queue, ledger) = (queue(&redis), Ledger::new());
    settled(&queue, &ledger).await;
    let _: () = command(&redis, "SAVE").await;
    queue.push(&step(), &hints(1)).await.unwrap();

    redis.kill().await.unwrap();
    redis.restart().await.unwrap();

    until_depth(&queue, 0).await;
    assert_eq!(round_after_restart(&queue, &ledger).await, Round::Handled(Loss::OtherServer));
    beats(&queue, &ledger, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_all_data_costs_one_putting_back() {
    let mut redis = redis(Options::default().persistence(Persistence::EveryWrite)).await;
    let (queue, ledger) = (queue(&redis), Ledger::new());
    settled(&queue, &ledger).await;

    redis.restart().await.unwrap();

    assert_eq!(round_after_restart(&queue, &ledger).await, Round::Handled(Loss::OtherServer));
    beats(&queue, &ledger, 2).await;
    assert_eq!(ledger.put_back(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_stale_replica_is_noticed() {
    let primary = redis(Options::default()).await;
    let (queue, ledger) = (queue(&primary), Ledger { knows_servers: false, ..Ledger::new() });
    settled(&queue, &ledger).await;
    let replica = redis(Options::default().set("replicaof", format!("127.0.0.1 {}", primary.port()))).await;
    let synced = until(SOON, async || {
        let beat: Option<i64> = command(&replica, "HGET test:epoch beat").await;
        (beat == Some(3)).then_some(())
    });
    synced.await.expect("the replica follows");
    let _: () = command(&replica, "REPLICAOF NO ONE").await;
    beats(&queue, &ledger, 1).await;

    let promoted = super::queue(&replica);

    assert_eq!(round(&promoted, &ledger).await.unwrap(), Round::Handled(Loss::Older { beats: 1 }));
    beats(&promoted, &ledger, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_dies_while_it_handles_a_loss_hides_nothing() {
    let redis = redis(Options::default()).await;
    let (queue, ledger) = (queue(&redis), Ledger::new());
    settled(&queue, &ledger).await;
    let _: () = command(&redis, "FLUSHALL").await;

    ledger.dies.store(true, Ordering::SeqCst);
    assert!(matches!(round(&queue, &ledger).await, Err(Failed::Died)));

    assert_eq!(round(&queue, &ledger).await.unwrap(), Round::Handled(Loss::OtherEpoch));
    beats(&queue, &ledger, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_judged_on_an_older_state_is_not_written() {
    let redis = redis(Options::default()).await;
    let (queue, ledger) = (queue(&redis), Ledger::new());
    settled(&queue, &ledger).await;
    let judged = queue.seen().await.unwrap();
    beats(&queue, &ledger, 1).await;

    assert!(!queue.raise_beat(&judged, judged.beat + 1).await.unwrap());

    let _: () = command(&redis, "FLUSHALL").await;
    assert!(!queue.raise_beat(&judged, judged.beat + 1).await.unwrap());
    assert!(!queue.stamp(&judged, Epoch::new(1)).await.unwrap());
    assert_eq!(queue.seen().await.unwrap().epoch, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_relays_at_once_miss_no_loss_and_agree_again() {
    let redis = redis(Options::default()).await;
    let ledger = Ledger::new();
    settled(&queue(&redis), &ledger).await;
    let stop = CancellationToken::new();
    let relays: Vec<_> = (0..6)
        .map(|_| {
            let (queue, ledger, stop) = (queue(&redis), ledger.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    let _ = round(&queue, &ledger).await;
                }
            })
        })
        .collect();

    for _ in 0..50 {
        let before = ledger.put_back();
        let _: () = command(&redis, "FLUSHALL").await;
        let noticed = until(SOON, async || (ledger.put_back() > before).then_some(()));
        assert!(noticed.await.is_some(), "a loss went unnoticed");
    }
    stop.cancel();
    for relay in relays {
        relay.await.unwrap();
    }

    let queue = queue(&redis);
    let calm = until(SOON, async || (round(&queue, &ledger).await.unwrap() == Round::Intact).then_some(()));
    assert!(calm.await.is_some());
    assert!(ledger.put_back() <= 51 + 50, "put back {} times for 50 losses", ledger.put_back());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sluice_with_the_same_prefix_is_noticed() {
    let redis = redis(Options::default()).await;
    let (queue, ours, theirs) = (queue(&redis), Ledger::new(), Ledger::new());
    settled(&queue, &ours).await;

    assert_eq!(round(&queue, &theirs).await.unwrap(), Round::Handled(Loss::Unstamped));

    assert_eq!(round(&queue, &ours).await.unwrap(), Round::Handled(Loss::OtherEpoch));
}
