//! The mailing service over HTTP, and the question whether it works.

use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode, Url, header::RETRY_AFTER};
use serde_json::{Value, json};
use workflows::{
    breaker::{Answer, Probed, Word},
    calls::InFlight,
    outcome::{Class, Failure, HostSignal, Mend, Outcome},
    workflow::{Boxed, Probe},
};

/// A client, cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    http: Client,
    base: Url,
    host: String,
}

/// How long a service is left alone that does not say how long.
const UNSAID: Duration = Duration::from_secs(5);

/// The longest that it is left alone, whatever it says.
const LONGEST: Duration = Duration::from_secs(300);

/// Why a call did not do what was asked.
pub enum Error {
    /// The service answered with this status, and asks to be left alone for so long.
    Refused { status: StatusCode, hold: Option<Duration> },
    /// It was not sent.
    Unreachable,
    /// Nobody knows whether it was done.
    NoAnswer,
}

impl Mailer {
    /// Opens no connection. The error says what is wrong with the URL.
    pub fn new(base: &str) -> Result<Self, String> {
        let base: Url = base.parse().map_err(|error| format!("is no URL ({error}): expected http://host:port"))?;
        let host = base.host_str().ok_or("names no host: expected http://host:port")?;
        let host = base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        // No redirects and no retries inside the client: the engine decides about both.
        let http = Client::builder().timeout(Duration::from_secs(10)).redirect(reqwest::redirect::Policy::none());
        Ok(Self { http: http.build().map_err(|error| error.to_string())?, base, host })
    }

    /// As gates name it.
    pub fn host_name(&self) -> &str {
        &self.host
    }

    /// Makes a contact. `Ok`: it is there, now or already.
    pub async fn create_contact(&self, name: &str, email: &str) -> Result<(), Error> {
        match self.call(Method::POST, "contacts", &json!({ "name": name, "email": email })).await {
            Err(Error::Refused { status: StatusCode::CONFLICT, .. }) => Ok(()),
            answer => answer,
        }
    }

    /// An upsert, safe to repeat.
    pub async fn join_list(&self, name: &str, list: &str) -> Result<(), Error> {
        self.call(Method::PUT, &format!("contacts/{name}/lists/{list}"), &json!({})).await
    }

    /// `key` makes it one mail, however often it is asked for.
    pub async fn send_mail(&self, name: &str, key: &str) -> Result<(), Error> {
        self.call(Method::POST, "mails", &json!({ "to": name, "template": "welcome", "idempotency_key": key })).await
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<(), Error> {
        let url = self.base.join(path).map_err(|_| Error::Unreachable)?;
        let answer = self.http.request(method, url).json(body).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(Error::Refused { status: answer.status(), hold: hold(&answer) }),
            Err(error) if error.is_connect() || error.is_builder() => Err(Error::Unreachable),
            Err(_) => Err(Error::NoAnswer),
        }
    }
}

/// How long the service asks to be left alone: in seconds, as its documentation says.
fn hold(answer: &Response) -> Option<Duration> {
    let said = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
    let unsaid = (answer.status() == StatusCode::TOO_MANY_REQUESTS).then_some(UNSAID);
    said.map(Duration::from_secs).or(unsaid).map(|hold| hold.min(LONGEST))
}

impl Error {
    /// What becomes of the attempt. Only a refusal of what was asked will never work.
    pub fn outcome(&self) -> Outcome {
        let failure = self.failure();
        match failure.host {
            HostSignal::Hold(hold) => Outcome::Defer { failure, after: Some(hold) },
            HostSignal::KeyRefused => Outcome::Defer { failure, after: None },
            HostSignal::Healthy => Outcome::Permanent(failure),
            // The engine asks the probe whose failure it is, and counts only the run's.
            HostSignal::Failing | HostSignal::Silent => Outcome::Retry(failure),
        }
    }

    /// What the attempt keeps, and what it tells the gate of the host.
    fn failure(&self) -> Failure {
        match self {
            Self::Refused { status, hold } => {
                let (class, host, mend) = judge(*status, *hold);
                let failure = Failure::new(class, format!("the mailer answered {status}"));
                failure.with_status(Some(status.as_u16())).with_host(host).with_mend(mend)
            }
            Self::Unreachable => {
                Failure::new(Class::Unreachable, "the mailer cannot be reached").with_host(HostSignal::Failing)
            }
            Self::NoAnswer => Failure::new(Class::NoAnswer, "the mailer gave no answer").with_host(HostSignal::Failing),
        }
    }

