//! Lost sign-ups: profiles since the adoption of Sluice that have neither queue row nor instance
//! row nor run. The trigger was off, or met an error.

use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use tokio::{sync::OnceCell, time::Instant};
use uuid::Uuid;

use crate::{
    ledger::{Error, Result, postgres::Postgres},
    relay::{Duty, Next},
    telemetry::metrics::{Metrics, names},
};

/// The most that one round queues.
const BATCH: u64 = 1000;

/// How long one round looks for lost sign-ups: the loop that does it has others to live up to.
const FINDS_FOR: Duration = Duration::from_secs(5);

/// Looks for the lost sign-ups of the last `since`, at each `tick`.
pub struct Finder {
    since: Duration,
    tick: Duration,
    /// Whether the users from before the adoption were reported; none where another finder reports
    /// them.
    reported: Option<OnceCell<()>>,
}

impl Finder {
    /// The recent ones are looked for all the time. It overlaps even where a relay was away for a
    /// while.
    pub fn of_recent() -> Self {
        Self { since: Duration::from_secs(15 * 60), tick: Duration::from_secs(30), reported: None }
    }

    /// All since the adoption: a hundred years are always enough.
    pub fn of_all() -> Self {
        let (since, tick) = (Duration::from_secs(100 * 365 * 86_400), Duration::from_secs(3600));
        Self { since, tick, reported: Some(OnceCell::new()) }
    }
}

impl Duty for Finder {
    fn what(&self) -> &'static str {
        "find lost sign-ups"
    }

    fn tick(&self) -> Duration {
        self.tick
    }

    fn round<'a>(&'a self, ledger: &'a Postgres, metrics: &'a Metrics) -> BoxFuture<'a, anyhow::Result<Next>> {
        Box::pin(async move {
            if let Some(reported) = self.reported.as_ref().filter(|reported| !reported.initialized()) {
                reported.get_or_init(|| report_older(ledger)).await;
                return Ok(Next::AtOnce);
            }
            let found = find_once(ledger, self.since).await?;
            metrics.count(&names::LOST_SIGN_UPS_FOUND, [], found);
            Ok(if found >= BATCH { Next::AtOnce } else { Next::AtTick })
        })
    }
}

/// Says how many users from before the adoption have nothing of ours: whether they get something is
/// for a person.
async fn report_older(ledger: &Postgres) {
    let count = ledger.database().ask_one("select sluice.older_sign_ups()", |ask| ask);
    match ledger.within(async { Ok(count.await?) }).await {
        Ok((0_i64,)) => {}
        Ok((users,)) => tracing::info!(users, "users from before the adoption have no instance; they are not started"),
        Err(error) => tracing::warn!(%error, "cannot count the users from before the adoption"),
    }
}

/// Gives each lost sign-up of the last `since` a queue row; intake does the rest. How many there
/// were.
pub async fn find_once(ledger: &Postgres, since: Duration) -> anyhow::Result<u64> {
    let queued = queue_lost(ledger, since).await.context("find lost sign-ups")?;
    if queued > 0 {
        tracing::warn!(queued, "found sign-ups that had no queue row");
    }
    Ok(queued)
}

/// A transaction each, so that no row of the app's is locked while another is waited for; and for a
/// while only.
async fn queue_lost(ledger: &Postgres, since: Duration) -> Result<u64> {
    let began = Instant::now();
    let mut queued = 0;
    for (user,) in ledger.within(lost(ledger, since)).await? {
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

/// Users who signed up in the last `since` and have nothing. In no order: those whose row the app
/// refuses hold up nobody.
async fn lost(ledger: &Postgres, since: Duration) -> Result<Vec<(Uuid,)>> {
    let find = "select user_id from sluice.lost_sign_ups(make_interval(secs => $1)) order by random() limit $2";
    let most = i64::try_from(BATCH).unwrap_or(i64::MAX);
    Ok(ledger.database().ask(find, |find| find.bind(since.as_secs_f64()).bind(most)).await?)
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
