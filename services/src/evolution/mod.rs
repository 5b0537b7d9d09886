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

use reqwest::{Url, header::HeaderValue};
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

/// A client of one API host. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    host: String,
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

impl Client {
    /// The same client, whose calls are measured there.
    pub fn measured_by(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// The host (and port) that this client speaks to: what its gates are named after.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Sends the request and reads its answer.
    async fn ask<T>(
        &self,
        request: Request<'_>,
        read: impl FnOnce(&Response, &Redaction) -> Result<T, ErrorKind>,
    ) -> Result<T, ApiError> {
        let call = request.call;
        let exchange = async {
            let received = self.receive(self.open(&request).await?, &request).await?;
            let read = read(&received.response(), &request.redaction);
            let expected = read.as_ref().map_or_else(|error| call.is_answered_by(error), |_| true);
            Ok((Went { status: received.status, expected }, read))
        };
        self.observed(&request, exchange).await.flatten().map_err(|kind| ApiError { call, kind })
    }
}

impl Evolution for Client {
    async fn fetch(&self, name: &InstanceName) -> Result<Option<Listed>, ApiError> {
        let request = self.request(Call::Fetch, Some(name), [])?.query("instanceName", name.as_str());
        self.ask(request, |response, redaction| answer::listed(response, name, redaction)).await
    }

    async fn connection_state(&self, name: &InstanceName) -> Result<Option<ApiState>, ApiError> {
        let request = self.request(Call::ConnectionState, Some(name), [])?;
        self.ask(request, |response, redaction| answer::connection_state(response, name, redaction)).await
    }

    async fn fetch_own(&self, name: &InstanceName, token: &Secret) -> Result<Own, ApiError> {
        let request = self.request(Call::FetchOwn, Some(name), [token])?.query("instanceName", name.as_str());
        self.ask(request.key(token)?, |response, redaction| answer::own(response, name, redaction)).await
    }

    async fn roster(&self) -> Result<Arc<Roster>, ApiError> {
        self.roster.get(self.whole_list()).await
    }

    async fn connect(&self, name: &InstanceName, within: Duration) -> Result<Connect, ApiError> {
        let request = self.request(Call::Connect, Some(name), [])?.timeout(within.min(self.timeouts.qr_code));
        self.ask(request, answer::connect).await
    }

    async fn set_webhook(&self, name: &InstanceName, webhook: &Webhook) -> Result<StoredWebhook, ApiError> {
        let request = self.request(Call::SetWebhook, Some(name), webhook.secrets())?.body(webhook.body());
        self.ask(request, answer::stored_webhook).await
    }

    async fn find_webhook(&self, name: &InstanceName) -> Result<Option<StoredWebhook>, ApiError> {
        self.ask(self.request(Call::FindWebhook, Some(name), [])?, answer::found_webhook).await
    }

    async fn set_rabbitmq(&self, name: &InstanceName, rabbitmq: &Rabbitmq) -> Result<Rabbitmq, ApiError> {
        let request = self.request(Call::SetRabbitmq, Some(name), [])?.body(rabbitmq.body());
        self.ask(request, answer::stored_rabbitmq).await
    }

    async fn find_rabbitmq(&self, name: &InstanceName) -> Result<Option<Rabbitmq>, ApiError> {
        self.ask(self.request(Call::FindRabbitmq, Some(name), [])?, answer::found_rabbitmq).await
    }

    async fn has_settings(&self, name: &InstanceName) -> Result<bool, ApiError> {
        self.ask(self.request(Call::FindSettings, Some(name), [])?, answer::has_settings).await
    }

    async fn set_settings(&self, name: &InstanceName) -> Result<(), ApiError> {
        let request = self.request(Call::SetSettings, Some(name), [])?.body(default_settings());
        self.ask(request, answer::done).await
    }

    async fn version(&self) -> Result<Version, ApiError> {
        let request = self.request(Call::Version, None, [])?.timeout(VERSION.min(self.timeouts.other));
        self.ask(request, answer::version).await
    }

    async fn database(&self) -> Result<(), ApiError> {
        let request = self.request(Call::Database, None, [])?.query("instanceId", answer::NO_ID);
        self.ask(request, answer::database).await
    }

    async fn verify_creds(&self) -> Result<(), ApiError> {
        self.ask(self.request(Call::VerifyCreds, None, [])?, answer::done).await
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
        let body = serde_json::json!({
            "instanceName": name.as_str(),
            "token": token.expose(),
            "integration": "WHATSAPP-BAILEYS",
            "qrcode": false,
        });
        let request = self.request(Call::Create, Some(name), [token])?.body(body).timeout(self.timeouts.create);
        self.ask(request, |response, redaction| answer::created(response, name, redaction)).await
    }

    async fn delete(&self, name: &InstanceName, token: &Secret) -> Result<(), ApiError> {
        self.ask(self.request(Call::Delete, Some(name), [token])?.key(token)?, answer::done).await
    }

    async fn discard(&self, name: &InstanceName) -> Result<(), ApiError> {
        self.ask(self.request(Call::Discard, Some(name), [])?, answer::done).await
    }
}

/// What `elapsed` counts from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How long the API gets to say its version: it asks WhatsApp first, and a run waits for it.
const VERSION: Duration = Duration::from_secs(3);
