//! Keeping Redis small and its hints moving: the remains of finished tasks, and what silent workers held.

use std::{sync::LazyLock, time::Duration};

use redis::Script;
use workflows::ids::StepName;

use super::{Error, Queue};

static FINISHED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/finished.lua")));
static SILENT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/silent.lua")));
static RETIRE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/retire.lua")));

const BATCH: usize = 500;
/// A hint that comes back more often than this ends the workers that fetch it.
const HANDED_BACK_LIMIT: usize = 10;
/// How long a worker may be silent before what it fetched is handed back.
pub(super) const ALIVE_FOR: Duration = Duration::from_secs(5);

/// What a sweep found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Finished tasks whose remains were removed.
    pub finished: usize,
    /// Workers that were struck off.
    pub workers: usize,
    /// Hints that were handed back to be fetched again.
    pub handed_back: usize,
    /// Hints that no worker could have fetched alive; the ledger dispatches their steps again.
    pub dropped: usize,
}

impl Queue {
    /// Sweeps one step's queue. Safe with any number of callers; consumers do it every second.
    pub async fn sweep(&self, step: &StepName) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        loop {
            let removed = self.remove_finished(step).await?;
            swept.finished += removed;
            if removed < BATCH {
                break;
            }
        }
        for worker in self.silent_workers(step).await? {
            let (handed_back, dropped) = self.retire(step, &worker).await?;
            swept.workers += 1;
            swept.handed_back += handed_back;
            swept.dropped += dropped;
        }
        Ok(swept)
    }

    async fn remove_finished(&self, step: &StepName) -> Result<usize, Error> {
        let keys = self.keys(step);
        let mut call = FINISHED.key(keys.done());
        call.key(keys.dead()).key(keys.data()).key(keys.meta()).arg(BATCH);
        self.ask("sweep finished tasks", call.invoke_async(&mut self.manager())).await
    }

    async fn silent_workers(&self, step: &StepName) -> Result<Vec<String>, Error> {
        let keys = self.keys(step);
        let mut call = SILENT.key(keys.workers());
        call.arg(keys.alive());
        self.ask("look for silent workers", call.invoke_async(&mut self.manager())).await
    }

    /// Strikes a worker off and hands back what it fetched and did not acknowledge.
    pub(super) async fn retire(&self, step: &StepName, worker: &str) -> Result<(usize, usize), Error> {
        let keys = self.keys(step);
        let of_worker = |prefix: String| format!("{prefix}:{worker}");
        let mut call = RETIRE.key(of_worker(keys.inflight()));
        call.key(keys.workers())
            .key(of_worker(keys.worker_metadata()))
            .key(of_worker(keys.alive()))
            .key(keys.data())
            .key(keys.active())
            .key(keys.meta())
            .arg(worker)
            .arg(keys.wake())
            .arg(HANDED_BACK_LIMIT);
        self.ask("retire a worker", call.invoke_async(&mut self.manager())).await
    }

    /// Says that this worker lives. Redis forgets it again after [`ALIVE_FOR`].
    pub(super) async fn keep_alive(&self, step: &StepName, worker: &str) -> Result<(), Error> {
        let mut set = redis::cmd("SET");
        set.arg(format!("{}:{worker}", self.keys(step).alive())).arg(1).arg("PX").arg(ALIVE_FOR.as_millis() as u64);
        self.ask("keep a worker alive", set.query_async(&mut self.manager())).await
    }
}
