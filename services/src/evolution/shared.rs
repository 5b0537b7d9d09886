//! One list of every instance for all who ask at the same moment. It is long, and each row costs
//! the API's database three counts. Nobody gets a list that was begun before they asked: an
//! instance may have come in between.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Mutex;
use workflows::whatsapp::evolution::{ApiError, Roster};

type Answer = Result<Arc<Roster>, ApiError>;

/// The list, as long as somebody waits for it.
#[derive(Default)]
pub(super) struct SharedRoster {
    /// How many have asked.
    asked: AtomicU64,
    waiting: AtomicU64,
    /// The last list, and how many had asked when it was begun.
    last: Mutex<Option<(u64, Answer)>>,
}

/// One who waits; not any more once dropped.
struct Waiter<'a>(&'a AtomicU64);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl SharedRoster {
    /// The list that was begun last, if that was after this call; else one that is begun now. Who
    /// is dropped while its list comes leaves the next in line to begin another.
    pub(super) async fn get(&self, list: impl Future<Output = Result<Roster, ApiError>>) -> Answer {
        let mine = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiter = Waiter(&self.waiting);
        let mut last = self.last.lock().await;
        let answer = match &*last {
            Some((begun, answer)) if *begun >= mine => answer.clone(),
            _ => {
                let begun = self.asked.load(Ordering::Acquire);
                let answer = list.await.map(Arc::new);
                *last = Some((begun, answer.clone()));
                answer
            }
        };
        if self.waiting.load(Ordering::Acquire) == 1 {
            // Nobody else waits for it, and it holds every token.
            *last = None;
        }
        answer
    }
}
