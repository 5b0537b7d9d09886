//! Holds a relay or a worker at its commit, or a worker at its claim, for as long as it takes to
//! kill it there: triggers of this harness' own on the ledger's table wait for an advisory lock
//! that is free unless a test takes it.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use crate::servers::until;

#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// A relay that commits the runs it has taken in, and has pushed nothing yet.
    Intake,
    /// A worker that claims what it fetched from Redis.
    Claim,
    /// A worker that commits a step's end, and has not pushed the next step yet.
    Settle,
}

const CAUGHT_WITHIN: Duration = Duration::from_secs(2);
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Makes the triggers. They cost next to nothing while nobody is held.
pub(super) async fn install(url: &str) -> Result<()> {
    let mut session = PgConnection::connect(url).await.context("connect")?;
    sqlx::raw_sql(
        "create schema chaos;
         create function chaos.hold() returns trigger language plpgsql as $$
         begin
           perform pg_advisory_xact_lock_shared(tg_argv[0]::bigint);
           return null;
         end
         $$;
         create constraint trigger chaos_intake
           after insert on sluice.step
           deferrable initially deferred
           for each row when (new.position = 0)
           execute function chaos.hold('1');
         create trigger chaos_claim
           after update on sluice.step
           for each row when (old.state = 'due' and new.state = 'running')
           execute function chaos.hold('2');
         create constraint trigger chaos_settle
           after insert on sluice.step
           deferrable initially deferred
           for each row when (new.position > 0)
           execute function chaos.hold('3');",
    )
    .execute(&mut session)
    .await
    .context("make the triggers that hold")?;
    session.close().await.context("close the connection")
}

/// A place where whoever comes waits.
pub(super) struct Hold {
    session: PgConnection,
    number: i64,
}

impl Hold {
    pub async fn at(url: &str, place: Place) -> Result<Self> {
        let number = match place {
            Place::Intake => 1,
            Place::Claim => 2,
            Place::Settle => 3,
        };
        let session = timeout(ANSWERS_WITHIN, PgConnection::connect(url)).await.context("Postgres does not answer")?;
        let mut hold = Self { session: session.context("connect")?, number };
        let lock = sqlx::query("select pg_advisory_lock($1)").bind(number).execute(&mut hold.session);
        timeout(ANSWERS_WITHIN, lock).await.context("Postgres does not answer")?.context("take the lock")?;
        Ok(hold)
    }

    /// Whether somebody came in time.
    pub async fn caught(&mut self) -> Result<bool> {
        let caught = until(CAUGHT_WITHIN, async || match self.somebody_waits().await {
            Ok(false) => None,
            Ok(true) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        });
        caught.await.transpose().map(|caught| caught.is_some())
    }

    /// Lets them go, and returns once they have gone.
    pub async fn release(mut self) -> Result<()> {
        let unlock = sqlx::query("select pg_advisory_unlock($1)").bind(self.number).execute(&mut self.session);
        timeout(ANSWERS_WITHIN, unlock).await.context("Postgres does not answer")?.context("give the lock back")?;
        until(ANSWERS_WITHIN, async || matches!(self.somebody_waits().await, Ok(false) | Err(_)).then_some(())).await;
        Ok(())
    }

    async fn somebody_waits(&mut self) -> Result<bool> {
        let waits = sqlx::query_scalar(
            "select exists (
               select from pg_locks
               where locktype = 'advisory'
                 and objid::bigint = $1
                 and not granted
             )",
        )
        .bind(self.number)
        .fetch_one(&mut self.session);
        timeout(ANSWERS_WITHIN, waits).await.context("Postgres does not answer")?.context("look for who waits")
    }
}
