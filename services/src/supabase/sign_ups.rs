//! Sign-ups that got lost: the trigger was off, or met an error, and the user has nothing.

use std::time::Duration;

use uuid::Uuid;

use crate::ledger::{Result, postgres::Tx};

/// The most that one round queues.
pub const BATCH: u64 = 1000;

/// Users who signed up in the last `since` and have nothing. In no order: those whose row the app refuses hold up nobody.
pub(crate) async fn lost(tx: &mut Tx, since: Duration) -> Result<Vec<Uuid>> {
    let lost: Vec<(Uuid,)> = tx
        .query_as("select user_id from sluice.lost_sign_ups(make_interval(secs => $1)) order by random() limit $2")
        .bind(since.as_secs_f64())
        .bind(i64::try_from(BATCH).unwrap_or(i64::MAX))
        .fetch_all(tx.connection())
        .await?;
    Ok(lost.into_iter().map(|(user,)| user).collect())
}

/// Give a lost sign-up its queue row, as the trigger would have, with the trace that the user brought. Safe with any number of
/// callers: one row per user. Waits for no lock of the app's for longer than the app would notice. How many rows were made.
pub(crate) async fn queue(tx: &mut Tx, user: Uuid) -> Result<u64> {
    let (queued,): (i64,) =
        tx.query_as("select sluice.queue_sign_up($1)").bind(user).fetch_one(tx.connection()).await?;
    Ok(u64::try_from(queued).unwrap_or_default())
}

/// How many users from before the adoption have nothing of ours. They are reported, never started.
pub(crate) async fn count_older(tx: &mut Tx) -> Result<i64> {
    let (older,): (i64,) = tx.query_as("select sluice.older_sign_ups()").fetch_one(tx.connection()).await?;
    Ok(older)
}
