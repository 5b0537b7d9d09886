//! The ledger's half of the watch over the queue, over this connection.

use sluice::{
    ledger::{self, memory},
    queue::{
        self, Marks,
        loss::{Epoch, Mark},
    },
};

use super::Connection;

/// A round of the watch ends at the ledger or at the queue.
#[derive(Debug)]
pub struct RoundFailed(anyhow::Error);

impl From<queue::Error> for RoundFailed {
    fn from(error: queue::Error) -> Self {
        Self(error.into())
    }
}

impl From<ledger::Error> for RoundFailed {
    fn from(error: ledger::Error) -> Self {
        Self(error.into())
    }
}

impl From<memory::WatchError> for RoundFailed {
    fn from(error: memory::WatchError) -> Self {
        Self(error.into())
    }
}

impl From<RoundFailed> for anyhow::Error {
    fn from(failed: RoundFailed) -> Self {
        failed.0
    }
}

impl Marks for Connection {
    type Error = RoundFailed;

    async fn read(&self) -> Result<Mark, RoundFailed> {
        self.send().await?;
        let mark = self.stage.memory.read().await?;
        Ok(self.receive(mark).await?)
    }

    async fn record_beat(&self, epoch: Epoch, beat: i64, server: Option<&str>) -> Result<(), RoundFailed> {
        self.send().await?;
        self.stage.memory.record_beat(epoch, beat, server).await?;
        Ok(self.receive(()).await?)
    }

    async fn take_epoch(&self, was: Option<Epoch>, now: Epoch, server: Option<&str>) -> Result<bool, RoundFailed> {
        self.send().await?;
        let taken = self.stage.memory.take_epoch(was, now, server).await?;
        Ok(self.receive(taken).await?)
    }
}
