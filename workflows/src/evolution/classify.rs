//! The one table for failures: from a call, its error and the instance's name to what it means, and from there to the
//! outcome and the host signal. A test holds every recorded answer of the API against it. Only an answer that the API is
//! known to give for "this will never work" is permanent; what nobody recorded is tried again.

use std::time::Duration;

use super::{Answer, ApiError, ApiState, Call, ErrorKind, RetryAfter, Shape};
use crate::{
    ids::InstanceName,
    outcome::{Class, Failure, HostSignal, InstanceStatus, Outcome},
};

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The name that was sent is taken: by the instance that we want, or by another.
    Exists,
    /// Nobody knows whether it was done: read back before anything else.
    ReadBack,
    /// The API knows no instance of that name (at this moment).
    Absent,
    /// The instance is being loaded or deleted: not a failure.
    Loading,
    /// Counted: try again later.
    Retry,
    /// Not counted: the host asks to be left alone for so long.
    RetryAfter(Duration),
    /// Not counted: it could not be tried, or the host is away.
    Defer,
    /// The global key is refused: not counted, a person must mend it.
    KeyRefused,
    /// The instance's own token is refused: another instance has the name now, or the API's database is down. Read back.
    TokenRefused,
    /// It will never work.
    Permanent,
}

/// What a failure means for the step.
pub fn classify(error: &ApiError, name: &InstanceName) -> Verdict {
    match &error.kind {
        ErrorKind::Unreachable(_) | ErrorKind::Withheld => Verdict::Defer,
        ErrorKind::NoAnswer(_) | ErrorKind::Unreadable { .. } => unknown(error.call, Verdict::Retry),
        ErrorKind::Answer(answer) => table(error.call, answer, Says::of(answer, name)),
    }
}

/// The table, first match first.
fn table(call: Call, answer: &Answer, says: Says) -> Verdict {
    use Call::{Create, Delete, SetWebhook};
    match (answer.status, call, says) {
        // What the API says about the instance. The name must be ours: a proxy has 403s and 404s of its own.
        (403, Create, Says::NameTaken) => Verdict::Exists,
        (404, _, Says::NotThere) => Verdict::Absent,
        (500, Create | Delete, Says::NotLoaded) => Verdict::ReadBack,
        (500, _, Says::NotLoaded) => Verdict::Loading,
        // Keys. Only a delete is sent with the instance's own token.
        (401, Delete, _) => Verdict::TokenRefused,
        (401, _, _) => Verdict::KeyRefused,
        // Refusals of the body, before anything was done. A create's other 400s hide database trouble and races.
        (400, Create | SetWebhook, Says::BadBody) => Verdict::Permanent,
        (413, Create | SetWebhook, _) => Verdict::Permanent,
        // What we sent did not come through: nothing was done, and the next one may.
        (400 | 403, Create | SetWebhook, Says::BodyLost) => Verdict::Retry,
        // The host asks for time, or is away behind its proxy.
        (429, _, _) => Verdict::RetryAfter(answer.retry_after.unwrap_or(RetryAfter::UNSAID).duration()),
        (502..=504, _, _) => unknown(call, away(answer)),
        // Everything else: 408, other 5xx, redirects, unrecorded 4xx, a success that says error.
        (_, _, _) => unknown(call, Verdict::Retry),
    }
}

/// After a call that creates or deletes, what is unknown must be read back; any other call may just be repeated.
fn unknown(call: Call, else_: Verdict) -> Verdict {
    match call {
        Call::Create | Call::Delete => Verdict::ReadBack,
        _ => else_,
    }
}

fn away(answer: &Answer) -> Verdict {
    answer.retry_after.map_or(Verdict::Defer, |after| Verdict::RetryAfter(after.duration()))
}

/// What an answer's message says, as far as it was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// `This name "<ours>" is already in use.`
    NameTaken,
    /// `The "<ours>" instance does not exist`, or the list's `Instance "<ours>" not found`.
    NotThere,
    /// `… (reading 'instanceId')`: the row is not in the API's memory.
    NotLoaded,
    /// The schema or a check of the create refused the body.
    BadBody,
    /// The JSON parser refused the body, or a create found no name in it and says that "undefined" is taken.
    BodyLost,
    Else,
}

/// The checks of a create that come before it does anything.
const CREATE_CHECKS: [&str; 4] =
    ["Invalid integration", "token is required", "number is required", "\"instanceName\" not provided."];

impl Says {
    fn of(answer: &Answer, name: &InstanceName) -> Self {
        let message = answer.message.as_str();
        let taken = message.strip_prefix("This name \"").and_then(|rest| rest.strip_suffix("\" is already in use."));
        match (answer.shape, taken) {
            (Shape::Listed, Some(taken)) if taken == name.as_str() => Self::NameTaken,
            (Shape::Listed, Some(_)) => Self::BodyLost,
            (Shape::Listed, None) if message == format!("The \"{name}\" instance does not exist") => Self::NotThere,
            (Shape::Listed, None) if message == format!("Instance \"{name}\" not found") => Self::NotThere,
            (Shape::Listed | Shape::Plain, _) if message.contains("(reading 'instanceId')") => Self::NotLoaded,
            (Shape::Schema, _) => Self::BadBody,
            // With a 400, a plain text is the JSON parser's.
            (Shape::Plain, _) if answer.status == 400 => Self::BodyLost,
            (Shape::Listed, None) if CREATE_CHECKS.contains(&message) => Self::BadBody,
            (Shape::Listed | Shape::Plain | Shape::Foreign, _) => Self::Else,
        }
    }
}

