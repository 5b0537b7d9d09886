//! A scripted API: each call must be the next one of the script, and gets the answer that stands
//! there.

use std::{
    collections::VecDeque,
    future::{Future, pending},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    thread,
};

use workflows::whatsapp::{
    evolution::{Created, ExclusiveEvolution, Version},
    names::InstanceName,
};

use super::*;

/// What the script says that a call gives.
#[derive(Debug, Clone)]
pub enum Reply {
    /// With this token.
    Created(&'static str),
    Row(Option<Listed>),
    State(Option<ApiState>),
    Connect(Connect),
    Webhook(Option<StoredWebhook>),
    /// What the API publishes of the instance.
    Rabbitmq(Option<Rabbitmq>),
    /// Whether there is a row of settings.
    Settings(bool),
    Own(Own),
    Roster(Roster),
    Version(&'static str),
    Done,
    Error(ErrorKind),
    /// No answer ever.
    Hangs,
}

/// Calls in order, each with what it gives.
pub type Calls = Vec<(Call, Reply)>;

/// What one process meets: all calls of the script have been made when it ends.
#[derive(Default)]
pub struct Script {
    host: Host,
    replies: Mutex<VecDeque<(Call, Reply)>>,
    paused: Mutex<Duration>,
    pub sent: Mutex<Vec<Webhook>>,
    pub published: Mutex<Vec<Rabbitmq>>,
    /// How long each request for a code might take.
    pub connects: Mutex<Vec<Duration>>,
}

impl Script {
    /// Of a host that nothing is known of.
    pub fn of_a_new_host(calls: Calls) -> Self {
        let script = Self::default();
        script.replies.lock().unwrap().extend(calls);
        script
    }

    /// Of a host that has loaded whatever it has, and whose version was tried: an earlier create
    /// has learnt both.
    pub fn new(calls: Calls) -> Self {
        let script = Self::of_a_new_host([asked("2.3.6"), made()].concat());
        script.create(&given()).success();
        script.replies.lock().unwrap().extend(calls);
        script
    }

    /// The answer to this call, which must be the next one of the script.
    async fn ask<T>(&self, call: Call, read: fn(Reply) -> Option<T>) -> Result<T, ApiError> {
        let next = self.replies.lock().unwrap().pop_front();
        let Some((expected, reply)) = next else { panic!("{call} is one call more than the script has") };
        assert_eq!(call, expected, "not the next call of the script");
        match reply {
            Reply::Error(kind) => Err(ApiError { call, kind }),
            Reply::Hangs => pending().await,
            reply => Ok(read(reply.clone()).unwrap_or_else(|| panic!("{reply:?} is no answer to {call}"))),
        }
    }

    async fn done(&self, call: Call) -> Result<(), ApiError> {
        self.ask(call, |reply| matches!(reply, Reply::Done).then_some(())).await
    }

    /// One attempt of a step.
    pub async fn attempt(&self, calls: &ExclusiveCalls<'_>, step: &str, given: &Given, settings: &Settings) -> Outcome {
        let api = ExclusiveApi::new(self, calls);
        provision::run(&step.parse().unwrap(), &api, given, settings, &self.host).await.expect("a step of the workflow")
    }

    /// One attempt to its end, under a lease that lasts.
    pub fn play(&self, step: &str, given: &Given, settings: &Settings) -> Ended {
        let granted = ExclusiveCalls::new(&Permission::Granted);
        let ended = Ended(at_once(self.attempt(&granted, step, given, settings)));
        ended.assert_no_secret();
        ended.assert_fit_for_the_row();
        ended
    }

    pub fn create(&self, given: &Given) -> Ended {
        self.play(CREATE_INSTANCE, given, &settings())
    }

    pub fn wait(&self, duration: Duration) {
        *self.paused.lock().unwrap() += duration;
    }

    pub fn waited(&self) -> Duration {
        *self.paused.lock().unwrap()
    }

    /// How many calls of the script are still to come.
    pub fn left(&self) -> usize {
        self.replies.lock().unwrap().len()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if !thread::panicking() {
            let left = self.replies.get_mut().unwrap();
            assert!(left.is_empty(), "calls that were not made: {left:?}");
        }
    }
}

/// What this gives: a scripted call never waits.
pub fn at_once<T>(step: impl Future<Output = T>) -> T {
    match pin!(step).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(given) => given,
        Poll::Pending => panic!("it waits"),
    }
}

impl Evolution for Script {
    async fn fetch(&self, _: &InstanceName) -> Result<Option<Listed>, ApiError> {
        self.ask(Call::Fetch, |reply| if let Reply::Row(row) = reply { Some(row) } else { None }).await
    }

