//! Handing hints to Redis.

use workflows::ids::StepName;

use super::{Error, Hint, Queue, Transport, apalis_redis, lists};

/// How many hints go into one script: a script holds up everybody else's questions while it runs.
const PUSH_BATCH: usize = 500;

/// What became of one hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The queue holds it now, and did not before.
    New,
    /// The queue held it already: it waits, or a worker has fetched it and may be claiming it.
    Known,
    /// There was no capacity for it.
    Left,
}

/// What became of hints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PushReport {
    pub pushed: usize,
    pub known: usize,
    /// No capacity was there for them.
    pub left: usize,
}

impl PushReport {
    pub fn of(outcomes: &[Pushed]) -> Self {
        let count = |outcome| outcomes.iter().filter(|&&other| other == outcome).count();
        Self { pushed: count(Pushed::New), known: count(Pushed::Known), left: count(Pushed::Left) }
    }
}

/// Where hints go: the queue in Redis, or the simulator's, which loses some.
pub trait HintSink: Send + Sync {
    /// Hands hints over in their order, each only where the queue does not hold it, while fewer
    /// than `most` (and never more than the high-water mark) are outstanding; wakes the step's
    /// workers. One outcome per hint, in order. After an error some may have arrived and some not:
    /// pushing all again is right.
    fn push(
        &self,
        step: &StepName,
        hints: &[Hint],
        most: Option<usize>,
    ) -> impl Future<Output = Result<Vec<Pushed>, Error>> + Send;
}

impl HintSink for Queue {
    async fn push(&self, step: &StepName, hints: &[Hint], most: Option<usize>) -> Result<Vec<Pushed>, Error> {
        let mut outcomes = Vec::with_capacity(hints.len());
        for batch in hints.chunks(PUSH_BATCH) {
            let answers = match self.shared.config.transport {
                Transport::Lists => lists::push(self, step, batch, most).await?,
                Transport::ApalisRedis => apalis_redis::push(self, step, batch, most).await?,
            };
            outcomes.extend(answers.bytes().map(|answer| if answer == b'n' { Pushed::New } else { Pushed::Known }));
            if answers.len() < batch.len() {
                break;
            }
        }
        outcomes.resize(hints.len(), Pushed::Left);
        Ok(outcomes)
    }
}

impl Queue {
    /// The most hints that may be outstanding.
    pub(super) fn capacity(&self, most: Option<usize>) -> u64 {
        let high_water = self.shared.config.high_water;
        most.map_or(high_water, |most| high_water.min(most as u64))
    }

    /// How many hints Redis holds: those that wait, and those that a worker has fetched and not
    /// acknowledged.
    pub async fn depth(&self, step: &StepName) -> Result<u64, Error> {
        match self.shared.config.transport {
            Transport::Lists => lists::depth(self, step).await,
            Transport::ApalisRedis => apalis_redis::depth(self, step).await,
        }
    }
}
