//! Notifications of new sign-ups, where the connection allows LISTEN. Without them intake polls, and nothing else changes.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use sqlx::{PgPool, postgres::PgListener};
use tokio::{sync::Notify, time::timeout};

use crate::telemetry::health::Pulse;

const CHANNEL: &str = "sluice_intake";
const SELF_TEST: Duration = Duration::from_secs(5);
/// How long Postgres may take until a listener has heard itself.
const ANSWERS: Duration = Duration::from_secs(15);
/// A listener that heard nothing for so long is asked to prove itself again: a dead connection is silent too.
const QUIET: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

/// Turns notifications into wakes, for ever. A connection on which LISTEN does not work is given up at once, with one line.
pub(super) async fn forward(pool: Option<PgPool>, signed_up: Arc<Notify>, pulse: Pulse) {
    let Some(pool) = pool else {
        tracing::info!("no connection for LISTEN: sign-ups are found by polling");
        return;
    };
    loop {
        pulse.beat();
        if let Err(error) = hear(&pool, &signed_up, &pulse).await {
            tracing::warn!(error = format!("{error:#}"), "LISTEN does not work now: sign-ups are found by polling");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Hears notifications until the connection is gone or has been silent for long.
async fn hear(pool: &PgPool, signed_up: &Notify, pulse: &Pulse) -> anyhow::Result<()> {
    let mut listener = timeout(ANSWERS, listen(pool)).await.context("no answer in time")??;
    while let Ok(heard) = pulse.waiting(timeout(QUIET, listener.recv())).await {
        heard.context("hear a notification")?;
        signed_up.notify_one();
    }
    Ok(())
}

/// A listener that has heard itself: behind a transaction pooler LISTEN succeeds and hears nothing.
async fn listen(pool: &PgPool) -> anyhow::Result<PgListener> {
    let mut listener = PgListener::connect_with(pool).await.context("connect a listener")?;
    listener.listen(CHANNEL).await.context("listen")?;
    sqlx::query("select pg_notify($1, 'self-test')").bind(CHANNEL).execute(pool).await.context("notify myself")?;
    match timeout(SELF_TEST, listener.recv()).await {
        Ok(Ok(_)) => Ok(listener),
        Ok(Err(error)) => Err(error).context("hear my own notification"),
        Err(_) => bail!("my own notification did not arrive within {SELF_TEST:?}: is this a transaction pooler?"),
    }
}
