//! RabbitMQ: connections, what is asked over them, and the link of who publishes. Whatever goes
//! wrong ends a link, and its owner opens another: lapin's own recovery is not used. What a person
//! must mend is said with the mend.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::future::join_all;
use lapin::{
    BasicProperties, Channel, Confirmation, ConnectionProperties, Consumer, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
    uri::AMQPUri,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Answer, Broker, Message, Settings, message::CONTENT_TYPE};
use crate::telemetry::trace::TRACEPARENT;

/// How long a connection, and each declaration, may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How long a batch may wait for its confirms. Shorter than a claim.
const CONFIRMS_WITHIN: Duration = Duration::from_secs(15);
/// Seconds without a sign of life after which a connection is lost, where the address says nothing
/// else.
const HEARTBEAT: u16 = 10;
const PERSISTENT: u8 = 2;
/// How many messages the broker sends ahead of who reads them.
pub(super) const AHEAD: u16 = 500;

/// The setting of who publishes.
const SETTING: &str = "AMQP_URL";

/// Where a broker is, and who we are there. Prints without the password.
#[derive(Clone)]
pub struct Address {
    uri: AMQPUri,
    /// Where a person mends it.
    setting: &'static str,
}

impl Address {
    pub fn parse(setting: &'static str, text: &str) -> Result<Self, String> {
        let mut uri: AMQPUri = text.parse()?;
        if uri.authority.host.is_empty() {
            return Err("it names no host".to_owned());
        }
        // What RabbitMQ's operator for Kubernetes writes ends with a slash: the default one.
        if uri.vhost.is_empty() {
            uri.vhost = "/".to_owned();
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        Ok(Self { uri, setting })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &self.uri;
        write!(f, "{scheme}://{}:{} (vhost {vhost:?})", authority.host, authority.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why there is no link, and what mends it.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Trouble(pub(super) String);

impl Trouble {
    pub(super) fn lost(error: &lapin::Error) -> Self {
        Self(format!("the connection to the broker is lost ({error})"))
    }

    /// Whether the broker will not do this one thing: the connection is not to blame.
    pub(super) fn is_refusal(&self) -> bool {
        ["ACCESS_REFUSED", "PRECONDITION_FAILED", "NOT_FOUND"].iter().any(|code| self.0.contains(code))
    }

    /// The broker's own words, and the mend where we know one.
    fn of(error: &lapin::Error, what: &str, address: &Address) -> Self {
        let text = error.to_string();
        let said = plain(&text);
        let Address { uri: AMQPUri { vhost, authority, .. }, setting } = address;
        let publishes = *setting == SETTING;
        let user = &authority.userinfo.username;
        let rights = format!("rabbitmqctl set_permissions -p {vhost} {user} …");
        let lower = said.to_lowercase();
        let has = |words: &str| lower.contains(words);
        let mend = if has("not found") && has("vhost") {
            format!(
                "the vhost {vhost:?} is not there: make it (rabbitmqctl add_vhost), or name another at the end of {setting} \
                 (/%2f is the default one)"
            )
        } else if has("access to vhost") {
            format!("give the user {user} rights in the vhost {vhost:?}: {rights}")
        } else if has("access_refused") && has("login") {
            format!("the broker refuses the user {user} or its password: check {setting}")
        } else if has("access_refused") && !publishes {
            format!("the user {user} may not do this: give it the right to configure, write and read there, {rights}")
        } else if has("access_refused") {
            format!(
                "the user {user} may not do this: let an administrator declare it (docs/events.md), and give the user the \
                 right to write to both exchanges: {rights}"
            )
        } else if has("precondition_failed") && !publishes {
            let of_the_feed = setting.trim_end_matches("_URL");
            format!(
                "one of that name is there with other properties: delete it (what waits in a queue goes with it), or set \
                 {of_the_feed}_QUEUE or {of_the_feed}_EXCHANGE to another name"
            )
        } else if has("precondition_failed") {
            "one of that name is there and is another one: delete it, or set EVENTS_EXCHANGE or \
             EVENTS_DEAD_LETTER_EXCHANGE to another name"
                .to_owned()
        } else if has("no exchange") {
            "a publisher makes it when it starts: is this its name, and has one been started?".to_owned()
        } else if what == CONNECT {
            format!("check {setting} and the network")
        } else {
            return Self(format!("{what}: {said}"));
        };
        Self(format!("{what}: {said}; {mend}"))
    }
}

/// The broker's own words, without what the client sets before them.
fn plain(text: &str) -> &str {
    let said = text.rsplit("error: ").next().unwrap_or(text);
    let said = match said.split_once(": ") {
        Some((kind, rest)) if rest.starts_with(&kind.replace('-', "_")) => rest,
        _ => said,
    };
    said.trim_end_matches('.')
}

const CONNECT: &str = "connect";

/// A connection to the broker at an address.
pub(super) struct Connection {
    inner: lapin::Connection,
    address: Address,
}

impl Connection {
    pub async fn open(address: &Address, name: &str) -> Result<Self, Trouble> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let opened = lapin::Connection::connect_uri(address.uri.clone(), properties);
        Ok(Self { inner: answered(CONNECT, address, opened).await?, address: address.clone() })
    }

    /// Asks it on a channel of its own, which a refusal ends.
    pub async fn ask<T>(&self, what: &str, ask: impl AsyncFnOnce(Channel) -> lapin::Result<T>) -> Result<T, Trouble> {
        let asked = async { ask(self.inner.create_channel().await?).await };
        answered(what, &self.address, asked).await
    }

    /// Declares it; where that is refused, is content with what is there (`true`). The first
    /// refusal is the one that is told.
    pub async fn declare(
        &self,
        what: &str,
        declare: impl AsyncFn(Channel, bool) -> lapin::Result<()>,
    ) -> Result<(), Trouble> {
        let Err(refused) = self.ask(what, async |channel| declare(channel, false).await).await else { return Ok(()) };
        let is_right = refused.0.contains("ACCESS_REFUSED");
        match is_right && self.ask(what, async |channel| declare(channel, true).await).await.is_ok() {
            true => Ok(()),
            false => Err(refused),
        }
    }

    /// Ends it, with a moment for the broker to hear of it.
    pub async fn close(&self) {
        let _ = timeout(Duration::from_secs(1), self.inner.close(200, "done".into())).await;
    }
}

async fn answered<T>(
    what: &str,
    address: &Address,
    asked: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Trouble> {
    match timeout(ANSWERS_WITHIN, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Trouble::of(&error, what, address)),
        Err(_) => Err(Trouble(format!("the broker does not answer within {ANSWERS_WITHIN:?} ({what})"))),
    }
}

/// A connection on which the exchanges are declared and every message is confirmed.
pub(super) struct Link {
    pub connection: Connection,
    channel: Channel,
    exchange: ShortString,
    dead_letters: ShortString,
    /// A batch was not confirmed in time: whatever comes now, nobody waits for it.
    is_late: AtomicBool,
}

impl Link {
    pub async fn open(settings: &Settings) -> Result<Self, Trouble> {
        let connection = Connection::open(&settings.address, "sluice events").await?;
        declare(&connection, settings).await?;
        let confirming = async |channel: Channel| {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        let channel = connection.ask("open a channel", confirming).await?;
        let (exchange, dead_letters) = (settings.exchange.as_str().into(), settings.dead_letters.as_str().into());
        Ok(Self { connection, channel, exchange, dead_letters, is_late: AtomicBool::new(false) })
    }

    /// The broker asks publishers to wait.
    pub fn is_blocked(&self) -> bool {
        self.connection.inner.status().blocked()
    }

    /// It takes messages again: that it was late was the alarm's doing.
    pub fn unblocked(&self) {
        self.is_late.store(false, Ordering::Relaxed);
    }

    /// Why the link cannot be used any more.
    pub fn trouble(&self) -> Option<Trouble> {
        if !self.connection.inner.status().connected() {
            return Some(Trouble("the connection to the broker is lost".to_owned()));
        }
        if self.is_late.load(Ordering::Relaxed) && !self.is_blocked() {
            return Some(Trouble(format!("the broker does not confirm what it is sent within {CONFIRMS_WITHIN:?}")));
        }
        let lost = "the broker closed the channel: do the exchanges still exist, and may the user write to them?";
        (!self.channel.status().connected()).then(|| Trouble(lost.to_owned()))
    }

    async fn send(&self, exchange: &ShortString, message: &Message) -> lapin::Result<lapin::PublisherConfirm> {
        let mut headers = FieldTable::default();
        if let Some(context) = &message.traceparent {
            headers.insert(TRACEPARENT.into(), AMQPValue::LongString(context.as_str().into()));
        }
        let properties = BasicProperties::default()
            .with_message_id(message.id.to_string().into())
            .with_type(message.r#type.as_str().into())
            .with_timestamp(message.timestamp)
            .with_content_type(CONTENT_TYPE.into())
            .with_app_id("sluice".into())
            .with_delivery_mode(PERSISTENT)
            .with_headers(headers);
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let key = message.routing_key.as_str().into();
        self.channel.basic_publish(exchange.clone(), key, options, &message.body, properties).await
    }
}

impl Broker for Link {
    async fn publish(&self, messages: &[Message]) -> Vec<Answer> {
        let deadline = Instant::now() + CONFIRMS_WITHIN;
        let mut confirms = Vec::with_capacity(messages.len());
        for message in messages {
            let sent = timeout_at(deadline, self.send(&self.exchange, message)).await;
            let copy = match message.is_dead_letter {
                true => Some(timeout_at(deadline, self.send(&self.dead_letters, message)).await),
                false => None,
            };
            confirms.push(async move {
                let own = answer(deadline, sent).await;
                let Some(copy) = copy else { return own };
                // It is published where both are.
                match answer(deadline, copy).await {
                    Answer::Confirmed => own,
                    other if own == Answer::Confirmed || own == Answer::Unroutable => other,
                    _ => own,
                }
            });
        }
        let answers = join_all(confirms).await;
        if Instant::now() >= deadline {
            self.is_late.store(true, Ordering::Relaxed);
        }
        answers
    }
}

type Sent = Result<lapin::Result<lapin::PublisherConfirm>, tokio::time::error::Elapsed>;

async fn answer(deadline: Instant, sent: Sent) -> Answer {
    let confirm = match sent {
        Ok(Ok(confirm)) => confirm,
        Ok(Err(_)) => return Answer::Lost,
        Err(_) => return Answer::Unconfirmed,
    };
    match timeout_at(deadline, confirm).await {
        Ok(Ok(Confirmation::Ack(None))) => Answer::Confirmed,
        // 312: it came back, and then was confirmed.
        Ok(Ok(Confirmation::Ack(Some(_)))) => Answer::Unroutable,
        Ok(Ok(Confirmation::Nack(_) | Confirmation::NotRequested)) | Err(_) => Answer::Unconfirmed,
        Ok(Err(_)) => Answer::Lost,
    }
}

/// Both exchanges, and the queue of dead letters. Who may not declare them can still use those that
/// an administrator has.
async fn declare(connection: &Connection, settings: &Settings) -> Result<(), Trouble> {
    let Settings { exchange, dead_letters, .. } = settings;
    for name in [exchange, dead_letters] {
        let exchange = async |channel, passive| declare_exchange(&channel, name, passive).await;
        connection.declare(&format!("declare the exchange {name}"), exchange).await?;
    }
    let queue = async |channel, passive| {
        declare_quorum(&channel, dead_letters, &[], passive).await?;
        if passive { Ok(()) } else { bind(&channel, dead_letters, dead_letters, "#").await }
    };
    connection.declare(&format!("declare the queue {dead_letters}"), queue).await
}

/// A durable topic exchange: as we publish to, and as the other program declares its own.
pub(super) async fn declare_exchange(channel: &Channel, name: &str, passive: bool) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default()).await
}

/// A durable quorum queue.
pub(super) async fn declare_quorum(
    channel: &Channel,
    name: &str,
    arguments: &[(&str, AMQPValue)],
    passive: bool,
) -> lapin::Result<()> {
    let mut all = FieldTable::default();
    all.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    for (argument, value) in arguments {
        all.insert(ShortString::from(*argument), value.clone());
    }
    let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, all).await.map(drop)
}

pub(super) async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    let options = QueueBindOptions::default();
    channel.queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default()).await
}

/// What comes into the queue.
pub(super) async fn consume(channel: &Channel, queue: &str) -> lapin::Result<Consumer> {
    channel.basic_qos(AHEAD, BasicQosOptions::default()).await?;
    channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_password() {
        let address = Address::parse(SETTING, "amqps://ada:hunter2@rabbit.example:5671/app").unwrap();

        assert_eq!(format!("{address} {address:?}").matches("hunter2").count(), 0);
        assert_eq!(address.to_string(), r#"amqps://rabbit.example:5671 (vhost "app")"#);
    }

    #[test]
    fn what_is_wrong_is_said_in_plain_words() {
        let refused = "protocol error: AMQP soft error: ACCESS-REFUSED: ACCESS_REFUSED - Login was refused.";
        for (text, words) in [
            ("IO error: Connection refused (os error 111)", "Connection refused (os error 111)"),
            (refused, "ACCESS_REFUSED - Login was refused"),
            ("the broker is gone", "the broker is gone"),
        ] {
            assert_eq!(plain(text), words);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["http://rabbit", "amqp//rabbit", "rabbit:5672"] {
            assert!(Address::parse(SETTING, text).is_err(), "{text}");
        }
    }
}
