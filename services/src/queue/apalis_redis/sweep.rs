//! Keeping Redis small and its hints moving: the remains of finished tasks, and what silent workers
//! held.

use std::{convert::Infallible, sync::LazyLock, time::Duration};

use redis::Script;
use tokio::time;
use workflows::ids::StepName;

use super::{Error, Queue};
use crate::queue::Consumer;

static FINISHED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/finished.lua")));
static SILENT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/silent.lua")));
static RETIRE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/retire.lua")));

const BATCH: usize = 500;
/// A hint that comes back more often than this ends the workers that fetch it.
const HANDED_BACK_LIMIT: usize = 10;
/// How long a worker may be silent before what it fetched is handed back.
const ALIVE_FOR: Duration = Duration::from_secs(5);
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Sweeps one step's queue about every second. Safe with any number of callers; every consumer does
/// it.
pub(in crate::queue) async fn keep_swept(Consumer { queue, step, status, .. }: &Consumer) -> Infallible {
    loop {
        time::sleep(SWEEP_EVERY.mul_f64(0.5 + rand::random::<f64>())).await;
        let Ok(handed_back) = queue.sweep(step).await else { continue };
        status.send_if_modified(|status| {
            status.handed_back += handed_back as u64;
            handed_back > 0
        });
    }
}

impl Queue {
    /// How many hints of silent workers were handed back.
    async fn sweep(&self, step: &StepName) -> Result<usize, Error> {
        let keys = self.keys(step);
        let mut remove = FINISHED.key(keys.key("done"));
        remove.key(keys.key("dead")).key(keys.key("data")).key(keys.key("meta")).arg(BATCH);
        while self.ask("sweep finished tasks", remove.invoke_async::<usize>(&mut self.connection())).await? == BATCH {}

        let mut look = SILENT.key(keys.key("workers"));
        look.arg(keys.key("alive"));
        let silent: Vec<String> =
            self.ask("look for silent workers", look.invoke_async(&mut self.connection())).await?;
        let mut handed_back = 0;
        for worker in silent {
            handed_back += self.retire(step, &worker).await?;
        }
        Ok(handed_back)
    }

    /// Strikes a worker off and hands back what it fetched and did not acknowledge: how many hints.
    pub(super) async fn retire(&self, step: &StepName, worker: &str) -> Result<usize, Error> {
        let keys = self.keys(step);
        let mut call = RETIRE.key(keys.key(&format!("inflight:{worker}")));
        call.key(keys.key("workers"))
            .key(keys.key(&format!("workers:metadata:{worker}")))
            .key(keys.key(&format!("alive:{worker}")))
            .key(keys.key("data"))
            .key(keys.key("active"))
            .key(keys.key("meta"))
            .arg(worker)
            .arg(&keys.wake)
            .arg(HANDED_BACK_LIMIT);
        self.ask("retire a worker", call.invoke_async(&mut self.connection())).await
    }

    /// Says that this worker lives. Redis forgets it again after [`ALIVE_FOR`].
    pub(super) async fn keep_alive(&self, step: &StepName, worker: &str) -> Result<(), Error> {
        let mut set = redis::cmd("SET");
        set.arg(self.keys(step).key(&format!("alive:{worker}"))).arg(1).arg("PX").arg(ALIVE_FOR.as_millis() as u64);
        self.ask("keep a worker alive", set.query_async(&mut self.connection())).await
    }
}
