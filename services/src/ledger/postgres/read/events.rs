//! Events by filter.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::FromRow;
use uuid::Uuid;
use workflows::ids::RunId;

use super::{Held, Postgres, Result, begin, capped, seconds};

/// Which events: all that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    pub ids: Vec<Uuid>,
    /// The beginning of the type.
    pub r#type: Option<String>,
    pub subject: Option<String>,
    pub run: Option<RunId>,
    /// Whether others have it.
    pub published: Option<bool>,
    /// Written within so long.
    pub since: Option<Duration>,
}

/// An event, and whether others have it.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct ListedEvent {
    pub id: Uuid,
    pub sequence: i32,
    pub r#type: String,
    pub routing_key: String,
    pub subject: Option<String>,
    pub data: Value,
    pub created_at: DateTime<Utc>,
    pub published_at: Option<DateTime<Utc>>,
}

/// Up to `limit` events that fit, the youngest first.
pub async fn events(ledger: &Postgres, filter: &EventFilter, limit: usize) -> Result<Vec<ListedEvent>> {
    let mut tx = begin(ledger).await?;
    let sql = "select event.id, event.sequence, event.type, event.routing_key, event.payload ->> 'subject' as subject,
          event.payload as data, event.created_at, event.published_at, held.secret, held.memory
        from sluice.event
        left join sluice.resource as held
          on held.name = event.payload ->> 'resource'
        where (cardinality($1::uuid[]) = 0 or event.id = any($1))
          and ($2::text is null or starts_with(event.type, $2))
          and ($3::text is null or event.payload ->> 'subject' = $3)
          and ($4::uuid is null or event.run_id = $4)
          and ($5::boolean is null or (event.published_at is not null) = $5)
          and ($6::float8 is null or event.created_at > now() - make_interval(secs => $6))
        order by event.created_at desc, event.run_id, event.sequence desc
        limit $7";
    let ask = tx.query_as(sql).bind(filter.ids.clone()).bind(filter.r#type.clone()).bind(filter.subject.clone());
    let ask = ask.bind(filter.run.map(RunId::uuid)).bind(filter.published);
    let ask = ask.bind(filter.since.map(seconds)).bind(capped(limit));
    let rows: Vec<Held<ListedEvent>> = ask.fetch_all(tx.connection()).await?;
    tx.commit().await?;
    let shown = |Held { of, secrets }: Held<ListedEvent>| ListedEvent { data: secrets.cut_from(of.data), ..of };
    Ok(rows.into_iter().map(shown).collect())
}
