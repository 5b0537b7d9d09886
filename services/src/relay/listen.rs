//! The connection on which rings are heard, where LISTEN works. Without it intake polls, and
//! nothing else changes. It also holds the lock that says "a relay sleeps": when the connection
//! dies the lock is gone, and nobody rings in vain.

use std::{convert::Infallible, time::Duration};

use anyhow::Context;
use sqlx::{
    PgConnection, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::time::{sleep, timeout};

use super::Relay;
use crate::{
    database::{is_by_transaction, met_a_lock, settings},
    telemetry::{chain, health::Pulse},
};

const CHANNEL: &str = "sluice_intake";
/// To `CHANNEL`. In the simple protocol: a pooler must not lose it between its parse and its run.
const NOTIFY_MYSELF: &str = "select pg_notify('sluice_intake', 'self-test')";
const SELF_TEST: Duration = Duration::from_secs(5);
/// How long Postgres may take until a listener has heard itself, or a lock is taken.
const ANSWERS: Duration = Duration::from_secs(15);
/// A listener that heard nothing for so long is asked to prove itself again: a dead connection is
/// silent too.
const QUIET: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);
/// A pooler will hardly change its mode soon.
const RETRY_DEAF: Duration = Duration::from_secs(60);

/// "A relay sleeps": whoever commits a request tries this lock, and rings where it is taken.
const SLEEP: &str = "set local lock_timeout = '50ms'; select pg_advisory_lock_shared(7318, 1)";
const WAKE: &str = "select pg_advisory_unlock_shared(7318, 1)";
/// Waits for requests under way that saw nobody sleep: each holds this lock until its commit.
const WAIT_FOR_SILENT: &str = "set local lock_timeout = '50ms'; select pg_advisory_xact_lock(7318, 2)";

/// Hears rings until the relay stops. Where LISTEN does not work it is tried again, and said once
/// until it does.
pub(super) async fn run(relay: Relay, database: Option<PgConnectOptions>) {
    let Some(database) = database else {
        tracing::info!("no connection for LISTEN: requests are found by polling");
        return;
    };
    let (pulse, shutdown) = (relay.pulse("listen"), relay.shutdown.clone());
    let mut listening = Listening { relay, database, pulse, said: false };
    shutdown.run_until_cancelled(listening.go_on()).await;
}

struct Listening {
    relay: Relay,
    database: PgConnectOptions,
    pulse: Pulse,
    /// Whether it was said that LISTEN does not work.
    said: bool,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "a transaction pooler answers, through which LISTEN hears nothing: give LISTEN_DATABASE_URL the address of \
         Postgres itself or of a pooler in session mode"
    )]
    Shared,
    #[error(
        "my own notification did not arrive within {SELF_TEST:?}: if a pooler stands in between, give \
         LISTEN_DATABASE_URL the address of Postgres itself"
    )]
    Deaf,
    #[error("the connection was lost")]
    Lost,
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl Listening {
    async fn go_on(&mut self) {
        loop {
            self.pulse.beat();
            let Err(error) = self.live().await;
            self.relay.doorbell.set_heard(false);
            let pause = if matches!(error, Error::Shared | Error::Deaf) { RETRY_DEAF } else { RETRY };
            if !std::mem::replace(&mut self.said, true) {
                tracing::warn!(error = chain(&error), "LISTEN does not work now: requests are found by polling");
            }
            self.pulse.waiting(sleep(pause)).await;
        }
    }

    /// One life of the connection.
    async fn live(&mut self) -> Result<Infallible, Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .after_connect(|connection, _| Box::pin(settings::pin(connection)))
            .connect_lazy_with(self.database.clone());
        let lived = match within(self.listen(&pool)).await {
            Ok(listener) => self.hear(listener).await,
            Err(error) => Err(error),
        };
        // With its lock. Who does not answer is left to the system.
        let _ = timeout(SELF_TEST, pool.close()).await;
        lived
    }

    /// A listener that has heard itself. Behind a transaction pooler LISTEN would succeed and hear
    /// nothing; it would stay on a backend that others are given, who would be handed notifications
    /// in the middle of their statements.
    async fn listen(&self, pool: &PgPool) -> Result<PgListener, Error> {
        let mut connection = pool.acquire().await.context("connect")?;
        if is_by_transaction(&mut connection, &self.database).await.context("ask for a session")? {
            return Err(Error::Shared);
        }
        drop(connection);
        let mut listener = PgListener::connect_with(pool).await.context("connect a listener")?;
        listener.eager_reconnect(false);
        listener.ignore_pool_close_event(true);
        listener.listen(CHANNEL).await.context("listen")?;
        self.prove(&mut listener).await?;
        Ok(listener)
    }

    /// Over a connection of the relay's: this one would hear itself even behind a pooler.
    async fn prove(&self, listener: &mut PgListener) -> Result<(), Error> {
        let notify = async |connection: &mut PgConnection| sqlx::raw_sql(NOTIFY_MYSELF).execute(connection).await;
        self.relay.ledger.database().over(notify).await.context("notify myself")?;
        match timeout(SELF_TEST, listener.try_recv()).await {
            Ok(Ok(Some(_))) => {
                // It may have been a request's.
                self.relay.doorbell.rung.notify_one();
                Ok(())
            }
            Ok(Ok(None)) => Err(Error::Lost),
            Ok(Err(error)) => Err(error).context("hear my own notification")?,
            Err(_) => Err(Error::Deaf),
        }
    }

    /// Hears rings until the connection is gone, and holds the lock while intake sleeps.
    async fn hear(&mut self, mut listener: PgListener) -> Result<Infallible, Error> {
        if std::mem::take(&mut self.said) {
            tracing::info!("LISTEN works again");
        }
        let mut awake = self.relay.doorbell.follow();
        // Whether this session holds the lock that says "a relay sleeps".
        let mut held = false;
        loop {
            let wanted = !*awake.borrow_and_update();
            if held != wanted {
                held = within(hold(&mut listener, wanted)).await?;
                self.relay.doorbell.set_heard(held);
                // What was committed before the lock was held has not rung.
                self.relay.doorbell.rung.notify_one();
            }
            let patience = if held == wanted { QUIET } else { RETRY };
            tokio::select! {
                biased;
                _ = awake.changed() => {}
                heard = self.pulse.waiting(timeout(patience, listener.try_recv())) => match heard {
                    Ok(Ok(Some(_))) => self.relay.doorbell.rung.notify_one(),
                    Ok(Ok(None)) => return Err(Error::Lost),
                    Ok(Err(error)) => Err(error).context("hear a notification")?,
                    Err(_) if held == wanted => within(self.prove(&mut listener)).await?,
                    Err(_) => {}
                },
            }
        }
    }
}

/// Takes the lock or gives it back: whether this session holds it now.
async fn hold(listener: &mut PgListener, wanted: bool) -> Result<bool, Error> {
    if !wanted {
        sqlx::raw_sql(WAKE).execute(listener).await.context("say that intake is awake")?;
        return Ok(false);
    }
    if !taken(sqlx::raw_sql(SLEEP).execute(&mut *listener).await).context("say that intake sleeps")? {
        return Ok(false);
    }
    // Requests that take longer to commit are found by the next look.
    taken(sqlx::raw_sql(WAIT_FOR_SILENT).execute(listener).await).context("wait for requests under way")?;
    Ok(true)
}

fn taken<T>(answer: sqlx::Result<T>) -> sqlx::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if met_a_lock(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn within<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(ANSWERS, asked).await.context("no answer in time")?
}
