//! The Evolution API as a step sees it: a trait whose two implementations are the client and the
//! simulator, the answers as types, and the one table that judges failures (`classify`).
//!
//! `answer` turns a response's bytes into a typed answer or an `ApiError`; `redact` cuts what
//! nobody may see; `webhook` and `rabbitmq` are what is asked of the API for its deliveries;
//! `report` reads the events that it sends by itself; `exclusive` decides right before a call that
//! creates or deletes is sent. Nothing here reads a clock or opens a socket, and no error text here
//! ever holds a secret.

pub mod answer;
pub mod classify;
mod error;
mod event;
mod exclusive;
mod probe;
mod rabbitmq;
pub mod redact;
pub mod report;
mod retry_after;
mod roster;
mod version;
mod webhook;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use error::{Answer, ApiError, ErrorKind, MESSAGE_CHARS, Shape};
pub use event::{Event, UnknownEvent};
pub use exclusive::ExclusiveApi;
pub use probe::HostProbe;
pub use rabbitmq::{AmqpMode, Rabbitmq};
pub use retry_after::RetryAfter;
pub use roster::Roster;
pub use version::{Support, TRIED, Version};
pub use webhook::{Digest, StoredWebhook, Webhook};

use crate::{secret::Secret, whatsapp::names::InstanceName};

/// An answer of the API that is still to come.
pub trait Asked<T>: Future<Output = Result<T, ApiError>> + Send {}

impl<T, F: Future<Output = Result<T, ApiError>> + Send> Asked<T> for F {}

/// The calls that our workflows make, and the waiting between them. No implementation retries or
/// follows redirects.
pub trait Evolution: Sync {
    /// The instance's row, from the list filtered by its name. `None`: the list came and does not
    /// hold it. A name that is not in the API's memory is a 404, whatever its database holds.
    fn fetch(&self, name: &InstanceName) -> impl Asked<Option<Listed>>;

    /// The same list, asked for with the instance's own token: that is looked up in the database
    /// before the memory.
    fn fetch_own(&self, name: &InstanceName, token: &Secret) -> impl Asked<Own>;

    /// Every instance in the API's database, loaded or not. The list is never begun before it is
    /// asked for; those who ask at the same moment share one.
    fn roster(&self) -> impl Asked<Arc<Roster>>;

    /// The state in the API's memory. `None`: the row exists but is not in memory (loading or
    /// leaving).
    fn connection_state(&self, name: &InstanceName) -> impl Asked<Option<ApiState>>;

    /// Asks for a QR code, and opens a socket to WhatsApp where none is open. No answer within that
    /// time is no answer.
    fn connect(&self, name: &InstanceName, within: Duration) -> impl Asked<Connect>;

    /// Sets the webhook: an upsert, safe to repeat.
    fn set_webhook(&self, name: &InstanceName, webhook: &Webhook) -> impl Asked<StoredWebhook>;

    /// The webhook as it is stored. `None`: none was set, or the instance is loading.
    fn find_webhook(&self, name: &InstanceName) -> impl Asked<Option<StoredWebhook>>;

    /// Sets what the API publishes of the instance to its RabbitMQ: an upsert, safe to repeat.
    fn set_rabbitmq(&self, name: &InstanceName, rabbitmq: &Rabbitmq) -> impl Asked<Rabbitmq>;

    /// What the API publishes of the instance. `None`: nothing was set, or the instance is loading.
    fn find_rabbitmq(&self, name: &InstanceName) -> impl Asked<Option<Rabbitmq>>;

    /// Whether the instance has its row of settings, which a create that was cut off does not
    /// leave. "No" is no proof: the API says the same of an instance that is loading, and where its
    /// database is away.
    fn has_settings(&self, name: &InstanceName) -> impl Asked<bool>;

    /// Stores the settings that a create stores: an upsert, safe to repeat.
    fn set_settings(&self, name: &InstanceName) -> impl Asked<()>;

    /// Which version the API says it is. The API asks WhatsApp before it answers: the time for it
    /// is short.
    fn version(&self) -> impl Asked<Version>;

    /// Whether the API's database answers, with a question that the API's memory cannot answer.
    fn database(&self) -> impl Asked<()>;

    /// Whether the API answers and takes the global key.
    fn verify_creds(&self) -> impl Asked<()>;

    /// Waits inside an attempt: real time in the client, virtual time in the simulator.
    fn pause(&self, duration: Duration) -> impl Future<Output = ()> + Send;

