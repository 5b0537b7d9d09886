//! The ledger's half of the watch over the queue, in memory.

use std::time::Duration;

use super::Memory;
use crate::queue::{
    self, Marks,
    loss::{Epoch, Mark},
};

/// A round can only end at the queue: this ledger always answers.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct WatchError(#[from] queue::Error);

/// Which epoch, beat and server the queue was last known by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisMark {
    pub epoch: Option<i64>,
    pub beat: i64,
    pub beat_at: Duration,
    pub server: Option<String>,
}

const BEAT: Duration = Duration::from_secs(1);

impl Marks for Memory {
    type Error = WatchError;

    async fn read(&self) -> Result<Mark, WatchError> {
        Ok(self.transact(|tx| {
            let mark = &tx.tables.redis_mark;
            Mark {
                epoch: mark.epoch.map(Epoch::new),
                beat: mark.beat,
                server: mark.server.clone(),
                beat_is_due: mark.beat_at + BEAT < tx.now,
            }
        }))
    }

    async fn record_beat(&self, epoch: Epoch, beat: i64, server: Option<&str>) -> Result<(), WatchError> {
        self.transact(|tx| {
            let (now, mark) = (tx.now, &mut tx.tables.redis_mark);
            if mark.epoch == Some(epoch.bits()) && mark.beat < beat {
                mark.beat = beat;
                mark.beat_at = now;
                mark.server = mark.server.take().or_else(|| server.map(str::to_owned));
            }
        });
        Ok(())
    }

    async fn take_epoch(&self, was: Option<Epoch>, now: Epoch, server: Option<&str>) -> Result<bool, WatchError> {
        Ok(self.transact(|tx| {
            let (at, mark) = (tx.now, &mut tx.tables.redis_mark);
            if mark.epoch != was.map(Epoch::bits) {
                return false;
            }
            let server = server.map(str::to_owned);
            *mark = RedisMark { epoch: Some(now.bits()), beat: 0, beat_at: at, server };
            tx.lose();
            true
        }))
    }
}
