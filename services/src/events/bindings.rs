//! The bindings of a feed's queue to exchanges that come into being one by one: those that are
//! there, and soon each new one. A binding belongs to the queue. It outlives who made it, and any
//! number of followers may make it again. Nothing here unbinds or deletes.

use std::{collections::HashSet, fmt, time::Duration};

use futures::future::{pending, try_join_all};
use lapin::Channel;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    Trouble,
    feed::{Asked, Feed, Source},
    rabbitmq::{Connection, bind, declare_exchange},
};
use crate::{
    ledger::{self, postgres::Postgres},
    telemetry::Said,
};

/// How often it looks for what has begun.
const LOOKS: Duration = Duration::from_millis(500);
/// How often it looks at all of them, for what it missed and for what was refused.
const LOOKS_AT_ALL: Duration = Duration::from_secs(600);
/// How many one statement names.
const PAGE: usize = 200;
/// How many are bound at once.
const TOGETHER: usize = 50;
/// What has begun is in the database at most so long after its moment: no transaction of ours takes
/// longer.
const COMMITTED_WITHIN: Duration = Duration::from_secs(20);
/// How many refusals of one look at all are said.
const SAID: usize = 10;
/// The longest name of an exchange, in bytes.
const LONGEST: usize = 255;

/// The names of exchanges, one for each of something. A moment is the uuid v7 of what began then.
pub trait Exchanges: Send + Sync {
    /// Those after this name, in the order of their names.
    fn all<'a>(&'a self, ledger: &'a Postgres, after: &'a str, most: usize) -> Asked<'a, Vec<String>>;

    /// The last moment at which anything began.
    fn newest<'a>(&'a self, ledger: &'a Postgres) -> Asked<'a, Uuid>;

    /// What began after that moment, in the order of its moments. One that was begun already may be
    /// in it.
    fn since<'a>(&'a self, ledger: &'a Postgres, after: Uuid, most: usize) -> Asked<'a, Vec<(Uuid, String)>>;
}

/// Binds the feed's queue to each exchange, for as long as the link lasts: why it is lost. Has
/// nothing to do where the feed has one exchange for all.
pub(super) async fn keep_bound(connection: &Connection, feed: &Feed, ledger: &Postgres) -> Trouble {
    let Source::Each(exchanges) = &feed.source else { return pending().await };
    let mut binder = Binder {
        connection,
        feed,
        exchanges: exchanges.as_ref(),
        ledger,
        settled: HashSet::new(),
        refused: Vec::new(),
        last: None,
        at: Some(String::new()),
        looked_at_all: None,
    };
    let mut said = Said::default();
    loop {
        let rest = match binder.round().await {
            Ok(()) => {
                said = Said::default();
                if binder.at.is_some() { Duration::ZERO } else { LOOKS }
            }
            Err(Stopped::Link(trouble)) => return trouble,
            Err(Stopped::Ledger(error)) => {
                if said.is_news(&error) {
                    tracing::warn!(%error, "cannot read which exchanges there are; trying again");
                }
                LOOKS
            }
        };
        sleep(rest).await;
    }
}

/// Why a round came to no end.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Link(#[from] Trouble),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

struct Binder<'a> {
    connection: &'a Connection,
    feed: &'a Feed,
    exchanges: &'a dyn Exchanges,
    ledger: &'a Postgres,
    /// Bound over this link, or refused.
    settled: HashSet<String>,
    /// Tried again at the next look at all.
    refused: Vec<String>,
    /// The last moment that is known, and since when.
    last: Option<(Uuid, Instant)>,
    /// How far the look at all of them is. None: it is over.
    at: Option<String>,
    looked_at_all: Option<Instant>,
}

