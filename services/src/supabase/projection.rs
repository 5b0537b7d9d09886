//! The public rows follow the ledger, in the transaction of the change. A row that the user's schema refuses, or that the
//! user has locked, undoes nothing: it is noted as pending and written again. Rows are written only where something
//! changed, so that Realtime sends no empty news.

use sqlx::Executor;
use workflows::ids::WorkflowName;

use crate::ledger::{Error, Result, postgres::Tx};

/// Writes the public rows of subjects.
#[derive(Clone)]
pub struct Projection {
    /// The workflow whose runs the queue rows show.
    workflow: WorkflowName,
}

impl Projection {
    pub fn new(workflow: WorkflowName) -> Self {
        Self { workflow }
    }

    /// Make the public rows of these subjects what the ledger says; those that cannot be written now are noted as pending.
    pub(crate) async fn write(&self, tx: &mut Tx, subjects: &[String]) -> Result<()> {
        self.write_or_note(tx, subjects).await.map(drop)
    }

    /// Write again what could not be written: up to `limit` subjects. How many are pending afterwards.
    pub(crate) async fn write_pending(&self, tx: &mut Tx, limit: i64) -> Result<i64> {
        let due: Vec<(String,)> = tx
            .query_as(
                "select subject
                 from sluice.projection_pending
                 where tried_at < now() - least(interval '1 minute', interval '0.2 second' * tries)
                 order by subject
                 limit $1
                 for update skip locked",
            )
            .bind(limit)
            .fetch_all(tx.connection())
            .await?;
        let due: Vec<String> = due.into_iter().map(|row| row.0).collect();
        let refused = self.write_or_note(tx, &due).await?;
        tx.query("delete from sluice.projection_pending where subject = any($1) and subject <> all($2)")
            .bind(&due)
            .bind(&refused)
            .execute(tx.connection())
            .await?;
        let (pending,): (i64,) =
            tx.query_as("select count(*) from sluice.projection_pending").fetch_one(tx.connection()).await?;
        Ok(pending)
    }

    /// The subjects whose rows were refused, each noted.
    async fn write_or_note(&self, tx: &mut Tx, subjects: &[String]) -> Result<Vec<String>> {
        let mut refused = Vec::new();
        if subjects.is_empty() || self.attempt(tx, subjects).await?.is_none() {
            return Ok(refused);
        }
        for subject in subjects {
            let one = std::slice::from_ref(subject);
            let Some(refusal) = self.attempt(tx, one).await? else { continue };
            let freed = refusal.unique && self.free_name(tx, subject).await? && self.attempt(tx, one).await?.is_none();
            if !freed && !refusal.user_is_gone {
                note_pending(tx, subject, &refusal.error).await?;
                refused.push(subject.clone());
            }
        }
        Ok(refused)
    }

    /// Write under a savepoint. What the user's side refused, if it did; a fault of the connection is an error.
    async fn attempt(&self, tx: &mut Tx, subjects: &[String]) -> Result<Option<Refusal>> {
        tx.connection().execute("savepoint projection; set local lock_timeout = '400ms'").await?;
        let written = match self.write_queue(tx, subjects).await {
            Ok(()) => write_instances(tx, subjects).await,
            failed => failed,
        };
        match written {
            Ok(()) => {
                tx.connection().execute("release savepoint projection; set local lock_timeout = '5s'").await?;
                Ok(None)
            }
            Err(Error::Database(sqlx::Error::Database(error))) => {
                tx.connection().execute("rollback to savepoint projection").await?;
                let code = error.code().unwrap_or_default();
                Ok(Some(Refusal { unique: code == "23505", user_is_gone: code == "23503", error: error.to_string() }))
            }
            Err(error) => Err(error),
        }
    }

