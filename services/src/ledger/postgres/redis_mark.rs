//! The ledger's half of the watch over Redis: which epoch, beat and server it was last known by.

use super::{Postgres, Result, within};
use crate::queue::{
    self, Marks,
    loss::{Epoch, Mark},
};

/// A round ends at the ledger or at Redis.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error(transparent)]
    Ledger(#[from] crate::ledger::Error),
    #[error(transparent)]
    Queue(#[from] queue::Error),
}

impl Marks for Postgres {
    type Error = WatchError;

    async fn read(&self) -> std::result::Result<Mark, WatchError> {
        Ok(within(read(self)).await?)
    }

    async fn record_beat(&self, epoch: Epoch, beat: i64, server: Option<&str>) -> std::result::Result<(), WatchError> {
        Ok(within(record_beat(self, epoch, beat, server)).await?)
    }

    async fn take_epoch(
        &self,
        was: Option<Epoch>,
        now: Epoch,
        server: Option<&str>,
    ) -> std::result::Result<bool, WatchError> {
        Ok(within(take_epoch(self, was, now, server)).await?)
    }
}

async fn read(ledger: &Postgres) -> Result<Mark> {
    let mut tx = ledger.begin().await?;
    let (epoch, beat, server, beat_is_due): (Option<i64>, i64, Option<String>, bool) = tx
        .query_as("select epoch, beat, server, beat_at < now() - interval '1 second' from sluice.redis_mark")
        .fetch_one(tx.connection())
        .await?;
    Ok(Mark { epoch: epoch.map(Epoch::new), beat, server, beat_is_due })
}

async fn record_beat(ledger: &Postgres, epoch: Epoch, beat: i64, server: Option<&str>) -> Result<()> {
    let mut tx = ledger.begin().await?;
    tx.query(
        "update sluice.redis_mark
         set beat = $2, beat_at = now(), server = coalesce(server, $3)
         where epoch = $1
           and beat < $2",
    )
    .bind(epoch.bits())
    .bind(beat)
    .bind(server.map(str::to_owned))
    .execute(tx.connection())
    .await?;
    tx.commit().await
}

async fn take_epoch(ledger: &Postgres, was: Option<Epoch>, now: Epoch, server: Option<&str>) -> Result<bool> {
    let mut tx = ledger.begin().await?;
    let taken = tx
        .query(
            "update sluice.redis_mark
             set epoch = $2, beat = 0, beat_at = now(), server = $3, lost_at = now()
             where epoch is not distinct from $1",
        )
        .bind(was.map(Epoch::bits))
        .bind(now.bits())
        .bind(server.map(str::to_owned))
        .execute(tx.connection())
        .await?;
    if taken.rows_affected() == 0 {
        return Ok(false);
    }
    tx.query(
        "with lost as (
           select run_id, position
           from sluice.step
           where state = 'dispatched'
           order by run_id, position
           for no key update
         )
         update sluice.step as step
         set state = 'due', token = null, due_at = now()
         from lost
         where step.run_id = lost.run_id
           and step.position = lost.position",
    )
    .execute(tx.connection())
    .await?;
    tx.commit().await?;
    Ok(true)
}
