//! Instances at which two calls may have met: remembered by whoever's call outlived its lease, and looked at again once the
//! run there has succeeded. A transaction each, so that no look waits for another.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use workflows::{definition::LEASE, ids::RunId};

use super::{Postgres, Result, Started, limit, seconds, start};
use crate::{
    ledger::{Error, second_look},
    supabase::PendingRows,
};

pub(super) async fn doubt(ledger: &Postgres, run: RunId) -> Result<()> {
    let mut tx = ledger.begin().await?;
    tx.query(
        "update sluice.resource
         set doubted_at = now()
         where name = (select resource from sluice.run where id = $1)",
    )
    .bind(run.uuid())
    .execute(tx.connection())
    .await?;
    tx.commit().await
}

pub(super) async fn look_again(ledger: &Postgres, most: usize) -> Result<usize> {
    let mut started = 0;
    for doubted in doubted(ledger, most).await? {
        started += usize::from(look_at(ledger, &doubted).await?);
    }
    Ok(started)
}

#[derive(FromRow)]
struct Doubted {
    name: String,
    subject: String,
    doubted_at: DateTime<Utc>,
    /// The last run there was a sign-up's, and has succeeded.
    looks: bool,
}

/// Those that nothing can be under way at any more, and that no run is at work on.
async fn doubted(ledger: &Postgres, most: usize) -> Result<Vec<Doubted>> {
    let mut tx = ledger.begin().await?;
    let rows = tx
        .query_as(
            "select resource.name, instance.subject, resource.doubted_at,
               last.state = 'succeeded' and last.workflow = $3 as looks
             from sluice.resource
             join sluice.instance on instance.name = resource.name
             cross join lateral (
               select run.workflow, run.state
               from sluice.run
               where run.subject = instance.subject
                 and run.resource = resource.name
               order by run.created_at desc, run.id desc
               limit 1
             ) as last
             where resource.doubted_at < now() - make_interval(secs => $1)
               and last.state <> 'active'
             order by resource.doubted_at
             limit $2",
        )
        .bind(seconds(LEASE))
        .bind(limit(most))
        .bind(ledger.setup.on_sign_up.to_string())
        .fetch_all(tx.connection())
        .await?;
    tx.commit().await?;
    Ok(rows)
}

/// Whether it needs a look, and gets one. Where somebody has started a run meanwhile, or doubts it anew, a later round decides.
async fn look_at(ledger: &Postgres, doubted: &Doubted) -> Result<bool> {
    let mut tx = ledger.begin().await?;
    if doubted.looks {
        let unreadable = |error| Error::Unreadable(format!("{error}"));
        let subject = doubted.subject.parse().map_err(unreadable)?;
        let name = doubted.name.parse().map_err(unreadable)?;
        let started = start::start_in(ledger, &mut tx, &[second_look(&ledger.setup, subject, name)]).await?;
        if !matches!(started[..], [Started::New(_)]) {
            return Ok(false);
        }
    }
    tx.query("update sluice.resource set doubted_at = null where name = $1 and doubted_at = $2")
        .bind(doubted.name.clone())
        .bind(doubted.doubted_at)
        .execute(tx.connection())
        .await?;
    ledger.projection.write(&mut tx, std::slice::from_ref(&doubted.subject), PendingRows::Keep).await?;
    tx.commit().await?;
    Ok(doubted.looks)
}