    /// The time since some moment before the first call; it never runs backwards.
    fn elapsed(&self) -> Duration;
}

/// The calls that create or delete, which an attempt makes through `ExclusiveApi` alone: what is
/// lent an `Evolution` has none of them.
pub trait ExclusiveEvolution: Evolution {
    /// Makes an instance with our token, without a QR code and without a webhook.
    fn create(&self, name: &InstanceName, token: &Secret) -> impl Asked<Created>;

    /// Deletes the instance with *its own* token, so that a newer instance of that name is not hit.
    /// The API answers before the work is done.
    fn delete(&self, name: &InstanceName, token: &Secret) -> impl Asked<()>;

    /// Deletes whatever the API holds under this name, with the global key: for what a failed
    /// create of ours left behind, which has no token. The API answers before the work is done.
    fn discard(&self, name: &InstanceName) -> impl Asked<()>;
}

/// Which call: a label of errors, spans and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    Create,
    Fetch,
    FetchOwn,
    Roster,
    ConnectionState,
    Connect,
    SetWebhook,
    FindWebhook,
    SetRabbitmq,
    FindRabbitmq,
    FindSettings,
    SetSettings,
    Delete,
    Discard,
    Version,
    Database,
    VerifyCreds,
}

impl Call {
    /// The method and the route, as they are sent, shown to people and used as a span's name.
    pub fn route(self) -> &'static str {
        match self {
            Self::Create => "POST /instance/create",
            Self::Fetch | Self::FetchOwn | Self::Roster | Self::Database => "GET /instance/fetchInstances",
            Self::ConnectionState => "GET /instance/connectionState/{instance}",
            Self::Connect => "GET /instance/connect/{instance}",
            Self::SetWebhook => "POST /webhook/set/{instance}",
            Self::FindWebhook => "GET /webhook/find/{instance}",
            Self::SetRabbitmq => "POST /rabbitmq/set/{instance}",
            Self::FindRabbitmq => "GET /rabbitmq/find/{instance}",
            Self::FindSettings => "GET /settings/find/{instance}",
            Self::SetSettings => "POST /settings/set/{instance}",
            Self::Delete | Self::Discard => "DELETE /instance/delete/{instance}",
            Self::Version => "GET /",
            Self::VerifyCreds => "POST /verify-creds",
        }
    }

    /// Whether this error is an answer to what was asked: a read-back asks whether something is
    /// there, and 404 says no.
    pub fn is_answered_by(self, error: &ErrorKind) -> bool {
        let ErrorKind::Answer(answer) = error else { return false };
        matches!(self, Self::Fetch | Self::ConnectionState) && answer.status == 404 && answer.shape == Shape::Listed
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.route())
    }
}

/// What a create answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The token as the API holds it: `hash` as a text (2.x) or its `apikey` (1.8). `None` where it
    /// was a JWT.
    pub token: Option<Secret>,
    pub instance_id: Option<String>,
}

/// An instance's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub instance_id: Option<String>,
    pub token: Option<Secret>,
    /// The database's view, which lags behind `connection_state`.
    pub status: Option<ApiState>,
    pub kind: Kind,
    pub pairing: classify::Pairing,
    /// The number of the phone that it was last paired with.
    pub phone_number: Option<String>,
    /// Whether it has its row of settings. `None`: the list does not say.
    pub has_settings: Option<bool>,
}

/// What kind of instance a row is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A WhatsApp client as we make them, or the API does not say.
    Ours,
    /// Another integration, by its name.
    Other(String),
}

/// What the API says to an instance's own token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    Loaded(Listed),
    /// The database has the row; it is not in the API's memory.
    NotLoaded,
    /// No row has this name and this token, or the API's database is away: the API says the same to
    /// both.
    NoSuchRow,
}

/// The settings that a create stores where it names none, as the body of a request.
pub fn default_settings() -> Value {
    json!({
        "rejectCall": false,
        "msgCall": "",
        "groupsIgnore": false,
        "alwaysOnline": false,
        "readMessages": false,
        "readStatus": false,
        "syncFullHistory": false,
        "wavoipToken": "",
    })
}

/// The state of an instance's connection to WhatsApp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiState {
    Open,
    Connecting,
    Close,
}

/// What a connect answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connect {
    /// A QR code, as a `data:image/png;base64,…` URL.
    Qr(Secret),
    /// The socket is being opened, no code came yet.
    NotYet,
    /// Paired and connected: there is nothing to scan.
    Open,
}
