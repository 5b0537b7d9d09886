//! Events: claimed, published, sent once more.

use std::time::Duration;

use uuid::Uuid;

use super::{Postgres, limit, read::Held, seconds};
use crate::ledger::{By, Event, EventLedger, Result};

impl EventLedger for Postgres {
    async fn claim_events(&self, publisher: &str, lease: Duration, most: usize) -> Result<Vec<Event>> {
        let publisher = publisher.to_owned();
        let sql = "select * from sluice.claim_events($1, $2, $3)";
        let claim = self.ask(sql, |claim| claim.bind(publisher).bind(seconds(lease)).bind(limit(most)));
        let rows: Vec<Held<Event>> = claim.await?;
        let shown = |Held { of, secrets }: Held<Event>| Event { payload: secrets.cut_from(of.payload), ..of };
        Ok(rows.into_iter().map(shown).collect())
    }

    async fn publish_events(&self, publisher: &str, confirmed: &[Uuid], others: &[Uuid]) -> Result<()> {
        let (publisher, confirmed, others) = (publisher.to_owned(), confirmed.to_vec(), others.to_vec());
        let sql = "select sluice.publish_events($1, $2, $3)";
        self.ask_one(sql, |publish| publish.bind(publisher).bind(confirmed).bind(others)).await
    }
}

impl Postgres {
    /// Let these events go out once more, under the same ids. How many were published before.
    pub async fn replay(&self, events: &[Uuid], by: &By) -> Result<u64> {
        let (events, By { actor, note }) = (events.to_vec(), by.clone());
        let sql = "select sluice.replay_events($1, $2, $3)";
        let (count,): (i64,) = self.ask_one(sql, |replay| replay.bind(events).bind(actor).bind(note)).await?;
        Ok(count.unsigned_abs())
    }
}
