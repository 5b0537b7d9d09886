//! Another program's events, as it publishes them to a RabbitMQ. A durable queue of ours is bound
//! to its exchange, or to each of many (`bindings`); a reader takes in what has gathered there. A
//! message is acknowledged once its reader has committed it, and goes to a queue of its own where
//! nobody can read it.

use std::{fmt, sync::Arc, time::Duration};

use futures::{StreamExt, future::BoxFuture};
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicNackOptions},
    types::AMQPValue,
};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

pub use super::bindings::Exchanges;
use super::{
    Address, Deps, Trouble,
    bindings::{bind_queue, keep_bound},
    keep::{FIRST_PAUSE, Keeper},
    rabbitmq::{AHEAD, Connection, consume, declare_exchange, declare_quorum},
};
use crate::{
    ledger::{self, postgres::Postgres},
    telemetry::{Said, metrics::names},
};

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

/// What was asked of the ledger, and is still to come.
pub type Asked<'a, T> = BoxFuture<'a, ledger::Result<T>>;

/// Understands the messages of a feed. They may come twice and in any order.
pub trait Reader: Send + Sync {
    /// Commits what these say: one verdict per message, in order. An error is the ledger's: none of
    /// them is committed for sure, and all are read again.
    fn read<'a>(&'a self, ledger: &'a Postgres, messages: &'a [&'a [u8]]) -> Asked<'a, Vec<Verdict>>;
}

/// Runs until `shutdown`, then ends after the batch it is in.
pub async fn follow(feed: Feed, deps: Deps, shutdown: CancellationToken) -> anyhow::Result<()> {
    deps.vitals.metrics.expect_feed();
    let keeper = Keeper {
        pulse: deps.vitals.health.pulse("events: follow"),
        deps,
        shutdown,
        address: &feed.address,
        meanwhile: "the other program's events wait at its broker",
        connected: |metrics, is_there| metrics.set(&names::FEED_CONNECTED, [], is_there),
        ready: &|| tracing::info!(exchange = %feed.source, queue = %feed.queue, "ready"),
    };
    let work = async |(connection, mut consumer)| {
        let lost = tokio::select! {
            lost = keeper.take_in(&feed, &connection, &mut consumer) => lost,
            trouble = keep_bound(&connection, &feed, &keeper.deps.ledger) => Some(trouble),
        };
        connection.close().await;
        lost
    };
    keeper.keep(async || listen(&feed).await, work).await;
    Ok(())
}

async fn listen(feed: &Feed) -> Result<(Connection, Consumer), Trouble> {
    let connection = Connection::open(&feed.address, "sluice follow").await?;
    declare(&connection, feed).await?;
    let listening = async |channel: Channel| consume(&channel, &feed.queue).await;
    let consumer = connection.ask(&format!("listen at the queue {}", feed.queue), listening).await?;
    Ok((connection, consumer))
}

impl Keeper<'_> {
    /// Until the link is lost: why. None: shutdown came.
    async fn take_in(&self, feed: &Feed, connection: &Connection, consumer: &mut Consumer) -> Option<Trouble> {
        loop {
            self.pulse.beat();
            let batch = match self.pulse.waiting(self.shutdown.run_until_cancelled(gather(consumer))).await? {
                Ok(batch) => batch,
                Err(trouble) => return Some(trouble),
            };
            let messages: Vec<&[u8]> = batch.iter().map(|delivery| delivery.data.as_slice()).collect();
            let verdicts = self.read(feed, &messages).await?;
            // Whatever is not taken may go there: at once, or because it was put off too often.
            if verdicts.iter().any(|verdict| *verdict != Verdict::Taken)
                && let Err(trouble) = self.pulse.waiting(keep_unread(connection, feed)).await
            {
                return Some(trouble);
            }
            if let Err(error) = answer(&batch, &verdicts).await {
                return Some(Trouble::lost(&error));
            }
            let count = |of| verdicts.iter().filter(|verdict| **verdict == of).count();
            let put_off = count(Verdict::PutOff);
            self.deps.vitals.metrics.feed_messages(count(Verdict::Taken), put_off, count(Verdict::Unreadable));
            if put_off > 0 {
                self.pause(PUT_OFF).await;
            }
        }
    }

    /// Reads until the ledger answers. None: shutdown came, and the messages come again.
    async fn read(&self, feed: &Feed, messages: &[&[u8]]) -> Option<Vec<Verdict>> {
        let mut said = Said::default();
        loop {
            match self.pulse.waiting(feed.reader.read(&self.deps.ledger, messages)).await {
                Ok(verdicts) => return Some(verdicts),
                Err(error) if said.is_news(&error) => {
                    tracing::warn!(%error, "cannot write what the other program's events say; trying again");
                }
                Err(_) => {}
            }
            self.pause(FIRST_PAUSE).await?;
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
    let find = async |channel: Channel| declare_quorum(&channel, &unread, &[], true).await;
    match connection.ask(&format!("find the queue {unread}"), find).await {
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
    let queue = async |channel, passive| declare_quorum(&channel, &unread, &kept, passive).await;
    connection.declare(&format!("declare the queue {unread}"), queue).await
}

/// The one exchange as the other program declares it, our queue, and the queue of what nobody can
/// read.
async fn declare(connection: &Connection, feed: &Feed) -> Result<(), Trouble> {
    let Feed { source, queue, .. } = feed;
    if let Source::Exchange(name) = source {
        let exchange = async |channel, passive| declare_exchange(&channel, name, passive).await;
        connection.declare(&format!("declare the exchange {name}"), exchange).await?;
    }
    declare_unread(connection, feed).await?;
    let read = [
        ("x-max-length", AMQPValue::LongLongInt(WAITING)),
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERIES)),
        ("x-dead-letter-exchange", AMQPValue::LongString("".into())),
        ("x-dead-letter-routing-key", AMQPValue::LongString(feed.unread().into())),
    ];
    let declared = async |channel, passive| {
        declare_quorum(&channel, queue, &read, passive).await?;
        match source {
            Source::Exchange(exchange) if !passive => bind_queue(&channel, feed, exchange).await,
            _ => Ok(()),
        }
    };
    connection.declare(&format!("declare the queue {queue}"), declared).await
}
