//! The one table for failures: from a call, its error and the instance's name to what it means, and
//! from there to the outcome and the host signal. A test holds every recorded answer of the API
//! against it. Only an answer that the API is known to give for "this will never work" is
//! permanent; what nobody recorded is tried again.

use std::time::Duration;

use super::{Answer, ApiError, ApiState, Call, ErrorKind, RetryAfter, Shape, answer::RABBITMQ_OFF};
use crate::{
    outcome::{Class, Failure, HostSignal, Mend, Outcome},
    whatsapp::{names::InstanceName, names::InstanceStatus},
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
    /// The instance's own token is refused: another instance has the name now, or the API's
    /// database is down. Read back.
    TokenRefused,
    /// It will never work.
    Permanent,
}

/// What a failure means for the step.
pub fn classify(error: &ApiError, name: &InstanceName) -> Verdict {
    match &error.kind {
        ErrorKind::Unreachable(_) | ErrorKind::Withheld => Verdict::Defer,
        ErrorKind::NoAnswer(_) | ErrorKind::Unreadable { .. } => unknown(error.call, Verdict::Retry),
        ErrorKind::Foreign { .. } => unknown(error.call, Verdict::Defer),
        ErrorKind::Answer(answer) => table(error.call, answer, Says::of(answer, name)),
    }
}

/// The table, first match first.
fn table(call: Call, answer: &Answer, says: Says) -> Verdict {
    use Call::{Create, Delete, Discard, SetRabbitmq, SetSettings, SetWebhook};
    match (answer.status, call, says) {
        // Not the API's own: whatever stands before it, or in its place, says nothing about what
        // was asked.
        (429, _, _) => Verdict::RetryAfter(answer.retry_after.unwrap_or(RetryAfter::UNSAID).duration()),
        _ if answer.shape == Shape::Foreign => unknown(call, away(answer)),
        // What the API says about the instance. The name must be ours: a proxy has 403s and 404s of
        // its own.
        (403, Create, Says::NameTaken) => Verdict::Exists,
        (404, _, Says::NotThere) => Verdict::Absent,
        (500, Create | Delete | Discard, Says::NotLoaded) => Verdict::ReadBack,
        (500, _, Says::NotLoaded) => Verdict::Loading,
        // Its database is away or restarts: an outage, whatever the status says.
        (400 | 500, _, Says::DatabaseAway) => unknown(call, away(answer)),
        // It has no RabbitMQ to publish to, and says so with a success.
        (_, _, Says::RabbitmqOff) => Verdict::Defer,
        // Keys. Only a delete is sent with the instance's own token.
        (401, Delete, _) => Verdict::TokenRefused,
        (401, _, _) => Verdict::KeyRefused,
        // Refusals of the body, before anything was done. A create's other 400s hide database
        // trouble and races.
        (400, Create | SetWebhook | SetRabbitmq | SetSettings, Says::BadBody) => Verdict::Permanent,
        (413, Create | SetWebhook | SetRabbitmq | SetSettings, _) => Verdict::Permanent,
        // What we sent did not come through: nothing was done, and the next one may.
        (400 | 403, Create | SetWebhook | SetRabbitmq | SetSettings, Says::BodyLost) => Verdict::Retry,
        // The host is away behind its proxy.
        (502..=504, _, _) => unknown(call, away(answer)),
        // Everything else: 408, other 5xx, redirects, unrecorded 4xx, a success that says error.
        (_, _, _) => unknown(call, Verdict::Retry),
    }
}

