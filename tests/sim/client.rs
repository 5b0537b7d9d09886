//! The Evolution API as one process reaches it: the requests that the real client sends, the same reading of the answers, and
//! the same timeouts, in virtual time.

use std::{future::Future, sync::Arc, time::Duration};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sluice::evolution::Timeouts;
use tests::evolution::{Answer, Body, Request};
use tokio::{sync::oneshot, time};
use workflows::{
    evolution::{
        ApiError, ApiState, Call, Connect, Created, ErrorKind, Evolution, Listed, StoredWebhook, Webhook,
        answer::{self, Response},
        redact::Redaction,
    },
    ids::InstanceName,
    secret::Secret,
};

use crate::{
    api::{Meeting, Pending, Sent},
    chance::Chance,
    process::Process,
    stage::{KEY, Stage},
    weather::Trouble,
};

pub struct Client {
    stage: Arc<Stage>,
    process: Arc<Process>,
    chance: Chance,
    timeouts: Timeouts,
    key: Secret,
}

impl Client {
    pub fn new(stage: Arc<Stage>, process: Arc<Process>) -> Self {
        let chance = stage.chance(&format!("{} client", process.name));
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

    /// A call that creates or deletes. Between the check of the lease, which was just made, and the call, the process may
    /// freeze: then the call leaves when it thaws, whatever became of the lease.
    async fn ask_exclusive<T>(
        &self,
        call: Call,
        request: Request,
        name: &InstanceName,
        timeout: Duration,
        read: impl FnOnce(&Response<'_>) -> Result<T, ErrorKind>,
    ) -> Result<T, ApiError> {
        if self.stage.plan.is_poison(name) {
            self.stage.log.hit("process.poisoned");
            self.process.kill();
        }
        let frozen = self.freeze_in_the_call();
        let result = match frozen {
            Some(how_long) => self.exchange_late(request, name, how_long, timeout).await,
            None => match self.set_out(call).await {
                Ok(()) => {
                    let (pending, meeting) = self.stage.api.begin_exclusive(request, name, &self.process, Sent::InTime);
                    self.stage.met(name, meeting);
                    self.cut(name);
                    self.lose();
                    self.exchange(pending, timeout).await
                }
                Err(kind) => Err(kind),
            },
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
        if self.stage.script.refuses() {
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

    fn freeze_in_the_call(&self) -> Option<Duration> {
        if !self.stage.weather.freezes_call() {
            return None;
        }
        let how_long = self.chance.millis(500, 60_000);
        self.process.freeze(how_long).then(|| {
            self.stage.log.hit("process.frozen_in_call");
            how_long
        })
    }

    /// The call was about to be sent: it is, once the process thaws, even though nobody may be left to wait for its answer.
    async fn exchange_late(
        &self,
        request: Request,
        name: &InstanceName,
        how_long: Duration,
        timeout: Duration,
    ) -> Result<tests::evolution::Response, ErrorKind> {
        let (sender, sent) = oneshot::channel();
        let (stage, process, name) = (self.stage.clone(), self.process.clone(), name.clone());
        self.stage.spawn("a call that was frozen", async move {
            time::sleep(how_long).await;
            process.pass().await;
            // From here on nobody can keep others away from this name.
            stage.facts().unprotected.insert(name.clone(), "overlap.frozen");
            let (pending, meeting) = stage.api.begin_exclusive(request, &name, &process, Sent::AfterAFreeze);
            stage.met(&name, meeting);
            // Where the attempt is over, the connection is closed right after the request.
            let _ = sender.send(pending);
        });
        match sent.await {
            Ok(pending) => self.exchange(pending, timeout).await,
            Err(_) => Err(ErrorKind::NoAnswer("the process is gone".to_owned())),
        }
    }

    /// The API dies while it works on this create.
    fn cut(&self, name: &InstanceName) {
        if !self.stage.weather.cuts_create() {
            return;
        }
        let (stage, name) = (self.stage.clone(), name.clone());
        let (after, down_for) = (self.chance.millis(8, 40), self.chance.millis(500, 6_000));
        self.stage.spawn("an API that dies", async move {
            time::sleep(after).await;
            stage.log.note(|| format!("the API dies in the create of {name}"));
            stage.log.hit("api.restarted_in_create");
            stage.api.world(|world, now| world.restart(now, down_for));
        });
    }

    /// The network breaks while the API works on this create: it goes on, and nobody hears of it.
    fn lose(&self) {
        if !self.stage.weather.loses_create() {
            return;
        }
        let stage = self.stage.clone();
        let (after, how_long) = (self.chance.millis(5, 900), self.chance.millis(1, 1_500));
        self.stage.spawn("a network that breaks", async move {
            time::sleep(after).await;
            stage.log.note(|| "the network breaks".to_owned());
            stage.log.hit("network.broken_in_create");
            stage.weather.begin(Trouble::NetworkBroken, stage.log.now());
            stage.api.broken.notify_waiters();
            time::sleep(how_long).await;
            stage.weather.end(Trouble::NetworkBroken, stage.log.now());
        });
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
                Body::Empty => Vec::new(),
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

    async fn connect(&self, name: &InstanceName) -> Result<Connect, ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key]);
        let request = get("/instance/connect/", name);
        let read = |response: &Response<'_>| answer::connect(response, &redaction);
        self.ask(Call::Connect, request, self.timeouts.qr_code, read).await
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

    async fn delete(&self, name: &InstanceName, token: &Secret) -> Result<(), ApiError> {
        let redaction = Redaction::new(Some(name), [&self.key, token]);
        let request = Request::delete(format!("/instance/delete/{}", encoded(name))).key(token.expose());
        let read = |response: &Response<'_>| answer::done(response, &redaction);
        self.ask_exclusive(Call::Delete, request, name, self.timeouts.other, read).await
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
}

impl Stage {
    /// A create is about to be sent.
    fn creates(&self, name: &InstanceName) {
        let there = self.api.world(|world, _| world.instance(name.as_str()).is_some());
        let slow = self.api.had_a_slow_call(name);
        let mut facts = self.facts();
        let claimed_before = facts.exclusive_claims.get(name).copied().unwrap_or_default() > 1;
        let unprotected = facts.unprotected.contains_key(name);
        if there && claimed_before && !unprotected && slow {
            // It was made after the look, by a call of which nobody knew any more that it was under way.
            facts.unprotected.insert(name.clone(), "overlap.slow_server");
            drop(facts);
            self.log.hit("overlap.slow_server");
        } else if there && claimed_before && !unprotected {
            drop(facts);
            self.log.broken(format!("I3: a create is sent for {name}, which is there, without looking first"));
        } else if there {
            facts.unprotected.entry(name.clone()).or_insert("it was there before its sign-up");
            drop(facts);
            self.log.hit("create.of_one_that_is_there");
        }
    }

    /// What a call that creates or deletes met when it was sent.
    fn met(&self, name: &InstanceName, meeting: Meeting) {
        let excuse = match meeting {
            Meeting::Nobody => return,
            Meeting::AfterAFreeze => "overlap.frozen",
            Meeting::SlowServer => "overlap.slow_server",
            Meeting::Collision => {
                self.log.broken(format!("I3: two calls that create or delete {name} at once"));
                return;
            }
        };
        self.log.note(|| format!("{excuse} at {name}"));
        self.log.hit(excuse);
        self.facts().unprotected.insert(name.clone(), excuse);
    }
}
