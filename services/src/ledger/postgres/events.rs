//! Events: claimed, published, sent once more.

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;

use super::{Postgres, Result, limit, read::Secrets, seconds};
use crate::ledger::{By, Event};

#[derive(FromRow)]
struct EventRow {
    #[sqlx(flatten)]
    event: Event,
    #[sqlx(flatten)]
    secrets: Secrets,
}

impl From<EventRow> for Event {
    fn from(EventRow { mut event, secrets }: EventRow) -> Self {
        secrets.cut_from(&mut event.payload);
        event
    }
}

pub(super) async fn claim(ledger: &Postgres, publisher: &str, lease: Duration, most: usize) -> Result<Vec<Event>> {
    let publisher = publisher.to_owned();
    let sql = "select * from sluice.claim_events($1, $2, $3)";
    let claim = ledger.database.ask(sql, |claim| claim.bind(publisher).bind(seconds(lease)).bind(limit(most)));
    let rows: Vec<EventRow> = claim.await?;
    Ok(rows.into_iter().map(Event::from).collect())
}

pub(super) async fn publish(ledger: &Postgres, publisher: &str, confirmed: &[Uuid], others: &[Uuid]) -> Result<()> {
    let (publisher, confirmed, others) = (publisher.to_owned(), confirmed.to_vec(), others.to_vec());
    let sql = "select sluice.publish_events($1, $2, $3)";
    let publish = ledger.database.ask_one(sql, |publish| publish.bind(publisher).bind(confirmed).bind(others));
    let _: (i64,) = publish.await?;
    Ok(())
}

pub(super) async fn replay(ledger: &Postgres, events: &[Uuid], by: &By) -> Result<u64> {
    let (events, by) = (events.to_vec(), by.clone());
    let sql = "select sluice.replay_events($1, $2, $3)";
    let replay = ledger.database.ask_one(sql, |replay| replay.bind(events).bind(by.actor).bind(by.note));
    let (count,): (i64,) = replay.await?;
    Ok(count.unsigned_abs())
}
