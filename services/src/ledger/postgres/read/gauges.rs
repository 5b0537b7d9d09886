//! How the whole system stands, for the metrics of relays: what `queue stats` shows, kept in one
//! row that all relays share. However many relays and scrapers ask, it is taken once in `max_age`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Gate, OpenLetters, Pending, Postgres, Result, Steps, begin,
    queues::{gates, open_letters, pending_projections, steps},
    seconds,
};
use crate::{database::Tx, ledger::Error};

/// How the system stands.
#[derive(Debug, Clone)]
pub struct Gauges {
    /// The database's own time when it was asked: ages count to here.
    pub now: DateTime<Utc>,
    pub taken: Taken,
}

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// Of every queue that a build has registered.
    pub steps: Vec<Steps>,
    pub gates: Vec<Gate>,
    pub letters: Vec<OpenLetters>,
    pub pending: Pending,
    /// When the oldest unpublished event was written.
    pub oldest_event_at: Option<DateTime<Utc>>,
}

/// How the system stands now. Keeps nothing: a standby answers too.
pub async fn standing(ledger: &Postgres) -> Result<Taken> {
    take(&mut begin(ledger).await?).await
}

/// The gauges, none older than `max_age`, unless another relay is taking them this moment.
pub async fn gauges(ledger: &Postgres, max_age: Duration) -> Result<Gauges> {
    let write = "begin isolation level read committed read write; \
        set local lock_timeout = '1s'; \
        set local statement_timeout = '2s'; \
        set local idle_in_transaction_session_timeout = '10s'; \
        set local jit = off";
    let mut tx = ledger.database.begin_with(write).await?;
    let gauges = match lock_if_older(&mut tx, max_age).await? {
        Some(now) => {
            let taken = take(&mut tx).await?;
            let kept = serde_json::to_value(&taken).map_err(|error| Error::Unreadable(error.to_string()))?;
            let keep = tx.query("update sluice.gauges set taken_at = now(), taken = $1").bind(kept);
            keep.execute(tx.connection()).await?;
            Gauges { now, taken }
        }
        None => kept(&mut tx).await?,
    };
    tx.commit().await?;
    Ok(gauges)
}

/// The right to take them anew, where they are too old and nobody else does: whoever finds the row
/// locked reads what is there. Returns the moment.
async fn lock_if_older(tx: &mut Tx, age: Duration) -> Result<Option<DateTime<Utc>>> {
    let sql = "select now()
        from sluice.gauges
        where taken_at < now() - make_interval(secs => $1)
        for no key update skip locked";
    let mine: Option<(DateTime<Utc>,)> = tx.query_as(sql).bind(seconds(age)).fetch_optional(tx.connection()).await?;
    Ok(mine.map(|(now,)| now))
}

async fn take(tx: &mut Tx) -> Result<Taken> {
    let oldest = tx.query_as("select min(created_at) from sluice.event where published_at is null");
    let (oldest_event_at,) = oldest.fetch_one(tx.connection()).await?;
    Ok(Taken {
        steps: steps(tx).await?,
        gates: gates(tx).await?,
        letters: open_letters(tx).await?,
        pending: pending_projections(tx).await?,
        oldest_event_at,
    })
}

/// What another relay took. One of another version may have kept another form: then they are taken
/// again, and not kept.
async fn kept(tx: &mut Tx) -> Result<Gauges> {
    let (kept, now): (Value, DateTime<Utc>) =
        tx.query_as("select taken, now() from sluice.gauges").fetch_one(tx.connection()).await?;
    let taken = match serde_json::from_value(kept) {
        Ok(taken) => taken,
        Err(_) => take(tx).await?,
    };
    Ok(Gauges { now, taken })
}
