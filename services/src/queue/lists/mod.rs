//! Our own transport: pushes, acknowledgements and sweeps as scripts, and what feeds an apalis
//! worker (`backend`).
//!
//! The keys of a queue: `waiting` (list) has the hints that no worker has fetched, each its id, and
//! its traceparent after a space; `held` (sorted set) has the ids of those and of what is fetched
//! and not acknowledged, so that a hint is there once; `refill` says when a relay is to be woken,
//! because more is due than the queue had capacity for.
//!
//! A worker that dies leaves ids in `held` that wait no more. A sweep forgets them a second after
//! one has met them, and a relay's scan pushes their hints anew. So no worker is registered and
//! nothing is handed back, and nobody needs to notice that Redis was wiped, restored or replaced.

mod backend;
mod push;

use std::{convert::Infallible, sync::LazyLock, time::Duration};

use parking_lot::Mutex;
use redis::Script;
use tokio::{sync::Notify, time};
use workflows::ids::StepName;

pub(super) use self::{
    backend::work,
    push::{Pushers, push},
};
use super::{Consumer, Error, Queue, keys};

static ACKNOWLEDGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/acknowledge.lua")));
static SWEEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/sweep.lua")));

/// How long an acknowledgement waits for company: Redis is told of many at once. Far below the
/// second from one scan of a relay to the next.
const WITHIN: Duration = Duration::from_millis(100);
/// How many go into one script.
const BATCH: usize = 1000;
/// How long a hint that a sweep met as fetched stays held. Well above the time that a claim takes,
/// and so short that a relay's next scan pushes what died with its worker: all must go on within 3
/// s after everything was killed.
const HELD_FOR: Duration = Duration::from_millis(900);

pub(super) async fn depth(queue: &Queue, step: &StepName) -> Result<u64, Error> {
    let mut count = redis::cmd("ZCARD");
    count.arg(queue.keys(step).key("held"));
    queue.ask("read the depth", count.query_async(&mut queue.connection())).await
}

/// Forgets hints whose worker is dead.
async fn sweep(queue: &Queue, step: &StepName) -> Result<(), Error> {
    let keys = queue.keys(step);
    let mut call = SWEEP.key(keys.key("waiting"));
    call.key(keys.key("held")).arg(HELD_FOR.as_millis() as u64);
    queue.ask("sweep", call.invoke_async(&mut queue.connection())).await
}

/// The ids of hints whose claim is answered, and of which Redis does not know it yet.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    ids: Mutex<Vec<String>>,
    added: Notify,
}

impl Acknowledged {
    pub(super) fn add(&self, id: String) {
        self.ids.lock().push(id);
        self.added.notify_one();
    }

    /// Those that are told next. Where that fails a sweep forgets their hints.
    fn take(&self) -> Vec<String> {
        let mut ids = self.ids.lock();
        let some = ids.len().min(BATCH);
        ids.drain(..some).collect()
    }
}

/// Tells Redis of acknowledgements as they come.
pub(super) async fn keep_acknowledging(consumer: &Consumer) -> Infallible {
    loop {
        consumer.acknowledged.added.notified().await;
        time::sleep(WITHIN).await;
        tell(consumer).await;
    }
}

/// Tells Redis all that is acknowledged now.
pub(super) async fn tell(Consumer { queue, step, acknowledged, .. }: &Consumer) {
    loop {
        let ids = acknowledged.take();
        if ids.is_empty() {
            return;
        }
        let keys = queue.keys(step);
        let mut call = ACKNOWLEDGE.key(keys.key("waiting"));
        call.key(keys.key("held")).key(keys.key("refill"));
        call.arg(keys::wake_relay(&queue.shared.config.prefix)).arg(ids);
        if queue.ask("acknowledge hints", call.invoke_async::<()>(&mut queue.connection())).await.is_err() {
            return;
        }
    }
}
