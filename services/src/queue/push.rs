//! Handing hints to Redis, taking them back, counting them.

use redis::Script;
use std::sync::LazyLock;
use workflows::ids::StepName;

use super::{Error, Hint, Queue};

static PUSH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/push.lua")));
static WITHDRAW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/withdraw.lua")));
static DEPTH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/depth.lua")));

/// How many hints go into one script: a script holds up everybody else's commands while it runs.
const PUSH_BATCH: usize = 500;
/// Fewer, because each one is looked for in the whole list.
const WITHDRAW_BATCH: usize = 100;

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushReport {
    /// Hints that Redis now holds and did not before.
    pub pushed: usize,
    /// Hints that Redis knew already: an earlier push of the same tokens arrived, though its answer did not.
    pub known: usize,
}

/// What a relay needs of a queue: the one in Redis, or the simulator's, which loses hints.
pub trait Inlet: Sync {
    /// How many hints the queue holds that no worker has acknowledged.
    fn depth(&self, step: &StepName) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Hands the hints over. After an error some may have arrived and some not.
    fn push(&self, step: &StepName, hints: &[Hint]) -> impl Future<Output = Result<PushReport, Error>> + Send;

    /// Those of the hints of which the queue holds nothing any more.
    fn missing(&self, step: &StepName, hints: &[Hint]) -> impl Future<Output = Result<Vec<Hint>, Error>> + Send;
}

impl Inlet for Queue {
    fn depth(&self, step: &StepName) -> impl Future<Output = Result<u64, Error>> + Send {
        self.depth(step)
    }

    fn push(&self, step: &StepName, hints: &[Hint]) -> impl Future<Output = Result<PushReport, Error>> + Send {
        self.push(step, hints)
    }

    fn missing(&self, step: &StepName, hints: &[Hint]) -> impl Future<Output = Result<Vec<Hint>, Error>> + Send {
        self.missing(step, hints)
    }
}

impl Queue {
    /// Hands the hints over, in their order, and wakes the step's workers. Atomic per 500 hints. After an error some may
    /// be in Redis and some not: putting the steps back is right for all of them, a stale hint's claim will fail.
    pub async fn push(&self, step: &StepName, hints: &[Hint]) -> Result<PushReport, Error> {
        let keys = self.keys(step);
        let mut pushed = 0;
        for batch in hints.chunks(PUSH_BATCH) {
            let mut call = PUSH.key(keys.data());
            call.key(keys.active()).key(keys.meta()).arg(keys.wake());
            for hint in batch {
                call.arg(hint.id()).arg(hint.trace.as_deref().unwrap_or(""));
            }
            pushed += self.ask("push hints", call.invoke_async::<usize>(&mut self.manager())).await?;
        }
        Ok(PushReport { pushed, known: hints.len() - pushed })
    }

    /// Takes back those of the hints that no worker has fetched, so that copies do not pile up where steps are
    /// dispatched again while no worker runs. Returns how many there were.
    pub async fn withdraw(&self, step: &StepName, hints: &[Hint]) -> Result<usize, Error> {
        let keys = self.keys(step);
        let mut withdrawn = 0;
        for batch in hints.chunks(WITHDRAW_BATCH) {
            let mut call = WITHDRAW.key(keys.data());
            call.key(keys.active()).key(keys.meta());
            for hint in batch {
                call.arg(hint.id());
            }
            withdrawn += self.ask("withdraw hints", call.invoke_async::<usize>(&mut self.manager())).await?;
        }
        Ok(withdrawn)
    }

    /// How many hints Redis holds that no worker has acknowledged: waiting, or fetched and not yet claimed.
    pub async fn depth(&self, step: &StepName) -> Result<u64, Error> {
        let keys = self.keys(step);
        let mut call = DEPTH.key(keys.active());
        call.key(keys.scheduled()).key(keys.workers()).arg(keys.inflight());
        self.ask("read the depth", call.invoke_async(&mut self.manager())).await
    }

    /// Those of the hints of which Redis holds nothing any more: not waiting, not fetched, not finished a moment ago.
    pub async fn missing(&self, step: &StepName, hints: &[Hint]) -> Result<Vec<Hint>, Error> {
        if hints.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = redis::pipe();
        for hint in hints {
            call.hexists(self.keys(step).data(), hint.id());
        }
        let held: Vec<bool> = self.ask("look for hints", call.query_async(&mut self.manager())).await?;
        Ok(hints.iter().zip(held).filter(|(_, held)| !held).map(|(hint, _)| hint.clone()).collect())
    }
}
