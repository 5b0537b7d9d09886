//! The client of the Evolution API: the only module that speaks to it. It sends a call once: no
//! retries, no redirects, bounded time and bounded bodies. Reading answers and judging failures is
//! pure and lives in `workflows::whatsapp::evolution`; no error that leaves this module holds a key
//! or a token.

mod list;
mod options;
mod shared;
mod transport;

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, header::HeaderValue};
use workflows::{
    secret::Secret,
    whatsapp::{
        evolution::{
            ApiError, ApiState, Call, Connect, Created, ErrorKind, Evolution, ExclusiveEvolution, Listed, Own,
            Rabbitmq, Roster, StoredWebhook, Version, Webhook,
            answer::{self, Response},
            default_settings,
            redact::Redaction,
        },
        names::InstanceName,
    },
};

pub use options::{Options, OptionsError, Timeouts, host};

use self::{
    shared::SharedRoster,
    transport::{Request, Went},
};
use crate::telemetry::metrics::Metrics;

/// What stays as it is in a path segment and in a query value.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A client of one API host. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    base: String,
    host: String,
    /// What spans say of the address, which holds no credentials.
    address: Address,
    /// The proxy that calls go through, if any, without its credentials.
    proxy: Option<String>,
    key: Secret,
    key_header: HeaderValue,
    timeouts: Timeouts,
    /// The list of every instance, for all who ask at once.
    roster: Arc<SharedRoster>,
    /// Where calls are measured, if anywhere.
    metrics: Option<Arc<Metrics>>,
}

/// Where the API is, fit to be seen.
#[derive(Clone)]
struct Address {
    host: String,
    port: Option<u16>,
    /// Without a slash at its end.
    base: String,
}

impl Client {
    /// The same client, whose calls are measured there.
    pub fn measured_by(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// The host (and port) that this client speaks to: what its gates are named after.
    pub fn host(&self) -> &str {
        &self.host
    }

    fn redaction<'a>(
        &'a self,
        name: Option<&'a InstanceName>,
        more: impl IntoIterator<Item = &'a Secret>,
    ) -> Redaction<'a> {
        Redaction::new(name, std::iter::once(&self.key).chain(more))
    }

    /// Sends, with the global key where the request has none of its own, and reads the answer.
    async fn ask<T>(
        &self,
        call: Call,
        request: Request,
        redaction: &Redaction<'_>,
        read: impl FnOnce(&Response) -> Result<T, ErrorKind>,
    ) -> Result<T, ApiError> {
        let path = request.path.clone();
        let exchange = async {
            let received = self.exchange(request, redaction).await?;
            Ok((received.status, read(&received.response())))
        };
        let went = |(status, read): &(u16, Result<T, ErrorKind>)| {
            let expected = read.as_ref().map_or_else(|error| call.is_answered_by(error), |_| true);
            Went { status: *status, expected }
        };
        let answered = self.observed(call, &path, exchange, went).await;
        answered.and_then(|(_, read)| read).map_err(|kind| ApiError { call, kind })
    }
}

impl Evolution for Client {
    async fn fetch(&self, name: &InstanceName) -> Result<Option<Listed>, ApiError> {
        let redaction = self.redaction(Some(name), []);
        let path = format!("/instance/fetchInstances?instanceName={}", utf8_percent_encode(name.as_str(), ENCODED));
        let request = Request::new(Method::GET, path);
        self.ask(Call::Fetch, request, &redaction, |response| answer::listed(response, name, &redaction)).await
    }

    async fn connection_state(&self, name: &InstanceName) -> Result<Option<ApiState>, ApiError> {
        let (call, redaction) = (Call::ConnectionState, self.redaction(Some(name), []));
        let request = Request::new(Method::GET, named(call, "/instance/connectionState", name)?);
        self.ask(call, request, &redaction, |response| answer::connection_state(response, name, &redaction)).await
    }

    async fn fetch_own(&self, name: &InstanceName, token: &Secret) -> Result<Own, ApiError> {
        let (call, redaction) = (Call::FetchOwn, self.redaction(Some(name), [token]));
        let path = format!("/instance/fetchInstances?instanceName={}", utf8_percent_encode(name.as_str(), ENCODED));
        let request = Request::new(Method::GET, path).key(own_key(call, token)?);
        self.ask(call, request, &redaction, |response| answer::own(response, name, &redaction)).await
    }

    async fn roster(&self) -> Result<Arc<Roster>, ApiError> {
        self.roster.get(self.whole_list()).await
    }

    async fn connect(&self, name: &InstanceName, within: Duration) -> Result<Connect, ApiError> {
        let (call, redaction) = (Call::Connect, self.redaction(Some(name), []));
        let timeout = within.min(self.timeouts.qr_code);
        let request = Request::new(Method::GET, named(call, "/instance/connect", name)?).timeout(timeout);
        self.ask(call, request, &redaction, |response| answer::connect(response, &redaction)).await
    }

    async fn set_webhook(&self, name: &InstanceName, webhook: &Webhook) -> Result<StoredWebhook, ApiError> {
        let (call, redaction) = (Call::SetWebhook, self.redaction(Some(name), webhook.secrets()));
        let request = Request::new(Method::POST, named(call, "/webhook/set", name)?).body(webhook.body());
        self.ask(call, request, &redaction, |response| answer::stored_webhook(response, &redaction)).await
    }

