//! Another program's events, as it publishes them to a RabbitMQ. A durable queue of ours is bound
//! to its exchange, or to each of many (`bindings`); a reader takes in what has gathered there. A
//! message is acknowledged once its reader has committed it, and goes to a queue of its own where
//! nobody can read it.

use std::{fmt, sync::Arc, time::Duration};

use futures::{StreamExt, future::BoxFuture};
use lapin::{
    Connection, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

pub use super::bindings::Exchanges;
use super::{
    Address, Deps, Trouble,
    bindings::{bind_queue, keep_bound},
    keep::{FIRST_PAUSE, Keeper},
    rabbitmq::{answered, close, connect, declare_exchange, declare_quorum, or_find},
};
use crate::{
    ledger::{self, postgres::Postgres},
    telemetry::{
        Said,
        health::Pulse,
        metrics::{Metrics, names},
    },
};

/// How many messages the broker sends ahead: the most of one batch.
const AHEAD: u16 = 500;
/// How long a batch gathers: a storm of messages becomes so many batches and no more.
const GATHERS: Duration = Duration::from_millis(200);
/// How often a message is put off before it counts as one that cannot be read.
const DELIVERIES: i64 = 20;
/// The pause after some were put off: what they wait for is soon over, or is not.
const PUT_OFF: Duration = Duration::from_secs(1);
/// How many messages wait while nobody follows, the last ones: of each thing that they tell of
/// the last message holds.
const WAITING: i64 = 50_000;
/// How many messages that nobody could read are kept, the last ones.
const UNREAD: i64 = 10_000;

/// What is listened to, and by whom.
#[derive(Clone)]
pub struct Feed {
    pub address: Address,
    pub source: Source,
    /// Our queue there.
    pub queue: String,
    pub keys: &'static [&'static str],
    pub reader: Arc<dyn Reader>,
}

impl Feed {
    /// The queue of what nobody can read.
    fn unread(&self) -> String {
        format!("{}.unread", self.queue)
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}, by {}", self.source, self.address, self.queue)
    }
}

/// Where the other program publishes.
#[derive(Clone)]
pub enum Source {
    /// To one topic exchange.
    Exchange(String),
    /// To one for each of these.
    Each(Arc<dyn Exchanges>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exchange(name) => name,
            Self::Each(_) => "an exchange for each",
        })
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is committed, or says nothing to us.
    Taken,
    /// It could not be written now: it comes again.
    PutOff,
    Unreadable,
}

/// Understands the messages of a feed. They may come twice and in any order.
pub trait Reader: Send + Sync {
    /// Commits what these say: one verdict per message, in order. An error is the ledger's: none of
    /// them is committed for sure, and all are read again.
    fn read<'a>(
        &'a self,
        ledger: &'a Postgres,
        messages: &'a [&'a [u8]],
    ) -> BoxFuture<'a, ledger::Result<Vec<Verdict>>>;
}

/// Runs until `shutdown`, then ends after the batch it is in.
pub async fn follow(feed: Feed, deps: Deps, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Deps { ledger, vitals } = deps;
    let pulse = vitals.health.pulse("events: follow");
    vitals.metrics.expect_feed();
    let connected = |is_there| vitals.metrics.set(&names::FEED_CONNECTED, [], is_there);
    let keeper = Keeper {
        address: &feed.address,
        meanwhile: "the other program's events wait at its broker",
        connected: &connected,
        ready: &|| tracing::info!(exchange = %feed.source, queue = %feed.queue, "ready"),
        pulse: &pulse,
        shutdown: &shutdown,
    };
    let work = async |mut link: Link| {
        let Link { connection, consumer } = &mut link;
        let taken = take_in(consumer, connection, &feed, &ledger, &vitals.metrics, &pulse, &shutdown);
        let lost = tokio::select! {
            lost = taken => lost,
            trouble = keep_bound(connection, &feed, &ledger) => Some(trouble),
        };
        close(connection).await;
        lost
    };
    keeper.keep(async || Link::open(&feed).await, work).await;
    Ok(())
}

struct Link {
    connection: Connection,
    consumer: Consumer,
}

impl Link {
    async fn open(feed: &Feed) -> Result<Self, Trouble> {
        let connection = connect(&feed.address, "sluice follow").await?;
        declare(&connection, feed).await?;
        let listening = async {
            let channel = connection.create_channel().await?;
            channel.basic_qos(AHEAD, BasicQosOptions::default()).await?;
            let (queue, options) = (feed.queue.as_str().into(), BasicConsumeOptions::default());
            channel.basic_consume(queue, "".into(), options, FieldTable::default()).await
        };
        let consumer = answered(&format!("listen at the queue {}", feed.queue), &feed.address, listening).await?;
        Ok(Self { connection, consumer })
    }
}

