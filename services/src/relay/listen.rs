//! Notifications of new sign-ups, where the connection allows LISTEN. Without them intake polls, and nothing else changes.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use sqlx::{PgPool, postgres::PgListener};
use tokio::{sync::Notify, time::timeout};

use crate::{ledger::postgres::is_by_transaction, telemetry::health::Pulse};

const CHANNEL: &str = "sluice_intake";
/// To `CHANNEL`. In the simple protocol: a pooler must not lose it between its parse and its run.
const NOTIFY_MYSELF: &str = "select pg_notify('sluice_intake', 'self-test')";
/// Sign-ups notify only where somebody holds this.
const SLEEP: &str = "select pg_advisory_lock_shared(7318, 1)";
const SELF_TEST: Duration = Duration::from_secs(5);
/// How long Postgres may take until a listener has heard itself.
const ANSWERS: Duration = Duration::from_secs(15);
/// A listener that heard nothing for so long is asked to prove itself again: a dead connection is silent too.
const QUIET: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);
/// A pooler will hardly change its mode soon.
const RETRY_DEAF: Duration = Duration::from_secs(60);

/// Turns notifications into wakes, for ever. Where LISTEN does not work it is tried again, and said once until it does.
pub(super) async fn forward(pool: Option<PgPool>, signed_up: Arc<Notify>, pulse: Pulse) {
    let Some(pool) = pool else {
        tracing::info!("no connection for LISTEN: sign-ups are found by polling");
        return;
    };
    let mut polls = false;
    loop {
        pulse.beat();
        let heard = match within(listen(&pool)).await {
            Ok(listener) => {
                if std::mem::take(&mut polls) {
                    tracing::info!("LISTEN works again");
                }
                hear(listener, &signed_up, &pulse).await
            }
            Err(error) => Err(error),
        };
        let pause = if matches!(heard, Err(Error::Shared | Error::Deaf)) { RETRY_DEAF } else { RETRY };
        if let Err(error) = heard
            && !std::mem::replace(&mut polls, true)
        {
            tracing::warn!(error = error.to_string(), "LISTEN does not work now: sign-ups are found by polling");
        }
        pulse.waiting(tokio::time::sleep(pause)).await;
    }
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
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// Hears notifications until the connection is gone or has been silent for long.
async fn hear(mut listener: PgListener, signed_up: &Notify, pulse: &Pulse) -> Result<(), Error> {
    while let Ok(heard) = pulse.waiting(timeout(QUIET, listener.recv())).await {
        heard.context("hear a notification")?;
        signed_up.notify_one();
    }
    Ok(())
}

async fn within(listen: impl Future<Output = Result<PgListener, Error>>) -> Result<PgListener, Error> {
    timeout(ANSWERS, listen).await.context("no answer in time")?
}

/// A listener that has heard itself. Behind a transaction pooler LISTEN would succeed and hear nothing; it would stay on a
/// backend that others are given, who would be handed notifications in the middle of their statements.
async fn listen(pool: &PgPool) -> Result<PgListener, Error> {
    let mut connection = pool.acquire().await.context("connect")?;
    if is_by_transaction(&mut connection, &pool.connect_options()).await.context("ask for a session")? {
        return Err(Error::Shared);
    }
    drop(connection);
    let mut listener = PgListener::connect_with(pool).await.context("connect a listener")?;
    listener.listen(CHANNEL).await.context("listen")?;
    sqlx::raw_sql(SLEEP).execute(&mut listener).await.context("say that this relay sleeps")?;
    sqlx::raw_sql(NOTIFY_MYSELF).execute(pool).await.context("notify myself")?;
    match timeout(SELF_TEST, listener.recv()).await {
        Ok(Ok(_)) => Ok(listener),
        Ok(Err(error)) => Err(error).context("hear my own notification")?,
        Err(_) => Err(Error::Deaf),
    }
}
