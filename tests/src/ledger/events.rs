//! Events on their way to a broker: of each run one at a time.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, TimeDelta};
use sluice::ledger::{Event, EventLedger, Result};
use uuid::Uuid;

use super::{EventRow, ModelLedger, Safeguard, Tx};

impl EventRow {
    /// The same for as long as the row lives.
    pub fn id(&self) -> Uuid {
        Uuid::from_u128(self.run.uuid().as_u128() ^ (u128::from(self.sequence) << 96))
    }

    fn event(&self) -> Event {
        let what = self.routing_key.rsplit('.').next().unwrap_or_default();
        let since = TimeDelta::from_std(self.created_at).unwrap_or_default();
        Event {
            id: self.id(),
            sequence: self.sequence,
            r#type: format!("sluice.run.{what}.v1"),
            routing_key: self.routing_key.clone(),
            payload: self.payload.clone(),
            traceparent: self.traceparent.clone(),
            created_at: DateTime::UNIX_EPOCH + since,
        }
    }
}

impl Tx<'_> {
    fn claim_events(&mut self, publisher: &str, lease: Duration, most: usize) -> Vec<Event> {
        let (now, in_order) = (self.now, self.removed != Some(Safeguard::EventOrder));
        let mut runs = BTreeSet::new();
        let waiting = self.tables.events.iter_mut().filter(|event| !event.is_published);
        let first = waiting.filter(|event| runs.insert(event.run) || !in_order);
        let free = first.filter(|event| event.claimed.as_ref().is_none_or(|(_, until)| *until < now));
        let claim = |event: &mut EventRow| {
            event.claimed = Some((publisher.to_owned(), now + lease));
            event.event()
        };
        free.take(most).map(claim).collect()
    }

    fn publish_events(&mut self, publisher: &str, confirmed: &[Uuid], unconfirmed: &[Uuid]) {
        for event in self.tables.events.iter_mut().filter(|event| !event.is_published) {
            let is_ours = event.claimed.as_ref().is_some_and(|(name, _)| name == publisher);
            if confirmed.contains(&event.id()) {
                (event.is_published, event.claimed) = (true, None);
            } else if is_ours && unconfirmed.contains(&event.id()) {
                event.claimed = None;
            }
        }
    }
}

impl EventLedger for ModelLedger {
    async fn claim_events(&self, publisher: &str, lease: Duration, most: usize) -> Result<Vec<Event>> {
        Ok(self.transact(|tx| tx.claim_events(publisher, lease, most)))
    }

    async fn publish_events(&self, publisher: &str, confirmed: &[Uuid], unconfirmed: &[Uuid]) -> Result<()> {
        self.transact(|tx| tx.publish_events(publisher, confirmed, unconfirmed));
        Ok(())
    }
}
