//! Sign-ups that got lost: the trigger was off, or met an error, and the user has nothing.

use std::time::Duration;

use sqlx::Executor;
use uuid::Uuid;

use crate::ledger::{Result, postgres::Tx};

/// The most that one round queues.
pub const BATCH: u64 = 1000;

/// Give each lost sign-up of the last `since` a queue row, as the trigger would have. How many there were. Safe with any
/// number of callers: one row per user. Where the app refuses a row, that one is left and the others are not.
pub(crate) async fn queue_lost(tx: &mut Tx, since: Duration) -> Result<u64> {
    let lost: Vec<(Uuid,)> = tx
        .query_as("select user_id from sluice.lost_sign_ups(make_interval(secs => $1)) order by made_at limit $2")
        .bind(since.as_secs_f64())
        .bind(i64::try_from(BATCH).unwrap_or(i64::MAX))
        .fetch_all(tx.connection())
        .await?;
    let mut queued = 0;
    for (user,) in lost {
        tx.connection().execute("savepoint sign_up").await?;
        let row = "insert into public.evolution_instance_creation_queue (user_id) values ($1) on conflict do nothing";
        match tx.query(row).bind(user).execute(tx.connection()).await {
            Ok(done) => queued += done.rows_affected(),
            Err(sqlx::Error::Database(error)) => {
                tracing::warn!(%user, error = error.message(), "the app refuses the queue row of a lost sign-up");
                tx.connection().execute("rollback to savepoint sign_up").await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(queued)
}

/// How many users from before the adoption have nothing of ours. They are reported, never started.
pub(crate) async fn count_older(tx: &mut Tx) -> Result<i64> {
    let (older,): (i64,) = tx.query_as("select sluice.older_sign_ups()").fetch_one(tx.connection()).await?;
    Ok(older)
}