/// Whether nothing was sent at all.
pub fn never_left(error: &ApiError) -> bool {
    matches!(error.kind, ErrorKind::Unreachable(_) | ErrorKind::Withheld)
}

/// Whether the API itself has finished with the call: then nothing of it is under way any more. A proxy's answer, a
/// timeout and a broken connection end only our waiting.
pub fn is_final(error: &ApiError) -> bool {
    match &error.kind {
        ErrorKind::Answer(answer) => answer.shape != Shape::Foreign && !matches!(answer.status, 408 | 502..=504),
        ErrorKind::Unreachable(_) | ErrorKind::Withheld => true,
        ErrorKind::NoAnswer(_) | ErrorKind::Unreadable { .. } => false,
    }
}

/// What a failure tells the gates about the host.
pub fn host_signal(error: &ApiError, name: &InstanceName) -> HostSignal {
    let answer = match &error.kind {
        ErrorKind::Unreachable(_) | ErrorKind::NoAnswer(_) => return HostSignal::Failing,
        ErrorKind::Withheld => return HostSignal::Silent,
        ErrorKind::Unreadable { status, .. } if *status >= 500 => return HostSignal::Failing,
        ErrorKind::Unreadable { .. } => return HostSignal::Healthy,
        ErrorKind::Answer(answer) => answer,
    };
    match (answer.status, answer.retry_after, error.call) {
        (429, after, _) => HostSignal::Hold(after.unwrap_or(RetryAfter::UNSAID).duration()),
        (408 | 500.., Some(after), _) => HostSignal::Hold(after.duration()),
        // A host that loads its instances works.
        (500, None, _) if Says::of(answer, name) == Says::NotLoaded => HostSignal::Silent,
        (408 | 500.., None, _) => HostSignal::Failing,
        (401, _, Call::Delete) => HostSignal::Healthy,
        (401, _, _) => HostSignal::KeyRefused,
        _ => HostSignal::Healthy,
    }
}

/// The failure that an attempt keeps.
pub fn failure(error: &ApiError, name: &InstanceName) -> Failure {
    let advice = match classify(error, name) {
        Verdict::KeyRefused => "; set EVOLUTION_API_KEY to the API's AUTHENTICATION_API_KEY",
        _ => "",
    };
    Failure::new(class(error, name), format!("{error}{advice}"))
        .with_status(error.status())
        .with_host(host_signal(error, name))
}

fn class(error: &ApiError, name: &InstanceName) -> Class {
    let answer = match &error.kind {
        ErrorKind::Unreachable(_) => return Class::Unreachable,
        ErrorKind::NoAnswer(_) => return Class::NoAnswer,
        ErrorKind::Unreadable { .. } => return Class::Unreadable,
        ErrorKind::Withheld => return Class::LeaseTooShort,
        ErrorKind::Answer(answer) => answer,
    };
    match (classify(error, name), answer.status) {
        (Verdict::RetryAfter(_), _) => Class::RateLimited,
        (Verdict::KeyRefused, _) => Class::KeyRefused,
        (Verdict::Loading, _) => Class::Loading,
        (Verdict::Exists, _) => Class::NameTaken,
        (Verdict::Absent, _) => Class::EffectGone,
        (_, 408 | 500..) => Class::ServerError,
        (Verdict::ReadBack, 400) => Class::ServerError,
        _ => Class::Rejected,
    }
}

/// The outcome of a failure that a step has no answer of its own for.
pub fn outcome(error: &ApiError, name: &InstanceName) -> Outcome {
    let failure = failure(error, name);
    match classify(error, name) {
        Verdict::Permanent => Outcome::Permanent(failure),
        Verdict::RetryAfter(after) => Outcome::Defer { failure, after: Some(after) },
        Verdict::Defer | Verdict::Loading | Verdict::KeyRefused => Outcome::Defer { failure, after: None },
        // Unknown because a proxy lost the API: an outage, which burns no attempts.
        Verdict::ReadBack if matches!(error.status(), Some(502..=504)) => {
            let after = match &error.kind {
                ErrorKind::Answer(answer) => answer.retry_after.map(RetryAfter::duration),
                _ => None,
            };
            Outcome::Defer { failure, after }
        }
        Verdict::ReadBack | Verdict::Retry | Verdict::Absent | Verdict::Exists | Verdict::TokenRefused => {
            Outcome::Retry(failure)
        }
    }
}

/// Whether the instance was ever paired with a phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    NotYet,
    Done,
}

/// The public status for a state of the API. `None` leaves it as it is: an absent state says nothing. Before the first
/// pairing a `close` is part of connecting: the API reconnects for ever and flips between the two.
pub fn instance_status(state: Option<ApiState>, pairing: Pairing) -> Option<InstanceStatus> {
    match (state?, pairing) {
        (ApiState::Open, _) => Some(InstanceStatus::Connected),
        (ApiState::Connecting, _) => Some(InstanceStatus::Connecting),
        (ApiState::Close, Pairing::NotYet) => Some(InstanceStatus::Connecting),
        (ApiState::Close, Pairing::Done) => Some(InstanceStatus::Disconnected),
    }
}
