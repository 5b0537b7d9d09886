//! Acknowledgements are gathered and told to Redis together.

use std::{convert::Infallible, sync::LazyLock, time::Duration};

use parking_lot::Mutex;
use redis::Script;
use tokio::{sync::Notify, time};

use crate::queue::{Consumer, keys};

static ACKNOWLEDGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/acknowledge.lua")));

/// How long an acknowledgement waits for company. Far below the second from one scan of a relay to
/// the next.
const WITHIN: Duration = Duration::from_millis(100);
/// How many go into one script.
const BATCH: usize = 1000;

/// The ids of hints whose claim is answered, and of which Redis does not know it yet.
#[derive(Debug, Default)]
pub(in crate::queue) struct Acknowledged {
    ids: Mutex<Vec<String>>,
    added: Notify,
}

impl Acknowledged {
    pub(in crate::queue) fn add(&self, id: String) {
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
pub(in crate::queue) async fn keep_acknowledging(consumer: &Consumer) -> Infallible {
    loop {
        consumer.acknowledged.added.notified().await;
        time::sleep(WITHIN).await;
        tell(consumer).await;
    }
}

/// Tells Redis all that is acknowledged now.
pub(in crate::queue) async fn tell(Consumer { queue, step, acknowledged, .. }: &Consumer) {
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
