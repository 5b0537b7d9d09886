//! What is asked of the API for an instance's deliveries, and what it says that it has. URL and
//! header values may hold tokens: they print as `***`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Event;
use crate::secret::Secret;

/// A webhook to be set. A header named `jwt_key` is not sent but signs a token for each delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook<E = Event> {
    pub enabled: bool,
    pub url: Secret,
    pub events: BTreeSet<E>,
    pub headers: BTreeMap<String, Secret>,
    pub by_events: bool,
    pub base64: bool,
}

/// A webhook as the API stores it. Events are texts: the API does not check those that came inside
/// a create.
pub type StoredWebhook = Webhook<String>;

impl Webhook {
    /// The request body. Every field is sent, since the API keeps the stored value of one that is
    /// left out; the keys differ from those that it answers with.
    pub fn body(&self) -> Value {
        let events: Vec<&str> = self.events.iter().map(AsRef::as_ref).collect();
        json!({ "webhook": {
            "enabled": self.enabled,
            "url": self.url.expose(),
            "events": events,
            "headers": exposed(&self.headers),
            "byEvents": self.by_events,
            "base64": self.base64,
        }})
    }

    /// The texts in it that nobody may see.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.url).chain(self.headers.values())
    }

    /// Which fields are stored otherwise than asked, by name.
    pub fn differences(&self, stored: &StoredWebhook) -> Vec<&'static str> {
        let fields = self.fields().into_iter().zip(stored.fields());
        fields.filter(|(asked, stored)| asked != stored).map(|((field, _), _)| field).collect()
    }
}

/// What a webhook is, without what it holds: of each field a digest (64-bit FNV-1a), by its name.
/// A later look at the API tells from it which fields have changed since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(BTreeMap<String, String>);

impl Digest {
    /// The fields that the other one has otherwise, by name.
    pub fn differences(&self, other: &Self) -> Vec<&str> {
        self.0.iter().filter(|(field, digest)| other.0.get(*field) != Some(digest)).map(|(field, _)| &**field).collect()
    }
}

impl<E: AsRef<str>> Webhook<E> {
    pub fn digest(&self) -> Digest {
        let digest = |value: Value| {
            let start = 0xcbf2_9ce4_8422_2325_u64;
            let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            format!("{:016x}", value.to_string().bytes().fold(start, mix))
        };
        Digest(self.fields().map(|(field, value)| (field.to_owned(), digest(value))).into())
    }

    /// What two webhooks are told apart by. The order of events says nothing.
    fn fields(&self) -> [(&'static str, Value); 6] {
        let events: BTreeSet<&str> = self.events.iter().map(AsRef::as_ref).collect();
        [
            ("enabled", json!(self.enabled)),
            ("url", json!(self.url.expose())),
            ("events", json!(events)),
            ("headers", exposed(&self.headers)),
            ("byEvents", json!(self.by_events)),
            ("base64", json!(self.base64)),
        ]
    }
}

fn exposed(headers: &BTreeMap<String, Secret>) -> Value {
    headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect()
}
