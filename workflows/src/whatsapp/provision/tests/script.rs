//! A scripted API: each call must be the next one of the script, and gets the answer that stands
//! there.

use std::{
    collections::VecDeque,
    future::{Future, pending},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{
    outcome::{Memory, StepInput},
    secret::Secret,
    whatsapp::{
        evolution::{
            AmqpMode, Answer, ApiError, ApiState, Call, Connect, Created, ErrorKind, Evolution, ExclusiveEvolution,
            Kind, Listed, Own, Rabbitmq, Roster, Shape, StoredWebhook, Version, Webhook, classify::Pairing,
        },
        names::InstanceName,
        provision::{Given, Host},
        provision::{Options, QrAtSignup, Settings, Timings, WebhookOptions},
    },
};

/// What the script says that a call gives.
#[derive(Debug, Clone)]
pub enum Reply {
    Created(&'static str),
    /// A row with this token.
    Row(&'static str),
    ListedRow(Listed),
    NoRow,
    State(Option<ApiState>),
    Connect(Connect),
    /// The webhook as the settings of these tests ask for it, changed by a function.
    Webhook(fn(&mut StoredWebhook)),
    NoWebhook,
    /// What the API publishes of the instance.
    Rabbitmq(Option<Rabbitmq>),
    /// Whether there is a row of settings.
    Settings(bool),
    Own(Own),
    /// Rows of the whole list, by name and token.
    Roster(Vec<(String, Listed)>),
    Version(&'static str),
    Done,
    Error(ErrorKind),
    /// No answer ever.
    Hangs,
}

/// Calls in order, each with what it gives.
pub type Calls = Vec<(Call, Reply)>;

pub struct Script {
    replies: Mutex<VecDeque<(Call, Reply)>>,
    pub paused: Mutex<Vec<Duration>>,
    pub sent: Mutex<Vec<Webhook>>,
    pub published: Mutex<Vec<Rabbitmq>>,
    /// How long each request for a code might take.
    pub connects: Mutex<Vec<Duration>>,
}

impl Script {
    pub fn new(replies: impl IntoIterator<Item = (Call, Reply)>) -> Self {
        let replies = Mutex::new(replies.into_iter().collect());
        Self {
            replies,
            paused: Mutex::default(),
            sent: Mutex::default(),
            published: Mutex::default(),
            connects: Mutex::default(),
        }
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

    /// Runs a step to its end and asserts that the script was played to its end.
    pub fn play<T>(&self, step: impl Future<Output = T>) -> T {
        let Poll::Ready(outcome) = pin!(step).poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("a scripted call never waits")
        };
        let left = self.replies.lock().unwrap();
        assert!(left.is_empty(), "calls that were not made: {left:?}");
        outcome
    }

    async fn done(&self, call: Call) -> Result<(), ApiError> {
        self.ask(call, |reply| matches!(reply, Reply::Done).then_some(())).await
    }

    /// How many calls of the script are still to come.
    pub fn left(&self) -> usize {
        self.replies.lock().unwrap().len()
    }

    pub fn waited(&self) -> Duration {
        self.paused.lock().unwrap().iter().sum()
    }
}

impl Evolution for Script {
    async fn fetch(&self, _: &InstanceName) -> Result<Option<Listed>, ApiError> {
        let read = |reply| match reply {
            Reply::Row(token) => Some(Some(row(token))),
            Reply::ListedRow(row) => Some(Some(row)),
            Reply::NoRow => Some(None),
            _ => None,
        };
        self.ask(Call::Fetch, read).await
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
        let read = |reply| if let Reply::Webhook(change) = reply { Some(stored(change)) } else { None };
        self.ask(Call::SetWebhook, read).await
    }

    async fn find_webhook(&self, _: &InstanceName) -> Result<Option<StoredWebhook>, ApiError> {
        let read = |reply| match reply {
            Reply::Webhook(change) => Some(Some(stored(change))),
            Reply::NoWebhook => Some(None),
            _ => None,
        };
        self.ask(Call::FindWebhook, read).await
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
        let rows = self.ask(Call::Roster, |reply| if let Reply::Roster(rows) = reply { Some(rows) } else { None });
        Ok(Arc::new(rows.await?.into_iter().collect()))
    }

    async fn has_settings(&self, _: &InstanceName) -> Result<bool, ApiError> {
        self.ask(Call::FindSettings, |reply| if let Reply::Settings(there) = reply { Some(there) } else { None }).await
    }

    async fn set_settings(&self, _: &InstanceName) -> Result<(), ApiError> {
        self.done(Call::SetSettings).await
    }

    async fn version(&self) -> Result<Version, ApiError> {
        let said = self.ask(Call::Version, |reply| if let Reply::Version(text) = reply { Some(text) } else { None });
        Ok(said.await?.parse().unwrap())
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
        self.paused.lock().unwrap().push(duration);
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

pub const USER: &str = "7051bc96-9e27-4940-86ab-2c040b518faa";
pub const TOKEN: &str = "our-token-1";

/// What the engine gives a step, where this is remembered of the instance.
pub fn input(memory: Memory) -> StepInput {
    StepInput {
        subject: USER.parse().unwrap(),
        resource: format!("user_{USER}").parse().unwrap(),
        secret: Secret::new(TOKEN),
        memory,
        exclusive_before: false,
        input: serde_json::Value::Null,
    }
}

pub fn given() -> Given {
    Given::of(&input(Memory::default()))
}

/// An instance's row with this token; none: the API does not show it.
pub fn row(token: &str) -> Listed {
    let token = (!token.is_empty()).then(|| Secret::new(token));
    let instance_id = Some("i-1".into());
    let (status, phone_number, has_settings) = (None, None, None);
    Listed { instance_id, token, status, kind: Kind::Ours, pairing: Pairing::NotYet, phone_number, has_settings }
}

/// A host of a version that was tried, which has loaded whatever it has.
pub fn host() -> Host {
    Host::knowing("2.3.6", Roster::default())
}

/// The whole list, with this row for our instance.
pub fn roster_with(own: Listed) -> Reply {
    Reply::Roster(vec![(format!("user_{USER}"), own)])
}

/// What the database says of a name that it does not have.
pub fn not_in_database() -> Calls {
    vec![(Call::FetchOwn, Reply::Own(Own::NoSuchRow)), (Call::Roster, Reply::Roster(vec![]))]
}

/// The API's memory does not have the name.
pub fn absent() -> Calls {
    vec![(Call::Fetch, not_in_list()), (Call::ConnectionState, not_there())]
}

/// Absent by the database's word.
pub fn gone() -> Calls {
    [absent(), not_in_database()].concat()
}

/// Absent twice, the second time by the database's word.
pub fn gone_twice() -> Calls {
    [absent(), gone()].concat()
}

/// The API's database has the name, and its memory has not.
pub fn not_loaded() -> Calls {
    vec![(Call::Fetch, not_in_list()), (Call::ConnectionState, Reply::State(None))]
}

/// The API's memory has the name, and its database has not.
pub fn phantom() -> Calls {
    vec![(Call::Fetch, Reply::NoRow), (Call::ConnectionState, Reply::State(Some(ApiState::Close)))]
}

/// The list has the name, with this token.
pub fn found(token: &'static str) -> Calls {
    vec![(Call::Fetch, Reply::Row(token))]
}

pub fn options() -> Options {
    let headers = [("authorization", "Bearer {token}"), ("jwt_key", "signing-key-1")];
    Options {
        webhook: WebhookOptions {
            url: "https://app.test/hook/{user_id}?i={instance}&t={token}".into(),
            events: vec!["QRCODE_UPDATED".into(), "CONNECTION_UPDATE".into()],
            headers: headers.map(|(name, value)| (name.to_owned(), Secret::new(value))).into(),
            by_events: false,
            base64: true,
        },
        qr_at_signup: QrAtSignup::Skip,
        amqp_mode: AmqpMode::Global,
        timings: Timings::default(),
    }
}

pub fn settings() -> Settings {
    Settings::parse(options()).unwrap()
}

/// Of an API that publishes for each instance.
pub fn per_instance() -> Settings {
    Settings::parse(Options { amqp_mode: AmqpMode::Instance, ..options() }).unwrap()
}

/// An instance all of whose events that a follower reads are published, and these too.
pub fn published(more: &[&str]) -> Rabbitmq {
    let mut all = Rabbitmq::to_set(None).unwrap();
    all.events.extend(more.iter().map(|event| (*event).to_owned()));
    all
}

/// The webhook as the API stores what the settings of these tests ask for, changed by a function.
fn stored(change: fn(&mut StoredWebhook)) -> StoredWebhook {
    let mut stored = StoredWebhook {
        enabled: true,
        url: Secret::new(format!("https://app.test/hook/{USER}?i=user_{USER}&t={TOKEN}")),
        events: ["CONNECTION_UPDATE", "QRCODE_UPDATED"].map(str::to_owned).into(),
        headers: [("authorization", "Bearer our-token-1"), ("jwt_key", "signing-key-1")]
            .map(|(name, value)| (name.to_owned(), Secret::new(value)))
            .into(),
        by_events: false,
        base64: true,
    };
    change(&mut stored);
    stored
}

pub fn answer(status: u16, shape: Shape, message: impl Into<String>) -> Reply {
    Reply::Error(ErrorKind::Answer(Answer { status, shape, message: message.into(), retry_after: None }))
}

pub fn in_use() -> Reply {
    answer(403, Shape::Listed, format!("This name \"user_{USER}\" is already in use."))
}

pub fn not_in_list() -> Reply {
    answer(404, Shape::Listed, format!("Instance \"user_{USER}\" not found"))
}

pub fn not_there() -> Reply {
    answer(404, Shape::Listed, format!("The \"user_{USER}\" instance does not exist"))
}

pub fn timed_out() -> Reply {
    Reply::Error(ErrorKind::NoAnswer("none within 15s".into()))
}

pub fn refused() -> Reply {
    Reply::Error(ErrorKind::Unreachable("connection refused".into()))
}

pub fn database_away() -> Reply {
    answer(500, Shape::Plain, "database \"evolution\" is not currently accepting connections")
}
