//! The Evolution API as one process reaches it: the requests that the real client sends, the same
//! reading of the answers, and the same timeouts, in virtual time. `exclusive` sends the calls that
//! create or delete.

mod exclusive;

use std::{future::Future, sync::Arc, time::Duration};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sluice::evolution::Timeouts;
use tests::evolution::{Answer, Body, Request};
use tokio::time;
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

use crate::{
    api::Pending,
    chance::Chance,
    plan::Removed,
    process::Process,
    stage::{KEY, Stage},
};

pub struct Client {
    stage: Arc<Stage>,
    process: Arc<Process>,
    chance: Chance,
    timeouts: Timeouts,
    key: Secret,
}

impl Client {
    pub fn new(stage: Arc<Stage>, process: Arc<Process>, what: &str) -> Self {
        let chance = stage.chance(&format!("{} {what}", process.name));
        Self { stage, process, chance, timeouts: Timeouts::default(), key: Secret::new(KEY) }
    }

    async fn ask<T>(
        &self,
        call: Call,
        request: Request,
        timeout: Duration,
        read: impl FnOnce(&Response<'_>) -> Result<T, ErrorKind>,
    ) -> Result<T, ApiError> {
        let result = match self.set_out(call).await {
            Ok(()) => self.exchange(self.stage.api.begin(request), timeout).await,
            Err(kind) => Err(kind),
        };
        self.finish(call, result, read).await
    }

    /// What stands between a process and the API.
    async fn set_out(&self, call: Call) -> Result<(), ErrorKind> {
        self.process.pass().await;
        if self.stage.weather.network_is_broken() {
            self.stage.log.hit("network.broken");
            return Err(ErrorKind::Unreachable("no route to host".to_owned()));
        }
        // Not the question for the version, whose answer changes nothing.
        if call != Call::Version && self.stage.script.refuses() {
            return Err(ErrorKind::Unreachable("connection refused".to_owned()));
        }
        let up = self.stage.api.world(|world, _| world.is_up());
        if !up && self.chance.percent(75) {
            self.stage.log.hit("api.refused");
            self.stage.log.note(|| format!("{} {call}: connection refused", self.process.name));
            return Err(ErrorKind::Unreachable("connection refused".to_owned()));
        }
        Ok(())
    }

    async fn exchange(&self, pending: Pending, timeout: Duration) -> Result<tests::evolution::Response, ErrorKind> {
        let answer = tokio::select! {
            biased;
            answer = time::timeout(timeout, pending) => answer,
            () = self.stage.api.broken.notified() => Ok(Answer::Dropped),
        };
        match answer {
            Ok(Answer::Response(response)) => Ok(response),
            Ok(Answer::Dropped) => Err(ErrorKind::NoAnswer("the connection was closed".to_owned())),
            Err(_) => Err(ErrorKind::NoAnswer(format!("none within {timeout:?}"))),
        }
    }

    async fn finish<T>(
        &self,
        call: Call,
        result: Result<tests::evolution::Response, ErrorKind>,
        read: impl FnOnce(&Response<'_>) -> Result<T, ErrorKind>,
    ) -> Result<T, ApiError> {
        self.process.pass().await;
        let result = result.and_then(|response| {
            let body = match &response.body {
                Body::Json(value) => serde_json::to_vec(value).unwrap_or_default(),
                Body::Text(text) => text.clone().into_bytes(),
                Body::Empty | Body::Undefined => Vec::new(),
            };
            let (retry_after, date) = (response.header("retry-after"), response.header("date"));
            read(&Response { status: response.status, retry_after, date, body: &body })
        });
        let result = result.map_err(|kind| ApiError { call, kind });
        self.stage.log.note(|| match &result {
            Ok(_) => format!("{} {call}: ok", self.process.name),
            Err(error) => format!("{} {error}", self.process.name),
        });
        result
    }
}

/// The path's last segment.
fn encoded(name: &InstanceName) -> String {
    utf8_percent_encode(name.as_str(), NON_ALPHANUMERIC).to_string()
}

fn get(path: &str, name: &InstanceName) -> Request {
    Request::get(format!("{path}{}", encoded(name))).key(KEY)
}

impl Evolution for Client {
    async fn fetch(&self, name: &InstanceName) -> Result<Option<Listed>, ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key]);
        let request = get("/instance/fetchInstances?instanceName=", name);
        let read = |response: &Response<'_>| answer::listed(response, name, &redaction);
        self.ask(Call::Fetch, request, self.timeouts.other, read).await
    }

    async fn connection_state(&self, name: &InstanceName) -> Result<Option<ApiState>, ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key]);
        let request = get("/instance/connectionState/", name);
        let read = |response: &Response<'_>| answer::connection_state(response, name, &redaction);
        self.ask(Call::ConnectionState, request, self.timeouts.other, read).await
    }

    async fn fetch_own(&self, name: &InstanceName, token: &Secret) -> Result<Own, ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key, token]);
        if self.stage.plan.removed == Some(Removed::DatabasesWord) {
            return Ok(Own::NoSuchRow);
        }
        let target = format!("/instance/fetchInstances?instanceName={}", encoded(name));
        let request = Request::get(target).key(token.expose());
        let read = |response: &Response<'_>| answer::own(response, name, &redaction);
        self.ask(Call::FetchOwn, request, self.timeouts.other, read).await
    }

    async fn roster(&self) -> Result<Arc<Roster>, ApiError> {
        let redaction = Redaction::new(None, [&self.key]);
        if self.stage.plan.removed == Some(Removed::DatabasesWord) {
            return Ok(Arc::default());
        }
        let request = Request::get("/instance/fetchInstances").key(KEY);
        let read = |response: &Response<'_>| answer::roster(response, &redaction).map(Arc::new);
        self.ask(Call::Roster, request, self.timeouts.other, read).await
    }

    async fn has_settings(&self, name: &InstanceName) -> Result<bool, ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key]);
        let read = |response: &Response<'_>| answer::has_settings(response, &redaction);
        self.ask(Call::FindSettings, get("/settings/find/", name), self.timeouts.other, read).await
    }

    async fn set_settings(&self, name: &InstanceName) -> Result<(), ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key]);
        let request = Request::post(format!("/settings/set/{}", encoded(name))).key(KEY).json(default_settings());
        let read = |response: &Response<'_>| answer::done(response, &redaction);
        self.ask(Call::SetSettings, request, self.timeouts.other, read).await
    }

    async fn connect(&self, name: &InstanceName, within: Duration) -> Result<Connect, ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key]);
        let request = get("/instance/connect/", name);
        let read = |response: &Response<'_>| answer::connect(response, &redaction);
        self.ask(Call::Connect, request, within.min(self.timeouts.qr_code), read).await
    }

    async fn set_webhook(&self, name: &InstanceName, webhook: &Webhook) -> Result<StoredWebhook, ApiError> {
        let redaction = Redaction::new(Some(name), std::iter::once(&self.key).chain(webhook.secrets()));
        let request = Request::post(format!("/webhook/set/{}", encoded(name))).key(KEY).json(webhook.body());
        let read = |response: &Response<'_>| answer::stored_webhook(response, &redaction);
        self.ask(Call::SetWebhook, request, self.timeouts.other, read).await
    }

    async fn find_webhook(&self, name: &InstanceName) -> Result<Option<StoredWebhook>, ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key]);
        let request = get("/webhook/find/", name);
        let read = |response: &Response<'_>| answer::found_webhook(response, &redaction);
        self.ask(Call::FindWebhook, request, self.timeouts.other, read).await
    }

    async fn set_rabbitmq(&self, name: &InstanceName, rabbitmq: &Rabbitmq) -> Result<Rabbitmq, ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key]);
        let request = Request::post(format!("/rabbitmq/set/{}", encoded(name))).key(KEY).json(rabbitmq.body());
        let read = |response: &Response<'_>| answer::stored_rabbitmq(response, &redaction);
        self.ask(Call::SetRabbitmq, request, self.timeouts.other, read).await
    }

    async fn find_rabbitmq(&self, name: &InstanceName) -> Result<Option<Rabbitmq>, ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key]);
        let request = get("/rabbitmq/find/", name);
        let read = |response: &Response<'_>| answer::found_rabbitmq(response, &redaction);
        self.ask(Call::FindRabbitmq, request, self.timeouts.other, read).await
    }

    async fn version(&self) -> Result<Version, ApiError> {
        let redaction = Redaction::new(None, [&self.key]);
        let read = |response: &Response<'_>| answer::version(response, &redaction);
        self.ask(Call::Version, Request::get("/"), self.timeouts.other, read).await
    }

    async fn database(&self) -> Result<(), ApiError> {
        let redaction = Redaction::new(None, [&self.key]);
        let request = Request::get(format!("/instance/fetchInstances?instanceId={}", answer::NO_ID)).key(KEY);
        let read = |response: &Response<'_>| answer::database(response, &redaction);
        self.ask(Call::Database, request, self.timeouts.other, read).await
    }

    async fn verify_creds(&self) -> Result<(), ApiError> {
        let redaction = Redaction::new(None, [&self.key]);
        let request = Request::post("/verify-creds").key(KEY);
        let read = |response: &Response<'_>| answer::done(response, &redaction);
        self.ask(Call::VerifyCreds, request, self.timeouts.other, read).await
    }

    fn pause(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        let process = self.process.clone();
        async move {
            time::sleep(duration).await;
            process.pass().await;
        }
    }
    fn elapsed(&self) -> Duration {
        self.stage.log.now()
    }
}

