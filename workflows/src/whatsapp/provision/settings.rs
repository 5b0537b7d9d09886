//! What the steps are told once, at start: parsed here, with one line per fault, and not checked
//! again.

use std::{collections::BTreeMap, time::Duration};

use super::template::WebhookTemplate;
use crate::{secret::Secret, whatsapp::evolution::AmqpMode};

/// The settings, valid.
#[derive(Debug, Clone)]
pub struct Settings {
    pub webhook: WebhookTemplate,
    pub qr_at_signup: QrAtSignup,
    /// Whether each instance is told to publish its events.
    pub amqp_mode: AmqpMode,
    pub timings: Timings,
}

/// The webhook as it was written. URL and header values may hold `{user_id}`, `{instance}` and
/// `{token}`; a header named `jwt_key` makes the API sign each delivery.
#[derive(Debug, Clone, Default)]
pub struct WebhookOptions {
    pub url: String,
    pub events: Vec<String>,
    pub headers: BTreeMap<String, Secret>,
    pub by_events: bool,
    pub base64: bool,
}

/// Whether a sign-up waits a moment for a QR code. Without it no socket to WhatsApp is opened until
/// the app asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QrAtSignup {
    #[default]
    Fetch,
    Skip,
}

/// How long the steps wait inside an attempt. The step's timeout must have room for them beside the
/// calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// The first pause between two looks after a create whose end is unknown; it doubles twice.
    pub read_back_pause: Duration,
    /// From when on an absent instance is known not to be coming: the server finishes what it was
    /// sent in less.
    pub quiet: Duration,
    /// When to stop looking and leave it to the next attempt.
    pub read_back_limit: Duration,
    /// The pause between the two looks after which an instance counts as gone.
    pub gone_after: Duration,
    /// How often a QR code is asked for.
    pub qr_tries: u32,
    /// The pause between two of these.
    pub qr_pause: Duration,
    /// How long all of these may take together: the user is ready without a code after that.
    pub qr_limit: Duration,
    /// How long the API may take, after its start, to load its instances.
    pub loading: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            read_back_pause: Duration::from_millis(300),
            quiet: Duration::from_millis(2500),
            read_back_limit: Duration::from_secs(10),
            gone_after: Duration::from_secs(3),
            qr_tries: 3,
            qr_pause: Duration::from_secs(1),
            qr_limit: Duration::from_secs(6),
            loading: Duration::from_secs(120),
        }
    }
}

/// One fault of the settings, in one line: where, what, and what is expected. Never a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct Fault {
    pub setting: String,
    pub problem: String,
}

impl Fault {
    pub(super) fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { setting: setting.into(), problem: problem.into() }
    }
}
