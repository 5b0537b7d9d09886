//! An event as others read it: a CloudEvent in JSON (docs/events.md), whose schema's version is in
//! its type.

use chrono::SecondsFormat;
use serde_json::json;
use uuid::Uuid;

use crate::{ledger::Event, telemetry::trace::TRACEPARENT};

/// What a body is, for those who ask before they read it.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";
const SOURCE: &str = "/sluice";
const DEAD: &str = "sluice.run.dead.";

/// A message, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The event's own: what is sent twice has the same.
    pub id: Uuid,
    pub r#type: String,
    pub routing_key: String,
    /// When it happened, in seconds since 1970.
    pub timestamp: u64,
    pub traceparent: Option<String>,
    /// A run needs a person: it is a dead letter too.
    pub is_dead_letter: bool,
    pub body: Vec<u8>,
}

impl Message {
    /// `traceparent` is the context that a consumer's spans belong to.
    pub fn of(event: &Event, traceparent: Option<String>) -> Self {
        let mut envelope = json!({
            "specversion": "1.0",
            "id": event.id,
            "source": SOURCE,
            "type": event.r#type,
            "subject": event.payload.get("subject"),
            "time": event.created_at.to_rfc3339_opts(SecondsFormat::Micros, true),
            "datacontenttype": "application/json",
            "sequence": event.sequence.to_string(),
            "data": event.payload,
        });
        if let Some(context) = &traceparent {
            envelope[TRACEPARENT] = json!(context);
        }
        Self {
            id: event.id,
            r#type: event.r#type.clone(),
            routing_key: event.routing_key.clone(),
            timestamp: u64::try_from(event.created_at.timestamp()).unwrap_or_default(),
            traceparent,
            is_dead_letter: event.r#type.starts_with(DEAD),
            body: envelope.to_string().into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use serde_json::Value;

    use super::*;

    #[test]
    fn an_event_is_a_cloud_event_under_its_own_id() {
        let event = Event {
            id: Uuid::from_u128(7),
            sequence: 2,
            r#type: "sluice.run.dead.v1".to_owned(),
            routing_key: "welcome.dead".to_owned(),
            payload: json!({ "subject": "ada", "reason": "permanent_error" }),
            traceparent: None,
            created_at: DateTime::<Utc>::UNIX_EPOCH + TimeDelta::milliseconds(1500),
        };

        let message = Message::of(&event, Some("00-1-2-01".to_owned()));

        let body: Value = serde_json::from_slice(&message.body).unwrap();
        let expected = json!({
            "specversion": "1.0",
            "id": "00000000-0000-0000-0000-000000000007",
            "source": "/sluice",
            "type": "sluice.run.dead.v1",
            "subject": "ada",
            "time": "1970-01-01T00:00:01.500000Z",
            "datacontenttype": "application/json",
            "sequence": "2",
            "traceparent": "00-1-2-01",
            "data": { "subject": "ada", "reason": "permanent_error" },
        });
        assert_eq!(body, expected);
        assert_eq!((message.timestamp, message.is_dead_letter), (1, true));
    }
}