/// Until the link is lost: why. None: shutdown came.
async fn take_in(
    consumer: &mut Consumer,
    connection: &Connection,
    feed: &Feed,
    ledger: &Postgres,
    metrics: &Metrics,
    pulse: &Pulse,
    shutdown: &CancellationToken,
) -> Option<Trouble> {
    loop {
        pulse.beat();
        let batch = match pulse.waiting(shutdown.run_until_cancelled(gather(consumer))).await? {
            Ok(batch) => batch,
            Err(trouble) => return Some(trouble),
        };
        let messages: Vec<&[u8]> = batch.iter().map(|delivery| delivery.data.as_slice()).collect();
        let verdicts = read(feed, ledger, &messages, pulse, shutdown).await?;
        // Whatever is not taken may go there: at once, or because it was put off too often.
        if verdicts.iter().any(|verdict| *verdict != Verdict::Taken)
            && let Err(trouble) = pulse.waiting(keep_unread(connection, feed)).await
        {
            return Some(trouble);
        }
        if let Err(error) = answer(&batch, &verdicts).await {
            return Some(Trouble::lost(&error));
        }
        let count = |of| verdicts.iter().filter(|verdict| **verdict == of).count();
        let put_off = count(Verdict::PutOff);
        metrics.feed_messages(count(Verdict::Taken), put_off, count(Verdict::Unreadable));
        if put_off > 0 {
            pulse.waiting(shutdown.run_until_cancelled(sleep(PUT_OFF))).await;
        }
    }
}

/// What has come, once something has.
async fn gather(consumer: &mut Consumer) -> Result<Vec<Delivery>, Trouble> {
    let mut batch = vec![next(consumer).await?];
    let until = Instant::now() + GATHERS;
    while batch.len() < usize::from(AHEAD) {
        let Ok(next) = timeout_at(until, next(consumer)).await else { break };
        batch.push(next?);
    }
    Ok(batch)
}

async fn next(consumer: &mut Consumer) -> Result<Delivery, Trouble> {
    match consumer.next().await {
        Some(Ok(delivery)) => Ok(delivery),
        Some(Err(error)) => Err(Trouble::lost(&error)),
        None => Err(Trouble("the broker has ended the subscription: does the queue still exist?".to_owned())),
    }
}

/// Reads until the ledger answers. None: shutdown came, and the messages come again.
async fn read(
    feed: &Feed,
    ledger: &Postgres,
    messages: &[&[u8]],
    pulse: &Pulse,
    shutdown: &CancellationToken,
) -> Option<Vec<Verdict>> {
    let mut said = Said::default();
    loop {
        match pulse.waiting(feed.reader.read(ledger, messages)).await {
            Ok(verdicts) => return Some(verdicts),
            Err(error) => {
                if said.is_news(&error) {
                    tracing::warn!(%error, "cannot write what the other program's events say; trying again");
                }
            }
        }
        pulse.waiting(shutdown.run_until_cancelled(sleep(FIRST_PAUSE))).await?;
    }
}

async fn answer(batch: &[Delivery], verdicts: &[Verdict]) -> lapin::Result<()> {
    if let (Some(last), true) = (batch.last(), verdicts.iter().all(|verdict| *verdict == Verdict::Taken)) {
        last.ack(BasicAckOptions { multiple: true }).await?;
        return Ok(());
    }
    for (delivery, verdict) in batch.iter().zip(verdicts) {
        match verdict {
            Verdict::Taken => delivery.ack(BasicAckOptions::default()).await?,
            Verdict::PutOff => delivery.nack(BasicNackOptions { multiple: false, requeue: true }).await?,
            Verdict::Unreadable => delivery.nack(BasicNackOptions { multiple: false, requeue: false }).await?,
        };
    }
    Ok(())
}

/// Declares the queue of what nobody can read anew, where somebody has deleted it: the broker drops
/// what would go to a queue that is gone.
async fn keep_unread(connection: &Connection, feed: &Feed) -> Result<(), Trouble> {
    let unread = feed.unread();
    let find = async { declare_quorum(&connection.create_channel().await?, &unread, &[], true).await };
    match answered(&format!("find the queue {unread}"), &feed.address, find).await {
        Err(trouble) if trouble.is_refusal() => {
            tracing::warn!("the queue {unread} is gone, and what it held: it is declared anew");
            declare_unread(connection, feed).await
        }
        found => found,
    }
}

async fn declare_unread(connection: &Connection, feed: &Feed) -> Result<(), Trouble> {
    let unread = feed.unread();
    let kept = [("x-max-length", AMQPValue::LongLongInt(UNREAD))];
    let declared = async |passive| declare_quorum(&connection.create_channel().await?, &unread, &kept, passive).await;
    or_find(&format!("declare the queue {unread}"), &feed.address, declared).await
}

/// The one exchange as the other program declares it, our queue, and the queue of what nobody can
/// read.
async fn declare(connection: &Connection, feed: &Feed) -> Result<(), Trouble> {
    let Feed { address, source, queue, .. } = feed;
    if let Source::Exchange(exchange) = source {
        let declared = async |passive| declare_exchange(&connection.create_channel().await?, exchange, passive).await;
        or_find(&format!("declare the exchange {exchange}"), address, declared).await?;
    }

    declare_unread(connection, feed).await?;
    let read = [
        ("x-max-length", AMQPValue::LongLongInt(WAITING)),
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERIES)),
        ("x-dead-letter-exchange", AMQPValue::LongString("".into())),
        ("x-dead-letter-routing-key", AMQPValue::LongString(feed.unread().into())),
    ];
    let declared = async |passive| {
        let channel = connection.create_channel().await?;
        declare_quorum(&channel, queue, &read, passive).await?;
        match source {
            Source::Exchange(exchange) if !passive => bind_queue(&channel, feed, exchange).await,
            _ => Ok(()),
        }
    };
    or_find(&format!("declare the queue {queue}"), address, declared).await
}
