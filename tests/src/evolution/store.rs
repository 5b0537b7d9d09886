//! The server's two views of its instances: rows in its database, and what it has loaded in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::message::{Key, Ticket};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    Close,
    Connecting,
    Open,
}

impl LinkState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Connecting => "connecting",
            Self::Open => "open",
        }
    }
}

/// A webhook row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Webhook {
    pub id: String,
    pub url: Value,
    pub headers: Value,
    pub enabled: bool,
    pub events: Value,
    pub by_events: Value,
    pub base64: Value,
    pub created: Duration,
    pub updated: Duration,
}

impl Webhook {
    pub(super) fn subscribes(&self, event: &str) -> bool {
        self.events.as_array().is_some_and(|events| events.iter().any(|one| one == event))
    }
}

/// Rows of one table that hangs on the instance: an id, times and the settings themselves.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Extra {
    pub id: String,
    pub fields: Map<String, Value>,
    pub created: Duration,
    pub updated: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Disconnection {
    pub code: u16,
    pub object: String,
    pub at: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub id: String,
    pub token: Key,
    pub integration: String,
    pub number: Option<String>,
    pub status: LinkState,
    pub owner_jid: Option<String>,
    pub disconnection: Option<Disconnection>,
    pub created: Duration,
    pub updated: Duration,
    pub webhook: Option<Webhook>,
    pub settings: Option<Extra>,
    pub rabbitmq: Option<Extra>,
    /// WhatsApp credentials are stored: a restart opens the socket without a QR code.
    pub paired: bool,
    pub answered_201: bool,
}

/// The socket to WhatsApp. Its progress is a function of time, so that nobody has to wake up for
/// it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Link {
    Closed,
    /// Showing QR codes since `first_qr`, after `shown` earlier ones.
    Opening {
        opened: Duration,
        first_qr: Duration,
        pairing: Option<String>,
    },
    Open,
    Reopening {
        at: Duration,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Loaded {
    pub id: String,
    pub integration: String,
    pub link: Link,
    /// QR codes shown by earlier sockets.
    pub shown: u32,
}

/// An instance to put into the world by hand.
#[derive(Clone, Debug)]
pub struct Planted {
    pub name: String,
    pub token: String,
    /// The value of `webhook` as in `webhook/set`; none: no webhook row.
    pub webhook: Option<Value>,
    /// A half-made instance has none.
    pub settings: bool,
    /// Whether a caller is to be taken to have had a 201 for it.
    pub answered_201: bool,
    pub integration: String,
    /// The number of the phone that was paired with it.
    pub phone: Option<String>,
}

impl Planted {
    pub fn new(name: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            token: token.into(),
            webhook: None,
            settings: true,
            answered_201: true,
            integration: "WHATSAPP-BAILEYS".to_owned(),
            phone: None,
        }
    }
}

/// One instance as a test sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Instance {
    pub name: String,
    pub id: String,
    #[serde(skip)]
    pub token: Key,
    /// Memory's view; `None` while the instance is not loaded.
    pub state: Option<LinkState>,
    pub webhook: Option<Webhook>,
    pub has_settings: bool,
    pub owner_jid: Option<String>,
    pub answered_201: bool,
    /// A delete has answered and is not done.
    pub leaving: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    pub rows: BTreeMap<String, Row>,
    pub memory: BTreeMap<String, Loaded>,
    /// Which create has a name to itself: only without the quirk that lets several pass.
    pub creating: BTreeMap<String, Ticket>,
    /// Deletes under way by name.
    pub leaving: BTreeMap<String, u32>,
    /// Rows ever inserted, by name.
    pub made: BTreeMap<String, u32>,
}

/// Names that every JavaScript object has: the server looks names up in a plain object.
const INHERITED: [&str; 12] = [
    "__proto__",
    "constructor",
    "hasOwnProperty",
    "isPrototypeOf",
    "propertyIsEnumerable",
    "toLocaleString",
    "toString",
    "valueOf",
    "__defineGetter__",
    "__defineSetter__",
    "__lookupGetter__",
    "__lookupSetter__",
];

impl Store {
    /// Whether memory answers to this name, inherited names included.
    pub fn in_memory(&self, name: &str) -> bool {
        self.memory.contains_key(name) || INHERITED.contains(&name)
    }

    /// The row with this name and id: where there is none, a foreign key fails.
    pub fn row_of(&mut self, name: &str, id: &str) -> Option<&mut Row> {
        self.rows.get_mut(name).filter(|row| row.id == id)
    }

    /// The row that belongs to what memory holds under this name.
    pub fn row_of_memory(&mut self, name: &str) -> Option<&mut Row> {
        let loaded = self.memory.get(name)?;
        self.rows.get_mut(name).filter(|row| row.id == loaded.id)
    }
}

impl Loaded {
    pub fn new(id: String, integration: String) -> Self {
        Self { id, integration, link: Link::Closed, shown: 0 }
    }
}
