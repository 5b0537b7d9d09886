//! What a step answers when an attempt ends. The engine turns it into a change of state (`state`),
//! a delay (`policy`) and rows; a step decides none of these.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    ids::{ResourceName, StepName, Subject},
    secret::Secret,
};

/// The most that an attempt keeps of an error's text, in bytes.
pub const ERROR_BYTES: usize = 4096;

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The step's effect is there. `output` is the next step's input; `memory` is merged into the
    /// resource's. `note` is kept on the attempt.
    Success { output: Value, memory: Memory, note: Option<String> },
    /// It may work later. Counted as a failure; the policy says when the next attempt is due.
    Retry(Failure),
    /// It did not fail, it could not be tried or the other side is not ready: not counted. `after`
    /// is the least delay; without one the policy chooses.
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
    pub mend: Mend,
    /// What the resource's memory keeps of it, for the attempts to come.
    pub memory: Memory,
}

impl Failure {
    /// A failure that says nothing about the API's host. The message is cut to `ERROR_BYTES`.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        let message = cut(message.into());
        let (host, mend, memory) = (HostSignal::Silent, Mend::Itself, Memory::default());
        Self { class, http_status: None, message, host, mend, memory }
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

    pub fn with_mend(mut self, mend: Mend) -> Self {
        self.mend = mend;
        self
    }
}

impl Outcome {
    /// The same end, which leaves this behind in the resource's memory.
    pub fn remembering(mut self, more: &Memory) -> Self {
        match &mut self {
            Self::Success { memory, .. } => memory.merge(more),
            Self::Retry(failure)
            | Self::Permanent(failure)
            | Self::Defer { failure, .. }
            | Self::SendBack { failure, .. } => failure.memory.merge(more),
        }
        self
    }

    /// The failure, where it is no success.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Success { .. } => None,
            Self::Retry(failure)
            | Self::Permanent(failure)
            | Self::Defer { failure, .. }
            | Self::SendBack { failure, .. } => Some(failure),
        }
    }
}

fn cut(mut message: String) -> String {
    if message.len() > ERROR_BYTES {
        let end = (0..=ERROR_BYTES).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
        message.truncate(end);
    }
    message
}

/// What ends the trouble that a failure tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mend {
    /// Time: nobody needs to do anything that the message does not say.
    #[default]
    Itself,
    /// A person, by what the message says.
    Person,
}

/// The kind of a failure: a label of metrics, attempts and dead letters, so a closed and short
/// list.
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
    /// The key is refused.
    KeyRefused,
    /// What is asked for is loading, or being deleted.
    Loading,
    /// The other side refuses what was asked, whatever we do.
    Rejected,
    /// The resource's name belongs to somebody else.
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
    /// It refuses our key.
    KeyRefused,
}

/// What a workflow keeps of a resource between runs. The engine never looks into it. It may hold
/// secrets: it prints as `***`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Memory(Map<String, Value>);

impl Memory {
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The same memory, and one thing more.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For the ledger's column.
    pub fn as_json(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// Keys of `newer` replace those of the same name.
    pub fn merge(&mut self, newer: &Memory) {
        self.0.extend(newer.0.clone());
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a claimed step is given to work with.
#[derive(Debug, Clone)]
pub struct StepInput {
    pub subject: Subject,
    pub resource: ResourceName,
    /// Drawn by us and stored before the first call.
    pub secret: Secret,
    pub memory: Memory,
    /// Whether a step that may create or delete was ever claimed for this resource before this
    /// attempt: then read back before acting.
    pub exclusive_before: bool,
    /// The run's input for the first step, else the output of the step before.
    pub input: Value,
}