impl Binder<'_> {
    /// What has begun, and the next page of all.
    async fn round(&mut self) -> Result<(), Stopped> {
        let (last, since) = match self.last {
            Some(last) => last,
            // What begins from here on is found by its moment, all else by the look at all.
            None => (self.exchanges.newest(self.ledger).await?, Instant::now()),
        };
        self.last = Some((last, since));
        let late = since.elapsed() <= COMMITTED_WITHIN;
        let mut after = if late { before(last, COMMITTED_WITHIN) } else { last };
        loop {
            let begun = self.exchanges.since(self.ledger, after, PAGE).await?;
            let Some((newest, _)) = begun.last() else { break };
            after = *newest;
            let is_all = begun.len() < PAGE;
            self.bind(begun.into_iter().map(|(_, name)| name)).await?;
            if after > last {
                self.last = Some((after, Instant::now()));
            }
            if is_all {
                break;
            }
        }
        self.next_page().await
    }

    async fn next_page(&mut self) -> Result<(), Stopped> {
        if self.at.is_none() && self.looked_at_all.is_some_and(|at| at.elapsed() >= LOOKS_AT_ALL) {
            self.at = Some(String::new());
            for name in self.refused.drain(..) {
                self.settled.remove(&name);
            }
        }
        let Some(after) = &self.at else { return Ok(()) };
        let names = self.exchanges.all(self.ledger, after, PAGE).await?;
        let next = (names.len() == PAGE).then(|| names.last().cloned()).flatten();
        self.bind(names.into_iter()).await?;
        self.at = next;
        if self.at.is_none() && self.looked_at_all.replace(Instant::now()).is_none() {
            let exchanges = self.settled.len() - self.refused.len();
            tracing::info!(exchanges, queue = %self.feed.queue, "the queue is bound to every exchange that is there");
        }
        Ok(())
    }

    async fn bind(&mut self, names: impl Iterator<Item = String>) -> Result<(), Trouble> {
        let new = names.filter(|name| !self.settled.contains(name));
        let is_possible = |name: &String| name.len() <= LONGEST && !name.starts_with("amq.");
        let (names, impossible): (Vec<String>, Vec<String>) = new.partition(is_possible);
        for name in impossible {
            let why = "RabbitMQ has no exchange of this name: it is longer than 255 bytes, or begins with `amq.`";
            self.refuse(name, why);
        }
        for together in names.chunks(TOGETHER) {
            if self.bind_at_once(together).await.is_err() {
                self.bind_one_by_one(together).await?;
            }
            self.settled.extend(together.iter().cloned());
        }
        Ok(())
    }

    async fn bind_at_once(&self, names: &[String]) -> Result<(), Trouble> {
        let bound = async |channel: Channel| {
            try_join_all(names.iter().map(|name| self.bind_to(&channel, name, false))).await.map(drop)
        };
        self.connection.ask("bind the queue", bound).await
    }

    /// A refusal ends its channel: one by one, it is the refusal of one exchange.
    async fn bind_one_by_one(&mut self, names: &[String]) -> Result<(), Trouble> {
        for name in names {
            let what = format!("bind the queue {} to the exchange {name}", self.feed.queue);
            let bound = async |channel, passive| self.bind_to(&channel, name, passive).await;
            match self.connection.declare(&what, bound).await {
                Err(trouble) if trouble.is_refusal() => self.refuse(name.clone(), trouble),
                bound => bound?,
            }
        }
        Ok(())
    }

    fn refuse(&mut self, name: String, why: impl fmt::Display) {
        if !self.settled.insert(name.clone()) {
            return;
        }
        if self.refused.len() < SAID {
            tracing::warn!(exchange = name, "nothing is heard from an exchange: {why}");
        }
        self.refused.push(name);
    }

    async fn bind_to(&self, channel: &Channel, name: &str, passive: bool) -> lapin::Result<()> {
        declare_exchange(channel, name, passive).await?;
        bind_queue(channel, self.feed, name).await
    }
}

/// Binds the feed's queue to an exchange, by each of the feed's keys.
pub(super) async fn bind_queue(channel: &Channel, feed: &Feed, exchange: &str) -> lapin::Result<()> {
    try_join_all(feed.keys.iter().map(|key| bind(channel, &feed.queue, exchange, key))).await.map(drop)
}

/// The moment that was so long before that of a uuid v7: its first 48 bits are milliseconds.
fn before(moment: Uuid, span: Duration) -> Uuid {
    let span = u128::from(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    Uuid::from_u128((moment.as_u128() >> 80).saturating_sub(span) << 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_before_another_is_smaller_by_its_milliseconds() {
        let at = |millis: u128| Uuid::from_u128((millis << 80) | 0x7abc_8000_0000_0000_0001);

        let moment = before(at(1_790_000_020_000), Duration::from_secs(20));

        assert!(at(1_789_999_999_999) < moment && moment < at(1_790_000_000_000));
        assert_eq!(before(Uuid::nil(), Duration::from_secs(20)), Uuid::nil());
    }
}