/// After a call that creates or deletes, what is unknown must be read back; any other call may just
/// be repeated.
fn unknown(call: Call, else_: Verdict) -> Verdict {
    match call {
        Call::Create | Call::Delete | Call::Discard => Verdict::ReadBack,
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
    /// The words of a database, or of a driver, that is away, starts or stops.
    DatabaseAway,
    /// A row that hangs on the instance's row found none: the insert failed, and the API passed
    /// over that in silence.
    NoRow,
    /// The schema or a check of the create refused the body.
    BadBody,
    /// The JSON parser refused the body, or a create found no name in it and says that "undefined"
    /// is taken.
    BodyLost,
    /// Its RABBITMQ_ENABLED is false.
    RabbitmqOff,
    Else,
}

/// The checks of a create that come before it does anything.
const CREATE_CHECKS: [&str; 4] =
    ["Invalid integration", "token is required", "number is required", "\"instanceName\" not provided."];

/// What Postgres, its drivers and the API's ORM say of a database that is away or restarts, in
/// lower case.
const DATABASE_AWAY: [&str; 17] = [
    "the database system is starting up",
    "the database system is shutting down",
    "the database system is in recovery mode",
    "the database system is not yet accepting connections",
    "is not currently accepting connections",
    "terminating connection",
    "connection terminated",
    "server closed the connection",
    "server has closed the connection",
    "can't reach database server",
    "error in postgresql connection",
    "timed out fetching a new connection",
    "unable to start a transaction in the given time",
    "too many clients already",
    "remaining connection slots are reserved",
    "connect econnrefused",
    "read econnreset",
];

/// What the answer says, where one came.
fn says(error: &ApiError, name: &InstanceName) -> Says {
    if let ErrorKind::Answer(answer) = &error.kind { Says::of(answer, name) } else { Says::Else }
}

fn is_database_away(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    DATABASE_AWAY.iter().any(|words| message.contains(words))
}

impl Says {
    fn of(answer: &Answer, name: &InstanceName) -> Self {
        let message = answer.message.as_str();
        let taken = message.strip_prefix("This name \"").and_then(|rest| rest.strip_suffix("\" is already in use."));
        match (answer.shape, taken) {
            (Shape::Listed, Some(taken)) if taken == name.as_str() => Self::NameTaken,
            (Shape::Listed, Some(_)) => Self::BodyLost,
            (Shape::Listed, None) if message == format!("The \"{name}\" instance does not exist") => Self::NotThere,
            (Shape::Listed, None) if message == format!("Instance \"{name}\" not found") => Self::NotThere,
            (Shape::Listed | Shape::Plain, _)
                if message.contains("(reading 'instanceId')") || message.contains("(reading 'setSettings')") =>
            {
                Self::NotLoaded
            }
            (Shape::Listed | Shape::Plain, _) if message.contains("_instanceId_fkey") => Self::NoRow,
            (Shape::Listed | Shape::Plain, _) if is_database_away(message) => Self::DatabaseAway,
            (Shape::Swallowed, _) if message == RABBITMQ_OFF => Self::RabbitmqOff,
            (Shape::Schema, _) => Self::BadBody,
            // With a 400, a plain text is the JSON parser's.
            (Shape::Plain, _) if answer.status == 400 => Self::BodyLost,
            (Shape::Listed, None) if CREATE_CHECKS.contains(&message) => Self::BadBody,
            (Shape::Listed | Shape::Plain | Shape::Swallowed | Shape::Foreign, _) => Self::Else,
        }
    }
}

/// Whether nothing was sent at all.
pub fn never_left(error: &ApiError) -> bool {
    matches!(error.kind, ErrorKind::Unreachable(_) | ErrorKind::Withheld)
}

/// Whether the API itself has finished with the call: then nothing of it is under way any more. A
/// proxy's answer, a timeout and a broken connection end only our waiting.
pub fn is_final(error: &ApiError) -> bool {
    match &error.kind {
        ErrorKind::Answer(answer) => answer.shape != Shape::Foreign && !matches!(answer.status, 408 | 502..=504),
        ErrorKind::Unreachable(_) | ErrorKind::Withheld => true,
        ErrorKind::NoAnswer(_) | ErrorKind::Foreign { .. } | ErrorKind::Unreadable { .. } => false,
    }
}

/// What a failure tells the gates about the host.
pub fn host_signal(error: &ApiError, name: &InstanceName) -> HostSignal {
    let answer = match &error.kind {
        ErrorKind::Unreachable(_) | ErrorKind::NoAnswer(_) | ErrorKind::Foreign { .. } => return HostSignal::Failing,
        ErrorKind::Withheld => return HostSignal::Silent,
        ErrorKind::Unreadable { status, .. } if *status >= 500 => return HostSignal::Failing,
        ErrorKind::Unreadable { .. } => return HostSignal::Healthy,
        ErrorKind::Answer(answer) => answer,
    };
    match (answer.status, answer.retry_after, error.call) {
        (429, after, _) => HostSignal::Hold(after.unwrap_or(RetryAfter::UNSAID).duration()),
        (408 | 500.., Some(after), _) => HostSignal::Hold(after.duration()),
        // A host that loads its instances works.
        (500, None, _) if says(error, name) == Says::NotLoaded => HostSignal::Silent,
        (408 | 500.., None, _) => HostSignal::Failing,
        _ if answer.shape == Shape::Foreign || says(error, name) == Says::DatabaseAway => HostSignal::Failing,
        (401, _, Call::Delete) => HostSignal::Healthy,
        (401, _, _) => HostSignal::KeyRefused,
        _ => HostSignal::Healthy,
    }
}

/// Whether a proxy, or another server, stands where the API was, or its database is away.
fn is_outage(error: &ApiError, name: &InstanceName) -> bool {
    let is_foreign =
        matches!(&error.kind, ErrorKind::Answer(Answer { shape: Shape::Foreign, .. }) | ErrorKind::Foreign { .. });
    is_foreign || matches!(error.status(), Some(502..=504)) || says(error, name) == Says::DatabaseAway
}

/// Whether a create failed because its row was never inserted, which the API does not say in so
/// many words: its database was away for that one statement, or a row of that name is there already
/// and not loaded.
pub fn is_without_row(error: &ApiError, name: &InstanceName) -> bool {
    says(error, name) == Says::NoRow
}

/// What a person does about it, and whether it ends only then.
fn advice(error: &ApiError, name: &InstanceName) -> Option<(Mend, &'static str)> {
    const LASTS: &str = "where this lasts, check EVOLUTION_API_BASE_URL and what stands between the workers and the API, a proxy \
                         that HTTP_PROXY or HTTPS_PROXY names among it";
    let person = |what| Some((Mend::Person, what));
    match &error.kind {
        _ if classify(error, name) == Verdict::KeyRefused => {
            person("set EVOLUTION_API_KEY to the API's AUTHENTICATION_API_KEY")
        }
        ErrorKind::Unreachable(why) if why.to_ascii_lowercase().contains("certificate") => person(
            "a person must mend it: give the API a certificate that is valid for its name, or name a file with its CA in \
             SSL_CERT_FILE",
        ),
        ErrorKind::Answer(answer) if answer.message.starts_with("LICENSE_REQUIRED") => {
            person("a person must mend it: the API does nothing before its licence is activated in its manager")
        }
        _ if says(error, name) == Says::RabbitmqOff => {
            person("a person must mend it: set the API's RABBITMQ_ENABLED to true, or EVOLUTION_AMQP_MODE to global")
        }
        ErrorKind::Answer(answer) if answer.shape == Shape::Foreign => match answer.status {
            _ if answer.has_no_such_path() => person(
                "a person must mend it: set EVOLUTION_API_BASE_URL to the address that the API itself answers at, with \
                 no path behind it that is not the API's",
            ),
            300..=399 => person(
                "a person must mend it: set EVOLUTION_API_BASE_URL to the address that the API itself answers at",
            ),
            401 => person(
                "a person must mend it: something before the API asks for a user name and a password; let the workers \
                 past it, or set EVOLUTION_API_BASE_URL to an address behind it",
            ),
            407 => person(
                "a person must mend it: the proxy that HTTP_PROXY or HTTPS_PROXY names asks for credentials; give them \
                 there, or name the API's host in NO_PROXY",
            ),
            502..=504 => None,
            _ => Some((Mend::Itself, LASTS)),
        },
        ErrorKind::Foreign { .. } => Some((Mend::Itself, LASTS)),
        _ => None,
    }
}

/// The failure that an attempt keeps.
pub fn failure(error: &ApiError, name: &InstanceName) -> Failure {
    let (mend, message) = match advice(error, name) {
        Some((mend, advice)) => (mend, format!("{error}; {advice}")),
        None => (Mend::Itself, error.to_string()),
    };
    let failure = Failure::new(class(error, name), message).with_status(error.status()).with_mend(mend);
    failure.with_host(host_signal(error, name))
}

fn class(error: &ApiError, name: &InstanceName) -> Class {
    let answer = match &error.kind {
        ErrorKind::Unreachable(_) => return Class::Unreachable,
        ErrorKind::NoAnswer(_) => return Class::NoAnswer,
        ErrorKind::Foreign { .. } | ErrorKind::Unreadable { .. } => return Class::Unreadable,
        ErrorKind::Withheld => return Class::LeaseTooShort,
        ErrorKind::Answer(answer) => answer,
    };
    match (classify(error, name), answer.status) {
        (Verdict::RetryAfter(_), _) => Class::RateLimited,
        (Verdict::KeyRefused, _) => Class::KeyRefused,
        (Verdict::Loading, _) => Class::Loading,
        (Verdict::Exists, _) => Class::NameTaken,
        (Verdict::Absent, _) => Class::EffectGone,
        (_, 502..=504) => Class::ServerError,
        _ if answer.shape == Shape::Foreign => Class::Unreadable,
        (_, 408 | 500..) | (Verdict::ReadBack, 400) => Class::ServerError,
        _ if says(error, name) == Says::DatabaseAway => Class::ServerError,
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
        // Unknown because a proxy lost the API, or the API its database: an outage, which burns no
        // attempts.
        Verdict::ReadBack if is_outage(error, name) => {
            let after = if let ErrorKind::Answer(answer) = &error.kind { answer.retry_after } else { None };
            Outcome::Defer { failure, after: after.map(RetryAfter::duration) }
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

/// The public status for a state of the API. `None` leaves it as it is: an absent state says
/// nothing. Before the first pairing a `close` is part of connecting: the API reconnects for ever
/// and flips between the two.
pub fn instance_status(state: Option<ApiState>, pairing: Pairing) -> Option<InstanceStatus> {
    match (state?, pairing) {
        (ApiState::Open, _) => Some(InstanceStatus::Connected),
        (ApiState::Connecting, _) | (ApiState::Close, Pairing::NotYet) => Some(InstanceStatus::Connecting),
        (ApiState::Close, Pairing::Done) => Some(InstanceStatus::Disconnected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whatsapp::evolution::{
        answer::{Response, stored_rabbitmq},
        redact::Redaction,
    };

    fn name() -> InstanceName {
        "user_1".parse().unwrap()
    }

    fn answered(call: Call, status: u16, shape: Shape, message: &str) -> ApiError {
        let answer = Answer { status, shape, message: message.to_owned(), retry_after: None };
        ApiError { call, kind: ErrorKind::Answer(answer) }
    }

    #[test]
    fn what_is_not_the_api_is_the_hosts_failure_and_quoted() {
        let page = ErrorKind::Foreign { status: 200, what: "a page".into() };
        let mut errors = vec![ApiError { call: Call::Fetch, kind: page }];
        for (call, status) in [
            (Call::Fetch, 404),
            (Call::SetWebhook, 403),
            (Call::Connect, 308),
            (Call::VerifyCreds, 401),
            (Call::ConnectionState, 400),
            (Call::SetWebhook, 413),
            (Call::Fetch, 500),
            (Call::Create, 404),
            (Call::Create, 403),
        ] {
            errors.push(answered(call, status, Shape::Foreign, "page not found"));
        }
        for error in errors {
            let outcome = outcome(&error, &name());

            assert!(matches!(outcome, Outcome::Defer { after: None, .. }), "{error}: {outcome:?}");
            let failure = outcome.failure().unwrap();
            assert_eq!((failure.host, failure.class), (HostSignal::Failing, Class::Unreadable), "{error}");
            assert!(failure.message.contains("with something that is not the Evolution API"), "{}", failure.message);
        }
    }

    #[test]
    fn the_apis_own_answers_of_the_same_statuses_are_not_the_hosts_failure() {
        let not_found = answered(Call::Fetch, 404, Shape::Listed, "Instance \"user_1\" not found");
        let key = answered(Call::Fetch, 401, Shape::Plain, "Unauthorized");
        let swallowed = answered(Call::Connect, 200, Shape::Swallowed, "[object Object]");
        let odd = ApiError { call: Call::Fetch, kind: ErrorKind::Unreadable { status: 200, what: "no list".into() } };
        let judged = |error: &ApiError| (classify(error, &name()), host_signal(error, &name()));

        assert_eq!(judged(&not_found), (Verdict::Absent, HostSignal::Healthy));
        assert_eq!(host_signal(&key, &name()), HostSignal::KeyRefused);
        for error in [swallowed, odd] {
            assert_eq!(judged(&error), (Verdict::Retry, HostSignal::Healthy));
        }
    }

    #[test]
    fn what_needs_a_person_says_so_and_what_to_do() {
        let certificate = ErrorKind::Unreachable("invalid peer certificate: Expired".into());
        for (error, says) in [
            (answered(Call::Fetch, 503, Shape::Foreign, "LICENSE_REQUIRED: Open http://x/manager"), "licence"),
            (answered(Call::Fetch, 301, Shape::Foreign, "a redirect"), "set EVOLUTION_API_BASE_URL"),
            (
                answered(Call::Fetch, 404, Shape::Foreign, "Cannot GET /api/instance/fetchInstances"),
                "no path behind it",
            ),
            (answered(Call::Fetch, 401, Shape::Foreign, "Authorization Required"), "a user name and a password"),
            (answered(Call::Fetch, 407, Shape::Foreign, "proxy"), "HTTP_PROXY"),
            (ApiError { call: Call::Fetch, kind: certificate }, "SSL_CERT_FILE"),
        ] {
            let failure = failure(&error, &name());

            assert!(failure.message.contains("a person must mend it"), "{}", failure.message);
            assert!(failure.message.contains(says), "{}", failure.message);
            assert!(matches!(outcome(&error, &name()), Outcome::Defer { .. }), "{error}");
        }
        let away = failure(&answered(Call::Fetch, 502, Shape::Foreign, "Bad Gateway"), &name());
        assert!(!away.message.contains("person"), "an API that is away comes back by itself");
    }

    #[test]
    fn a_rabbitmq_that_is_off_is_a_persons_to_mend_and_burns_no_attempts() {
        let answer = Response { status: 201, retry_after: None, date: None, body: b"" };
        let kind = stored_rabbitmq(&answer, &Redaction::new(None, [])).unwrap_err();
        let outcome = outcome(&ApiError { call: Call::SetRabbitmq, kind }, &name());

        let Outcome::Defer { failure, after: None } = outcome else { panic!("{outcome:?}") };
        assert_eq!((failure.host, failure.mend), (HostSignal::Healthy, Mend::Person));
        assert!(failure.message.contains("RABBITMQ_ENABLED to true"), "{}", failure.message);
    }

    #[test]
    fn a_database_that_is_away_is_an_outage_whatever_the_status() {
        for (call, status, text) in [
            (Call::Create, 400, "FATAL: the database system is starting up"),
            (Call::Create, 500, "DriverAdapterError: database \"evolution\" is not currently accepting connections"),
            (Call::SetWebhook, 500, "Can't reach database server at `postgres:5432`"),
            (Call::Roster, 500, "terminating connection due to administrator command"),
        ] {
            for shape in [Shape::Listed, Shape::Plain] {
                let outcome = outcome(&answered(call, status, shape, text), &name());

                assert!(matches!(outcome, Outcome::Defer { .. }), "{text}: {outcome:?}");
                assert_eq!(outcome.failure().unwrap().host, HostSignal::Failing);
            }
        }
    }
}