    /// Whether the service may still be at work on the call: where a proxy, or a clock, answered in
    /// its place.
    pub fn call_end(&self) -> InFlight {
        match self {
            Self::Refused { status, .. } if matches!(status.as_u16(), 408 | 502..=504) => InFlight::Unknown,
            Self::Refused { .. } => InFlight::Landed,
            Self::Unreachable => InFlight::Never,
            Self::NoAnswer => InFlight::Unknown,
        }
    }
}

/// What an answer means that is no success.
fn judge(status: StatusCode, hold: Option<Duration>) -> (Class, HostSignal, Mend) {
    match (status.as_u16(), hold) {
        (408 | 429 | 500.., Some(hold)) => (Class::RateLimited, HostSignal::Hold(hold), Mend::Itself),
        (408 | 500.., None) => (Class::ServerError, HostSignal::Failing, Mend::Itself),
        (401 | 403, _) => (Class::KeyRefused, HostSignal::KeyRefused, Mend::Person),
        _ => (Class::Rejected, HostSignal::Healthy, Mend::Itself),
    }
}

impl Probe for Mailer {
    fn host(&self) -> &str {
        &self.host
    }

    fn ask(&self) -> Boxed<'_, Answer> {
        Box::pin(async {
            let Err(error) = self.call(Method::GET, "health", &json!({})).await else {
                return Probed::Answered.into();
            };
            let failure = error.failure();
            let (found, hold) = match failure.host {
                HostSignal::Healthy => (Probed::Answered, None),
                HostSignal::KeyRefused => (Probed::KeyRefused, None),
                HostSignal::Hold(hold) => (Probed::Failed, Some(hold)),
                HostSignal::Failing | HostSignal::Silent => (Probed::Failed, None),
            };
            Answer { found, hold, word: Word::of(&failure, ["", ""]) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, hold: Option<u64>) -> Outcome {
        let status = StatusCode::from_u16(status).unwrap();
        Error::Refused { status, hold: hold.map(Duration::from_secs) }.outcome()
    }

    fn host(outcome: &Outcome) -> HostSignal {
        outcome.failure().unwrap().host
    }

    #[test]
    fn a_rate_limit_holds_the_host_and_is_not_counted() {
        let outcome = refused(429, Some(7));

        assert_eq!(host(&outcome), HostSignal::Hold(Duration::from_secs(7)));
        assert!(matches!(outcome, Outcome::Defer { after: Some(after), .. } if after == Duration::from_secs(7)));
    }

    #[test]
    fn a_timeout_and_a_servers_own_error_are_the_hosts_failures() {
        for status in [408, 500, 503] {
            let outcome = refused(status, None);

            assert_eq!(host(&outcome), HostSignal::Failing, "{status}");
            assert!(matches!(outcome, Outcome::Retry(_)), "{status}");
        }
        assert!(matches!(refused(503, Some(1)), Outcome::Defer { after: Some(_), .. }));
    }

    #[test]
    fn a_refused_key_is_not_the_runs_fault() {
        for status in [401, 403] {
            let outcome = refused(status, None);

            assert_eq!(host(&outcome), HostSignal::KeyRefused, "{status}");
            assert!(matches!(outcome, Outcome::Defer { after: None, .. }), "{status}");
        }
    }

    #[test]
    fn a_refusal_of_what_was_asked_is_permanent() {
        let outcome = refused(422, None);

        assert_eq!(host(&outcome), HostSignal::Healthy);
        assert!(matches!(outcome, Outcome::Permanent(_)));
    }

    #[test]
    fn a_call_that_a_proxy_or_a_clock_gave_up_may_still_be_under_way() {
        let end = |status| Error::Refused { status: StatusCode::from_u16(status).unwrap(), hold: None }.call_end();

        assert_eq!([408, 502, 504].map(end), [InFlight::Unknown; 3]);
        assert_eq!([422, 429, 500].map(end), [InFlight::Landed; 3]);
    }
}
