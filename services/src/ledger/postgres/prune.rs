//! Retention, in small batches: runs that ended well or were cancelled, resolved dead letters with them, published events,
//! the audit, and workers that are long gone. Open dead letters and unpublished events are never pruned.

use std::time::Duration;

use super::{Postgres, Result, limit, seconds, within};

/// A worker that has not beaten for so long is gone, and nobody asks for it any more.
const HEARTBEATS: Duration = Duration::from_secs(3600);

impl Postgres {
    /// Deletes up to `most` of each kind that ended longer than `retention` ago. How many rows in all.
    pub async fn prune(&self, retention: Duration, most: usize) -> Result<u64> {
        within(self.prune_once(retention, most)).await
    }

    async fn prune_once(&self, retention: Duration, most: usize) -> Result<u64> {
        let mut tx = self.begin().await?;
        let runs = tx
            .query(
                "delete from sluice.run
                 where id in (
                   select id
                   from sluice.run
                   where state in ('succeeded', 'cancelled')
                     and ended_at < now() - make_interval(secs => $1)
                   order by ended_at
                   limit $2
                   for update skip locked
                 )",
            )
            .bind(seconds(retention))
            .bind(limit(most))
            .execute(tx.connection())
            .await?;
        let events = tx
            .query(
                "delete from sluice.event
                 where id in (
                   select id
                   from sluice.event
                   where published_at < now() - make_interval(secs => $1)
                   limit $2
                 )",
            )
            .bind(seconds(retention))
            .bind(limit(most))
            .execute(tx.connection())
            .await?;
        let heartbeats = tx
            .query("delete from sluice.heartbeat where beat_at < now() - make_interval(secs => $1)")
            .bind(seconds(HEARTBEATS))
            .execute(tx.connection())
            .await?;
        let (audit,): (i64,) = tx
            .query_as("select sluice.prune_audit(make_interval(secs => $1), $2)")
            .bind(seconds(retention))
            .bind(i32::try_from(most).unwrap_or(i32::MAX))
            .fetch_one(tx.connection())
            .await?;
        tx.commit().await?;
        Ok(runs.rows_affected() + events.rows_affected() + heartbeats.rows_affected() + audit.unsigned_abs())
    }
}