impl ExclusiveEvolution for Client {
    async fn create(&self, name: &InstanceName, token: &Secret) -> Result<Created, ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key, token]);
        let body = serde_json::json!({
            "instanceName": name.as_str(),
            "token": token.expose(),
            "integration": "WHATSAPP-BAILEYS",
            "qrcode": false,
        });
        let request = Request::post("/instance/create").key(KEY).json(body);
        self.stage.creates(name);
        let read = |response: &Response<'_>| answer::created(response, name, &redaction);
        self.ask_exclusive(Call::Create, request, name, self.timeouts.create, read).await
    }

    async fn delete(&self, name: &InstanceName, token: &Secret) -> Result<(), ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key, token]);
        let request = Request::delete(format!("/instance/delete/{}", encoded(name))).key(token.expose());
        let read = |response: &Response<'_>| answer::done(response, &redaction);
        self.ask_exclusive(Call::Delete, request, name, self.timeouts.other, read).await
    }

    async fn discard(&self, name: &InstanceName) -> Result<(), ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key]);
        let request = Request::delete(format!("/instance/delete/{}", encoded(name))).key(KEY);
        let read = |response: &Response<'_>| answer::done(response, &redaction);
        self.stage.log.hit("call.discarded");
        if self.stage.plan.removed == Some(Removed::Discard) {
            return Ok(());
        }
        self.stage.facts().discarded.insert(name.clone());
        self.ask_exclusive(Call::Discard, request, name, self.timeouts.other, read).await
    }
}
