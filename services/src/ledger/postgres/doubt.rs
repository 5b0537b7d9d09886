//! Instances at which two calls may have met: remembered by whoever's call outlived its lease, and looked at again once the
//! run there has succeeded. A transaction each, so that no look waits for another.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use workflows::{definition::LEASE, ids::RunId};

use super::{Postgres, Result, Started, Tx, claim::parse, is_row_fault, limit, seconds, start};
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
        match look_at(ledger, &doubted).await {
            Ok(looks) => started += usize::from(looks),
            Err(error) if matches!(error, Error::Unreadable(_)) || is_row_fault(&error) => {
                tracing::error!(resource = doubted.name, %error, "cannot look at this instance again: mend its rows");
                let mut tx = ledger.begin().await?;
                decide(&mut tx, &doubted, Doubt::Stays).await?;
                tx.commit().await?;
            }
            Err(error) => return Err(error),
        }
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
        let run = second_look(&ledger.setup, parse(&doubted.subject)?, parse(&doubted.name)?);
        let started = start::start_in(ledger, &mut tx, &[run]).await?;
        if !matches!(started[..], [Started::New(_)]) {
            return Ok(false);
        }
    }
    decide(&mut tx, doubted, Doubt::Ends).await?;
    ledger.projection.write(&mut tx, std::slice::from_ref(&doubted.subject), PendingRows::Keep).await?;
    tx.commit().await?;
    Ok(doubted.looks)
}

#[derive(PartialEq)]
enum Doubt {
    Ends,
    /// And takes no place from those that can be looked at.
    Stays,
}

async fn decide(tx: &mut Tx, doubted: &Doubted, doubt: Doubt) -> Result<()> {
    tx.query(
        "update sluice.resource
         set doubted_at = case when $3 then now() end
         where name = $1
           and doubted_at = $2",
    )
    .bind(doubted.name.clone())
    .bind(doubted.doubted_at)
    .bind(doubt == Doubt::Stays)
    .execute(tx.connection())
    .await?;
    Ok(())
}
