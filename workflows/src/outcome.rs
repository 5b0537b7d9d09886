//! What a step answers when an attempt ends. The engine turns it into a change of state (`state`), a delay (`policy`)
//! and rows; a step decides none of these.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ids::{InstanceName, StepName, Subject},
    secret::Secret,
};

/// The most that an attempt keeps of an error's text, in bytes.
pub const ERROR_BYTES: usize = 4096;

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The step's effect is there. `output` is the next step's input; `facts` go into the instance row. `note` is kept on
    /// the attempt.
    Success { output: Value, facts: Facts, note: Option<String> },
    /// It may work later. Counted as a failure; the policy says when the next attempt is due.
    Retry(Failure),
    /// It did not fail, it could not be tried or the other side is not ready: not counted. `after` is the least delay;
    /// without one the policy chooses.
    Defer { failure: Failure, after: Option<Duration> },
    /// An earlier step's effect is gone or not what was asked: run that step again. Bounded.
    SendBack { to: StepName, failure: Failure },
    /// It will never work: the run needs a person.
    Permanent(Failure),
}

/// Why an attempt did not succeed. `message` is for a person and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub class: Class,
    pub http_status: Option<u16>,
    pub message: String,
    pub host: HostSignal,
}

impl Failure {
    /// A failure that says nothing about the API's host. The message is cut to `ERROR_BYTES`.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, http_status: None, message: cut(message.into()), host: HostSignal::Silent }
    }

    /// The same failure, and one thing more to say of it.
    pub fn and(mut self, more: &str) -> Self {
        self.message = cut(format!("{}; {more}", self.message));
        self
    }

    pub fn with_status(mut self, status: Option<u16>) -> Self {
        self.http_status = status;
        self
    }

    pub fn with_host(mut self, host: HostSignal) -> Self {
        self.host = host;
        self
    }
}

fn cut(mut message: String) -> String {
    if message.len() > ERROR_BYTES {
        let end = (0..=ERROR_BYTES).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
        message.truncate(end);
    }
    message
}

/// The kind of a failure: a label of metrics, attempts and dead letters, so a closed and short list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The call could not be made: refused, no route, no name, TLS.
    Unreachable,
    /// No answer in time, or the connection broke before one.
    NoAnswer,
    /// 5xx, or a 4xx that means the same (408, a create's unexplained 400).
    ServerError,
    /// 429, or a `Retry-After`.
    RateLimited,
    /// The global key is refused.
    KeyRefused,
    /// The instance is loading, or being deleted.
    Loading,
    /// The other side refuses what was asked, whatever we do.
    Rejected,
    /// The instance's name belongs to somebody else.
    NameTaken,
    /// The effect of an earlier step is not there (any more).
    EffectGone,
    /// An answer of a shape that nobody recorded.
    Unreadable,
    /// The lease was too short to send a call that creates or deletes.
    LeaseTooShort,
    /// The attempt ran into its own timeout.
    TimedOut,
    /// The step's code panicked.
    Panicked,
    /// This build does not know the step or the workflow's version.
    Unknown,
    /// The lease ran out: the worker is gone.
    WorkerLost,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::NoAnswer => "no_answer",
            Self::ServerError => "server_error",
            Self::RateLimited => "rate_limited",
            Self::KeyRefused => "key_refused",
            Self::Loading => "loading",
            Self::Rejected => "rejected",
            Self::NameTaken => "name_taken",
            Self::EffectGone => "effect_gone",
            Self::Unreadable => "unreadable",
            Self::LeaseTooShort => "lease_too_short",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::Unknown => "unknown",
            Self::WorkerLost => "worker_lost",
        }
    }
}

/// What an attempt learnt about the API's host, for the gates of the whole fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostSignal {
    /// Nothing: no call reached a verdict.
    Silent,
    /// It answered below 500, other than 408 and 429.
    Healthy,
    /// It did not answer, or answered 5xx or 408.
    Failing,
    /// It asked to be left alone for so long.
    Hold(Duration),
    /// It refuses the global key.
    KeyRefused,
}

/// What a step learnt about the instance, written to the ledger's instance row in the settle. `None` leaves the column.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The API's token, where an adopted instance has another than ours.
    pub token: Option<Secret>,
    pub status: Option<InstanceStatus>,
    pub qr_code: Option<Secret>,
    pub webhook_url: Option<String>,
}

/// The public row's `instance_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceStatus {
    Creating,
    Disconnected,
    Connecting,
    Connected,
    Error,
}

impl InstanceStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Disconnected => "disconnected",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Error => "error",
        }
    }
}

/// What a claimed step is given to work with. The instance is the ledger's, never the public row's.
#[derive(Debug, Clone)]
pub struct Given {
    pub subject: Subject,
    pub instance: InstanceName,
    pub token: Secret,
    /// Whether a create was ever claimed for this instance before this attempt: then read back before creating.
    pub created_before: bool,
    /// Whether the instance was ever paired with a phone: decides what `close` means.
    pub paired_before: bool,
    /// Whether the instance was taken over from an existing set-up: then its name is the subject's own, whatever it is.
    pub imported: bool,
    /// The run's input for the first step, else the output of the step before.
    pub input: Value,
}