    async fn write_queue(&self, tx: &mut Tx, subjects: &[String]) -> Result<()> {
        tx.query(
            "with latest as (
               select distinct on (run.subject) run.*
               from sluice.run
               where run.subject = any($1)
                 and run.workflow = $2
               order by run.subject, run.created_at desc, run.id desc
             ),
             shown as (
               select
                 latest.subject::uuid as user_id,
                 case latest.state
                   when 'active' then 'processing'
                   when 'succeeded' then 'completed'
                   else 'failed'
                 end as status,
                 case latest.state
                   when 'succeeded' then null
                   when 'cancelled' then 'cancelled by ' || latest.cancel_by
                     || coalesce(': ' || latest.cancel_reason, '')
                   when 'dead' then letter.reason || coalesce(': ' || letter.error, '')
                   else step.error
                 end as error_message,
                 coalesce(step.failures, 0) as retry_count,
                 latest.ended_at as processed_at
               from latest
               left join lateral (
                 select step.failures, step.error
                 from sluice.step
                 where step.run_id = latest.id
                 order by step.state = 'succeeded', step.position
                 limit 1
               ) as step on true
               left join sluice.dead_letter as letter
                 on letter.run_id = latest.id
                 and letter.resolved_at is null
             ),
             locked as (
               select queue.user_id
               from public.evolution_instance_creation_queue as queue
               join shown on shown.user_id = queue.user_id
               where (queue.status, queue.error_message, queue.retry_count, queue.processed_at)
                 is distinct from (shown.status, shown.error_message, shown.retry_count, shown.processed_at)
               order by queue.user_id
               for no key update of queue
             )
             update public.evolution_instance_creation_queue as queue
             set status = shown.status, error_message = shown.error_message, retry_count = shown.retry_count,
               processed_at = shown.processed_at, updated_at = now()
             from shown
             join locked on locked.user_id = shown.user_id
             where queue.user_id = shown.user_id",
        )
        .bind(subjects.to_vec())
        .bind(self.workflow.as_str().to_owned())
        .execute(tx.connection())
        .await?;
        Ok(())
    }

    /// A name that is ours stands in another user's row, who forged it: that row gets the name that is its own. Whether
    /// there was one.
    async fn free_name(&self, tx: &mut Tx, subject: &str) -> Result<bool> {
        tx.connection().execute("savepoint projection; set local lock_timeout = '400ms'").await?;
        let freed = tx
            .query(
                "update public.evolution_instances as forged
                 set instance_name = coalesce(
                   (select own.name from sluice.instance as own where own.subject = forged.user_id::text),
                   'user_' || forged.user_id)
                 from sluice.instance
                 where instance.subject = $1
                   and forged.instance_name = instance.name
                   and forged.user_id::text <> instance.subject",
            )
            .bind(subject.to_owned())
            .execute(tx.connection())
            .await;
        match freed {
            Ok(done) => {
                tx.connection().execute("release savepoint projection; set local lock_timeout = '5s'").await?;
                Ok(done.rows_affected() > 0)
            }
            Err(sqlx::Error::Database(_)) => {
                tx.connection().execute("rollback to savepoint projection").await?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Why the user's side did not take a row.
struct Refusal {
    unique: bool,
    user_is_gone: bool,
    error: String,
}

async fn write_instances(tx: &mut Tx, subjects: &[String]) -> Result<()> {
    tx.query(
        "insert into public.evolution_instances as shown
           (user_id, instance_name, instance_status, qr_code, phone_number, webhook_url, instance_token, last_qr_update)
         select subject::uuid, name, status, qr_code, phone_number, coalesce(webhook_url, ''), token, qr_at
         from sluice.instance
         where subject = any($1)
         order by subject
         on conflict (user_id) do update
         set instance_name = excluded.instance_name,
           instance_status = excluded.instance_status,
           qr_code = excluded.qr_code,
           phone_number = coalesce(excluded.phone_number, shown.phone_number),
           webhook_url = excluded.webhook_url,
           instance_token = excluded.instance_token,
           last_qr_update = excluded.last_qr_update,
           updated_at = now()
         where (shown.instance_name, shown.instance_status, shown.qr_code, shown.webhook_url, shown.instance_token,
             shown.last_qr_update)
           is distinct from (excluded.instance_name, excluded.instance_status, excluded.qr_code, excluded.webhook_url,
             excluded.instance_token, excluded.last_qr_update)",
    )
    .bind(subjects.to_vec())
    .execute(tx.connection())
    .await?;
    Ok(())
}

async fn note_pending(tx: &mut Tx, subject: &str, error: &str) -> Result<()> {
    tx.query(
        "insert into sluice.projection_pending (subject, error)
         values ($1, $2)
         on conflict (subject) do update
         set tried_at = now(), tries = projection_pending.tries + 1, error = excluded.error",
    )
    .bind(subject.to_owned())
    .bind(error.to_owned())
    .execute(tx.connection())
    .await?;
    Ok(())
}
