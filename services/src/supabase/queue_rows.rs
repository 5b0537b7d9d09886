//! The rows of `evolution_instance_creation_queue` as commands.

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;

use crate::ledger::{Result, postgres::Tx};

/// A row that asks for a run.
#[derive(Debug, FromRow)]
pub(crate) struct Pending {
    #[sqlx(rename = "user_id")]
    pub user: Uuid,
    pub retry_count: i32,
    pub traceparent: Option<String>,
    seconds_old: f64,
}

impl Pending {
    /// How long ago the row was made. The row is the user's to write: a moment to come is now.
    pub fn age(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds_old).unwrap_or_default()
    }
}

/// Up to `limit` pending rows, oldest first, locked; `only` names one user. Rows that another relay, or the user's own
/// transaction, has in hand are passed over.
pub(crate) async fn lock_pending(tx: &mut Tx, limit: usize, only: Option<Uuid>) -> Result<Vec<Pending>> {
    let rows = tx
        .query_as(
            "select user_id, coalesce(retry_count, 0)::integer as retry_count, traceparent,
               case when isfinite(created_at) then extract(epoch from now() - created_at) else 0 end::float8 as seconds_old
             from public.evolution_instance_creation_queue as queue
             where status = 'pending'
               and user_id is not null
               -- Taken already, but the row could not be written since.
               and not exists (
                 select from sluice.projection_pending as waiting
                 where waiting.subject = queue.user_id::text
                   and waiting.taken
               )
               -- Old rows wait for a person's word.
               and not exists (select from sluice.held_back as adopted where adopted.subject = queue.user_id)
               and ($2::uuid is null or user_id = $2)
             order by created_at
             limit $1
             for no key update skip locked",
        )
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(only)
        .fetch_all(tx.connection())
        .await?;
    Ok(rows)
}

/// A row that cannot become a run says why.
pub(crate) async fn refuse(tx: &mut Tx, user: Uuid, reason: &str) -> Result<()> {
    tx.query(
        "update public.evolution_instance_creation_queue
         set status = 'failed', error_message = $2, updated_at = now()
         where user_id = $1",
    )
    .bind(user)
    .bind(reason.to_owned())
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// The failures of every waiting step whose row's `retry_count` somebody set to 0 are forgotten. A request whose step is
/// under way waits until it is not; one without a waiting or running step has nothing to reset. How many steps it was.
pub(crate) async fn reset_budgets(tx: &mut Tx) -> Result<u64> {
    let done = tx
        .query(
            "with asked as (
               delete from sluice.budget_reset as reset
               where not exists (
                 select from sluice.run
                 join sluice.step on step.run_id = run.id
                 where run.subject = reset.subject::text
                   and run.state = 'active'
                   and step.state = 'running'
               )
               returning reset.subject::text as subject
             )
             update sluice.step as step
             set failures = 0
             from asked
             join sluice.run on run.subject = asked.subject and run.state = 'active'
             where step.run_id = run.id
               and step.state in ('due', 'dispatched')
               and step.failures > 0",
        )
        .execute(tx.connection())
        .await?;
    Ok(done.rows_affected())
}
