//! Sign-ups that got lost: the trigger was off, or met an error, and the user has nothing.

use std::time::Duration;

use crate::ledger::{Result, postgres::Tx};

/// Give each lost sign-up of the last `since` a queue row, as the trigger would have. How many there were. Safe with any
/// number of callers: one row per user.
pub(crate) async fn queue_lost(tx: &mut Tx, since: Duration) -> Result<u64> {
    let done = tx
        .query(
            "insert into public.evolution_instance_creation_queue (user_id)
             select user_id
             from sluice.lost_sign_ups(make_interval(secs => $1))
             order by made_at
             limit 1000
             on conflict (user_id) do nothing",
        )
        .bind(since.as_secs_f64())
        .execute(tx.connection())
        .await?;
    Ok(done.rows_affected())
}
