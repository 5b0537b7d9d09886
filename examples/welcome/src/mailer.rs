//! The mailing service over HTTP, and the question whether it works.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode, Url};
use serde_json::{Value, json};
use workflows::{
    breaker::{Answer, Probed},
    calls::CallEnd,
    outcome::{Class, Failure, HostSignal},
    workflow::{Boxed, Probe},
};

/// A client, cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    http: Client,
    base: Url,
    host: String,
}

/// Why a call did not do what was asked.
pub enum Error {
    /// The service says no, with this status.
    Refused(StatusCode),
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
            Err(Error::Refused(StatusCode::CONFLICT)) => Ok(()),
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
            Ok(answer) => Err(Error::Refused(answer.status())),
            Err(error) if error.is_connect() || error.is_builder() => Err(Error::Unreachable),
            Err(_) => Err(Error::NoAnswer),
        }
    }
}

impl Error {
    /// What the attempt keeps, and what it tells the gate of the host.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Refused(status) if status.is_server_error() => {
                Failure::new(Class::ServerError, format!("the mailer answered {status}")).with_host(HostSignal::Failing)
            }
            Self::Refused(status) => {
                Failure::new(Class::Rejected, format!("the mailer answered {status}")).with_host(HostSignal::Healthy)
            }
            Self::Unreachable => {
                Failure::new(Class::Unreachable, "the mailer cannot be reached").with_host(HostSignal::Failing)
            }
            Self::NoAnswer => Failure::new(Class::NoAnswer, "the mailer gave no answer").with_host(HostSignal::Failing),
        }
        .with_status(match self {
            Self::Refused(status) => Some(status.as_u16()),
            Self::Unreachable | Self::NoAnswer => None,
        })
    }

    /// Whether the service may still be at work on the call.
    pub fn call_end(&self) -> CallEnd {
        match self {
            Self::Refused(_) => CallEnd::Final,
            Self::Unreachable => CallEnd::NotSent,
            Self::NoAnswer => CallEnd::Unknown,
        }
    }
}

impl Probe for Mailer {
    fn host(&self) -> &str {
        &self.host
    }

    fn ask(&self) -> Boxed<'_, Answer> {
        Box::pin(async {
            match self.call(Method::GET, "health", &json!({})).await {
                Ok(()) => Probed::Answered.into(),
                Err(_) => Probed::Failed.into(),
            }
        })
    }
}
