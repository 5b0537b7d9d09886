//! Acknowledgements are gathered: a worker's next fetch takes them along, or a call of their own where none comes soon.

use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time};
use workflows::ids::StepName;

use super::fetch;
use crate::queue::Queue;

/// How long an acknowledgement waits for a fetch.
const WITHIN: Duration = Duration::from_millis(20);
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
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.push(id);
        if ids.len() == 1 {
            self.added.notify_one();
        }
    }

    /// Those that go into the next script. Where it fails they are forgotten, and Redis forgets them after 5 s.
    pub(super) fn take(&self) -> Vec<String> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let some = ids.len().min(BATCH);
        ids.drain(..some).collect()
    }
}

/// Tells Redis what no fetch has taken along. Never ends.
pub(in crate::queue) async fn keep_acknowledging(
    queue: &Queue,
    step: &StepName,
    acknowledged: &Acknowledged,
) -> Infallible {
    loop {
        acknowledged.added.notified().await;
        time::sleep(WITHIN).await;
        tell(queue, step, acknowledged).await;
    }
}

/// Tells Redis all that is acknowledged now.
pub(in crate::queue) async fn tell(queue: &Queue, step: &StepName, acknowledged: &Acknowledged) {
    loop {
        let ids = acknowledged.take();
        // A fault is for the next fetch to find.
        if ids.is_empty() || fetch(queue, step, 0, &ids).await.is_err() {
            return;
        }
    }
}
