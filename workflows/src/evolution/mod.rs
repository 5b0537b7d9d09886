//! The Evolution API as a step sees it: a trait whose two implementations are the client and the simulator, the answers
//! as types, and the one table that judges failures (`classify`).
//!
//! `answer` turns a response's bytes into a typed answer or an `ApiError`; `redact` cuts what nobody may see; `webhook` is
//! what is asked of the API for its deliveries; `guarded` decides right before a call that creates or deletes is sent.
//! Nothing here reads a clock or opens a socket, and no error text here ever holds a secret.

pub mod answer;
pub mod classify;
mod error;
mod event;
mod guarded;
pub mod redact;
mod retry_after;
mod webhook;

use std::{fmt, future::Future, time::Duration};

use serde::{Deserialize, Serialize};

pub use error::{Answer, ApiError, ErrorKind, MESSAGE_CHARS, Shape};
pub use event::{Event, UnknownEvent};
pub use guarded::{Flight, Guarded, Permission};
pub use retry_after::RetryAfter;
pub use webhook::{StoredWebhook, Webhook};

use crate::{ids::InstanceName, secret::Secret};

/// The calls that our workflows make, and the waiting between them. No implementation retries or follows redirects.
pub trait Evolution: Sync {
    /// Makes an instance with our token, without a QR code and without a webhook.
    fn create(&self, name: &InstanceName, token: &Secret) -> impl Future<Output = Result<Created, ApiError>> + Send;

    /// The instance's row, from the list filtered by its name. `None`: the list came and does not hold it. An unknown name
    /// is a 404.
    fn fetch(&self, name: &InstanceName) -> impl Future<Output = Result<Option<Listed>, ApiError>> + Send;

    /// The state in the API's memory. `None`: the row exists but is not in memory (loading or leaving).
    fn connection_state(&self, name: &InstanceName) -> impl Future<Output = Result<Option<ApiState>, ApiError>> + Send;

    /// Asks for a QR code; opens a socket to WhatsApp where none is open.
    fn connect(&self, name: &InstanceName) -> impl Future<Output = Result<Connect, ApiError>> + Send;

    /// Sets the webhook: an upsert, safe to repeat.
    fn set_webhook(
        &self,
        name: &InstanceName,
        webhook: &Webhook,
    ) -> impl Future<Output = Result<StoredWebhook, ApiError>> + Send;

    /// The webhook as it is stored. `None`: none was set, or the instance is loading.
    fn find_webhook(&self, name: &InstanceName)
    -> impl Future<Output = Result<Option<StoredWebhook>, ApiError>> + Send;

    /// Deletes the instance with *its own* token, so that a newer instance of that name is not hit. The API answers before
    /// the work is done.
    fn delete(&self, name: &InstanceName, token: &Secret) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Whether the API answers and takes the global key.
    fn verify_creds(&self) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Waits inside an attempt: real time in the client, virtual time in the simulator.
    fn pause(&self, duration: Duration) -> impl Future<Output = ()> + Send;
}

impl<E: Evolution> Evolution for &E {
    fn create(&self, name: &InstanceName, token: &Secret) -> impl Future<Output = Result<Created, ApiError>> + Send {
        (**self).create(name, token)
    }

    fn fetch(&self, name: &InstanceName) -> impl Future<Output = Result<Option<Listed>, ApiError>> + Send {
        (**self).fetch(name)
    }

    fn connection_state(&self, name: &InstanceName) -> impl Future<Output = Result<Option<ApiState>, ApiError>> + Send {
        (**self).connection_state(name)
    }

    fn connect(&self, name: &InstanceName) -> impl Future<Output = Result<Connect, ApiError>> + Send {
        (**self).connect(name)
    }

    fn set_webhook(
        &self,
        name: &InstanceName,
        webhook: &Webhook,
    ) -> impl Future<Output = Result<StoredWebhook, ApiError>> + Send {
        (**self).set_webhook(name, webhook)
    }

    fn find_webhook(
        &self,
        name: &InstanceName,
    ) -> impl Future<Output = Result<Option<StoredWebhook>, ApiError>> + Send {
        (**self).find_webhook(name)
    }

    fn delete(&self, name: &InstanceName, token: &Secret) -> impl Future<Output = Result<(), ApiError>> + Send {
        (**self).delete(name, token)
    }

    fn verify_creds(&self) -> impl Future<Output = Result<(), ApiError>> + Send {
        (**self).verify_creds()
    }

    fn pause(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        (**self).pause(duration)
    }
}

/// Which call: a label of errors, spans and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    Create,
    Fetch,
    ConnectionState,
    Connect,
    SetWebhook,
    FindWebhook,
    Delete,
    VerifyCreds,
}

impl Call {
    /// The method and the route, as they are shown to people and used as a span's name.
    pub fn route(self) -> &'static str {
        match self {
            Self::Create => "POST /instance/create",
            Self::Fetch => "GET /instance/fetchInstances",
            Self::ConnectionState => "GET /instance/connectionState/{instance}",
            Self::Connect => "GET /instance/connect/{instance}",
            Self::SetWebhook => "POST /webhook/set/{instance}",
            Self::FindWebhook => "GET /webhook/find/{instance}",
            Self::Delete => "DELETE /instance/delete/{instance}",
            Self::VerifyCreds => "POST /verify-creds",
        }
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
    /// The token as the API holds it: `hash` as a text (2.x) or its `apikey` (1.8). `None` where it was a JWT.
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