    async fn find_webhook(&self, name: &InstanceName) -> Result<Option<StoredWebhook>, ApiError> {
        let (call, redaction) = (Call::FindWebhook, self.redaction(Some(name), []));
        let request = Request::new(Method::GET, named(call, "/webhook/find", name)?);
        self.ask(call, request, &redaction, |response| answer::found_webhook(response, &redaction)).await
    }

    async fn set_rabbitmq(&self, name: &InstanceName, rabbitmq: &Rabbitmq) -> Result<Rabbitmq, ApiError> {
        let (call, redaction) = (Call::SetRabbitmq, self.redaction(Some(name), []));
        let request = Request::new(Method::POST, named(call, "/rabbitmq/set", name)?).body(rabbitmq.body());
        self.ask(call, request, &redaction, |response| answer::stored_rabbitmq(response, &redaction)).await
    }

    async fn find_rabbitmq(&self, name: &InstanceName) -> Result<Option<Rabbitmq>, ApiError> {
        let (call, redaction) = (Call::FindRabbitmq, self.redaction(Some(name), []));
        let request = Request::new(Method::GET, named(call, "/rabbitmq/find", name)?);
        self.ask(call, request, &redaction, |response| answer::found_rabbitmq(response, &redaction)).await
    }

    async fn has_settings(&self, name: &InstanceName) -> Result<bool, ApiError> {
        let (call, redaction) = (Call::FindSettings, self.redaction(Some(name), []));
        let request = Request::new(Method::GET, named(call, "/settings/find", name)?);
        self.ask(call, request, &redaction, |response| answer::has_settings(response, &redaction)).await
    }

    async fn set_settings(&self, name: &InstanceName) -> Result<(), ApiError> {
        let (call, redaction) = (Call::SetSettings, self.redaction(Some(name), []));
        let request = Request::new(Method::POST, named(call, "/settings/set", name)?).body(default_settings());
        self.ask(call, request, &redaction, |response| answer::done(response, &redaction)).await
    }

    async fn version(&self) -> Result<Version, ApiError> {
        let redaction = self.redaction(None, []);
        let request = Request::new(Method::GET, "/").timeout(VERSION.min(self.timeouts.other));
        self.ask(Call::Version, request, &redaction, |response| answer::version(response, &redaction)).await
    }

    async fn database(&self) -> Result<(), ApiError> {
        let redaction = self.redaction(None, []);
        let request = Request::new(Method::GET, format!("/instance/fetchInstances?instanceId={}", answer::NO_ID));
        self.ask(Call::Database, request, &redaction, |response| answer::database(response, &redaction)).await
    }

    async fn verify_creds(&self) -> Result<(), ApiError> {
        let redaction = self.redaction(None, []);
        let request = Request::new(Method::POST, "/verify-creds");
        self.ask(Call::VerifyCreds, request, &redaction, |response| answer::done(response, &redaction)).await
    }

    async fn pause(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn elapsed(&self) -> Duration {
        START.elapsed()
    }
}

impl ExclusiveEvolution for Client {
    async fn create(&self, name: &InstanceName, token: &Secret) -> Result<Created, ApiError> {
        let redaction = self.redaction(Some(name), [token]);
        let body = serde_json::json!({
            "instanceName": name.as_str(),
            "token": token.expose(),
            "integration": "WHATSAPP-BAILEYS",
            "qrcode": false,
        });
        let request = Request::new(Method::POST, "/instance/create").body(body).timeout(self.timeouts.create);
        self.ask(Call::Create, request, &redaction, |response| answer::created(response, name, &redaction)).await
    }

    async fn delete(&self, name: &InstanceName, token: &Secret) -> Result<(), ApiError> {
        let (call, redaction) = (Call::Delete, self.redaction(Some(name), [token]));
        let request = Request::new(Method::DELETE, named(call, "/instance/delete", name)?).key(own_key(call, token)?);
        self.ask(call, request, &redaction, |response| answer::done(response, &redaction)).await
    }

    async fn discard(&self, name: &InstanceName) -> Result<(), ApiError> {
        let (call, redaction) = (Call::Discard, self.redaction(Some(name), []));
        let request = Request::new(Method::DELETE, named(call, "/instance/delete", name)?);
        self.ask(call, request, &redaction, |response| answer::done(response, &redaction)).await
    }
}

/// What `elapsed` counts from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How long the API gets to say its version: it asks WhatsApp first, and a run waits for it.
const VERSION: Duration = Duration::from_secs(3);

/// The instance's own token as the key of a call.
fn own_key(call: Call, token: &Secret) -> Result<HeaderValue, ApiError> {
    options::key_header(token).map_err(|_| {
        let why = "the instance's own token holds characters that no header can carry";
        ApiError { call, kind: ErrorKind::NoAnswer(why.into()) }
    })
}

/// A route with the name as its last segment. A name of dots alone would climb to another route,
/// even percent-encoded.
fn named(call: Call, route: &str, name: &InstanceName) -> Result<String, ApiError> {
    if matches!(name.as_str(), "." | "..") {
        let why = format!("the name \"{name}\" cannot be the last part of a URL: rename the instance");
        return Err(ApiError { call, kind: ErrorKind::NoAnswer(why) });
    }
    Ok(format!("{route}/{}", utf8_percent_encode(name.as_str(), ENCODED)))
}
