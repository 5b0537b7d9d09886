//! Sign-ups that got lost: the trigger was off, or met an error, and the user has nothing.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::ledger::{Error, Result, postgres::Postgres};

/// The most that one round queues.
pub const BATCH: u64 = 1000;

/// How long one round looks for lost sign-ups: the loop that does it has others to live up to.
const FINDS_FOR: Duration = Duration::from_secs(5);

/// Give each lost sign-up since the adoption, no older than `since`, a queue row. How many there
/// were. A transaction each, so that no row of the app's is locked while another is waited for; and
/// for a while only.
pub async fn queue_lost(ledger: &Postgres, since: Duration) -> Result<u64> {
    let began = Instant::now();
    let lost = ledger.within(lost(ledger, since)).await?;
    let mut queued = 0;
    for user in lost {
        if began.elapsed() > FINDS_FOR {
            break;
        }
        match ledger.within(queue(ledger, user)).await {
            Ok(rows) => queued += rows,
            Err(Error::Database(sqlx::Error::Database(error))) => {
                tracing::warn!(%user, error = error.message(), "a lost sign-up's queue row cannot be made now");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(queued)
}

/// How many users from before the adoption have nothing of ours. They are reported, never started.
pub async fn count_older(ledger: &Postgres) -> Result<i64> {
    let ask = ledger.database().ask_one::<(i64,)>("select sluice.older_sign_ups()", |ask| ask);
    Ok(ledger.within(async { Ok(ask.await?) }).await?.0)
}

/// Users who signed up in the last `since` and have nothing. In no order: those whose row the app
/// refuses hold up nobody.
async fn lost(ledger: &Postgres, since: Duration) -> Result<Vec<Uuid>> {
    let find = "select user_id from sluice.lost_sign_ups(make_interval(secs => $1)) order by random() limit $2";
    let most = i64::try_from(BATCH).unwrap_or(i64::MAX);
    let lost: Vec<(Uuid,)> = ledger.database().ask(find, |find| find.bind(since.as_secs_f64()).bind(most)).await?;
    Ok(lost.into_iter().map(|(user,)| user).collect())
}

/// Give a lost sign-up its queue row, as the trigger would have, with the trace that the user
/// brought. One statement, so that a relay that stands still in the middle leaves no row of the
/// app's locked. Safe with any number of callers: one row per user. Waits for no lock of the app's
/// for longer than the app would notice. How many rows were made.
async fn queue(ledger: &Postgres, user: Uuid) -> Result<u64> {
    let queue = ledger.database().ask_one("select sluice.queue_sign_up($1)", |ask| ask.bind(user));
    let (queued,): (i64,) = queue.await?;
    Ok(u64::try_from(queued).unwrap_or_default())
}
