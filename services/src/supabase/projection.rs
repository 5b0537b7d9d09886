//! The public rows follow the ledger, in the transaction of the change. A row that the user's schema refuses, or that the
//! user has locked, undoes nothing: it is noted as pending and written again. Rows are written only where something
//! changed, so that Realtime sends no empty news.

use sqlx::{Executor, error::DatabaseError};
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
    pub(crate) async fn write(&self, tx: &mut Tx, subjects: &[String], pending: PendingRows) -> Result<()> {
        self.write_or_note(tx, subjects, pending).await.map(drop)
    }

    /// Write again what could not be written: up to `limit` subjects. How many are pending afterwards.
    pub(crate) async fn write_pending(&self, tx: &mut Tx, limit: i64) -> Result<i64> {
        let due: Vec<(String, bool)> = tx
            .query_as(
                "select subject, taken
                 from sluice.projection_pending
                 where tried_at < now() - least(interval '1 minute', interval '0.2 second' * tries)
                 order by subject
                 limit $1
                 for update skip locked",
            )
            .bind(limit)
            .fetch_all(tx.connection())
            .await?;
        let mut written = Vec::new();
        for rows in [PendingRows::Keep, PendingRows::Take] {
            let these = due.iter().filter(|(_, taken)| *taken == (rows == PendingRows::Take));
            let these: Vec<String> = these.map(|(subject, _)| subject.clone()).collect();
            let refused = self.write_or_note(tx, &these, rows).await?;
            written.extend(these.into_iter().filter(|subject| !refused.contains(subject)));
        }
        tx.query("delete from sluice.projection_pending where subject = any($1)")
            .bind(&written)
            .execute(tx.connection())
            .await?;
        let (pending,): (i64,) =
            tx.query_as("select count(*) from sluice.projection_pending").fetch_one(tx.connection()).await?;
        Ok(pending)
    }

    /// The subjects of which a row was refused, each noted.
    async fn write_or_note(&self, tx: &mut Tx, subjects: &[String], rows: PendingRows) -> Result<Vec<String>> {
        let mut refused = Vec::new();
        if subjects.is_empty() {
            return Ok(refused);
        }
        let Some(mut refusal) = self.attempt(tx, subjects, rows, PATIENCE).await? else { return Ok(refused) };
        for subject in subjects {
            // Who met a lock has waited for it once: the neighbours do not wait again.
            let patience = if refusal.locked { IMPATIENCE } else { PATIENCE };
            let one = std::slice::from_ref(subject);
            let Some(mut alone) = self.attempt(tx, one, rows, patience).await? else { continue };
            if alone.unique && self.free_name(tx, subject).await? {
                match self.attempt(tx, one, rows, patience).await? {
                    None => continue,
                    Some(again) => alone = again,
                }
            }
            if !alone.user_is_gone {
                note_pending(tx, subject, rows, &alone.error).await?;
                refused.push(subject.clone());
            }
            refusal.locked |= alone.locked;
        }
        Ok(refused)
    }

    /// Write the queue's rows and the instances' rows, each under a savepoint: one that is refused does not undo the other.
    /// What the user's side refused, if it did; a fault of the connection is an error.
    async fn attempt(
        &self,
        tx: &mut Tx,
        subjects: &[String],
        rows: PendingRows,
        patience: &'static str,
    ) -> Result<Option<Refusal>> {
        open(tx, patience).await?;
        let written = self.write_queue(tx, subjects, rows).await;
        let queue = close(tx, written).await?;
        if queue.as_ref().is_some_and(|refusal| refusal.locked) {
            return Ok(queue);
        }
        open(tx, patience).await?;
        let written = write_instances(tx, subjects).await;
        let instances = close(tx, written).await?;
        Ok(queue.or(instances))
    }

    /// The rows are locked first, in a statement of their own: what the next one reads of the ledger is then newer than any
    /// change that was waited for.
    async fn write_queue(&self, tx: &mut Tx, subjects: &[String], rows: PendingRows) -> Result<()> {
        let lock = "select from public.evolution_instance_creation_queue
             where user_id = any($1::text[]::uuid[])
             order by user_id
             for no key update";
        tx.query(lock).bind(subjects.to_vec()).execute(tx.connection()).await?;
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
                 -- A pending row is somebody's command: only intake, which takes it, writes over it.
                 and (queue.status <> 'pending' or $3)
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
        .bind(rows == PendingRows::Take)
        .execute(tx.connection())
        .await?;
        Ok(())
    }

    /// A name that is ours stands in another user's row, who forged it: that row gets the name that is its own. Whether
    /// there was one.
    async fn free_name(&self, tx: &mut Tx, subject: &str) -> Result<bool> {
        open(tx, PATIENCE).await?;
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
        let freed = freed.map(|done| done.rows_affected() > 0);
        let any = freed.as_ref().is_ok_and(|any| *any);
        let refusal = close(tx, freed.map(drop).map_err(Error::from)).await?;
        Ok(any && refusal.is_none())
    }
}

/// Whether rows that are `pending` are written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PendingRows {
    /// They are a command that nobody has taken yet.
    Keep,
    /// This is the transaction that takes them, or a later one for it.
    Take,
}

/// How long a row that the user has locked is waited for: less than Postgres' own `deadlock_timeout`, so that the user wins.
const PATIENCE: &str = "savepoint projection; set local lock_timeout = '400ms'";
const IMPATIENCE: &str = "savepoint projection; set local lock_timeout = '10ms'";

async fn open(tx: &mut Tx, patience: &'static str) -> Result<()> {
    tx.connection().execute(patience).await?;
    Ok(())
}

/// Keep what was written under the savepoint, or undo it and say why it was refused.
async fn close(tx: &mut Tx, written: Result<()>) -> Result<Option<Refusal>> {
    match written {
        Ok(()) => {
            tx.connection().execute("release savepoint projection; set local lock_timeout = '5s'").await?;
            Ok(None)
        }
        Err(Error::Database(sqlx::Error::Database(error))) => {
            tx.connection().execute("rollback to savepoint projection; set local lock_timeout = '5s'").await?;
            Ok(Some(Refusal::of(error.as_ref())))
        }
        Err(error) => Err(error),
    }
}

/// Why the user's side did not take a row.
struct Refusal {
    unique: bool,
    locked: bool,
    user_is_gone: bool,
    error: String,
}

impl Refusal {
    fn of(error: &dyn DatabaseError) -> Self {
        let code = error.code().unwrap_or_default();
        let ours = error.table().is_some_and(|table| table.starts_with("evolution_instance"));
        Self {
            unique: code == "23505",
            locked: code == "55P03",
            user_is_gone: code == "23503" && ours,
            error: error.to_string(),
        }
    }
}

async fn write_instances(tx: &mut Tx, subjects: &[String]) -> Result<()> {
    let lock = "select from public.evolution_instances
         where user_id = any($1::text[]::uuid[])
         order by user_id
         for no key update";
    tx.query(lock).bind(subjects.to_vec()).execute(tx.connection()).await?;
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

async fn note_pending(tx: &mut Tx, subject: &str, rows: PendingRows, error: &str) -> Result<()> {
    tx.query(
        "insert into sluice.projection_pending (subject, taken, error)
         values ($1, $2, $3)
         on conflict (subject) do update
         set tried_at = now(), tries = projection_pending.tries + 1, error = excluded.error,
           taken = projection_pending.taken or excluded.taken",
    )
    .bind(subject.to_owned())
    .bind(rows == PendingRows::Take)
    .bind(error.to_owned())
    .execute(tx.connection())
    .await?;
    Ok(())
}