    async fn connection_state(&self, _: &InstanceName) -> Result<Option<ApiState>, ApiError> {
        self.ask(Call::ConnectionState, |reply| if let Reply::State(state) = reply { Some(state) } else { None }).await
    }

    async fn connect(&self, _: &InstanceName, within: Duration) -> Result<Connect, ApiError> {
        self.connects.lock().unwrap().push(within);
        self.ask(Call::Connect, |reply| if let Reply::Connect(connect) = reply { Some(connect) } else { None }).await
    }

    async fn set_webhook(&self, _: &InstanceName, webhook: &Webhook) -> Result<StoredWebhook, ApiError> {
        self.sent.lock().unwrap().push(webhook.clone());
        self.ask(Call::SetWebhook, |reply| if let Reply::Webhook(stored) = reply { stored } else { None }).await
    }

    async fn find_webhook(&self, _: &InstanceName) -> Result<Option<StoredWebhook>, ApiError> {
        self.ask(Call::FindWebhook, |reply| if let Reply::Webhook(stored) = reply { Some(stored) } else { None }).await
    }

    async fn set_rabbitmq(&self, _: &InstanceName, rabbitmq: &Rabbitmq) -> Result<Rabbitmq, ApiError> {
        self.published.lock().unwrap().push(rabbitmq.clone());
        self.done(Call::SetRabbitmq).await.map(|()| rabbitmq.clone())
    }

    async fn find_rabbitmq(&self, _: &InstanceName) -> Result<Option<Rabbitmq>, ApiError> {
        self.ask(Call::FindRabbitmq, |reply| if let Reply::Rabbitmq(stored) = reply { Some(stored) } else { None })
            .await
    }

    async fn fetch_own(&self, _: &InstanceName, token: &Secret) -> Result<Own, ApiError> {
        assert_eq!(token.expose(), TOKEN, "not the instance's own token");
        self.ask(Call::FetchOwn, |reply| if let Reply::Own(own) = reply { Some(own) } else { None }).await
    }

    async fn roster(&self) -> Result<Arc<Roster>, ApiError> {
        self.ask(Call::Roster, |reply| if let Reply::Roster(roster) = reply { Some(Arc::new(roster)) } else { None })
            .await
    }

    async fn has_settings(&self, _: &InstanceName) -> Result<bool, ApiError> {
        self.ask(Call::FindSettings, |reply| if let Reply::Settings(there) = reply { Some(there) } else { None }).await
    }

    async fn set_settings(&self, _: &InstanceName) -> Result<(), ApiError> {
        self.done(Call::SetSettings).await
    }

    async fn version(&self) -> Result<Version, ApiError> {
        self.ask(Call::Version, |reply| if let Reply::Version(text) = reply { text.parse().ok() } else { None }).await
    }

    async fn database(&self) -> Result<(), ApiError> {
        panic!("no step asks for this")
    }

    async fn verify_creds(&self) -> Result<(), ApiError> {
        panic!("no step asks for this")
    }

    fn elapsed(&self) -> Duration {
        self.waited()
    }

    async fn pause(&self, duration: Duration) {
        self.wait(duration);
    }
}

impl ExclusiveEvolution for Script {
    async fn create(&self, _: &InstanceName, _: &Secret) -> Result<Created, ApiError> {
        let token = self.ask(Call::Create, |reply| if let Reply::Created(token) = reply { Some(token) } else { None });
        Ok(Created { token: Some(Secret::new(token.await?)), instance_id: None })
    }

    async fn delete(&self, _: &InstanceName, _: &Secret) -> Result<(), ApiError> {
        panic!("no step of provision-instance deletes with the instance's token")
    }

    async fn discard(&self, _: &InstanceName) -> Result<(), ApiError> {
        self.done(Call::Discard).await
    }
}
