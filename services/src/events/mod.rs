//! The publisher of events: brings what the ledger announces to a broker, at least once, those of
//! each run in their order.
//!
//! `publish` does one round, and is what the tests call; `message` is an event as others read it;
//! `rabbitmq` connects, declares and publishes, and says why it cannot; `keep` connects anew;
//! `tail` listens, for a person. Any number of publishers run side by side: they share the events
//! by claims that expire. A broker that is away delays announcements and nothing else.
//!
//! `feed` is the other way round: another program's events, as they come in; `bindings` binds its
//! queue where that program has many exchanges. No other module knows RabbitMQ.

mod bindings;
pub mod feed;
mod keep;
mod message;
mod publish;
mod rabbitmq;
mod tail;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::{
    keep::{FIRST_PAUSE, Keeper},
    rabbitmq::Link,
};
pub use self::{
    message::Message,
    publish::{Answer, Broker, CLAIM, Round, publish_once},
    rabbitmq::{Address, Trouble},
    tail::{Announcement, Tail},
};
use crate::{
    ledger::postgres::Postgres,
    name,
    telemetry::{Said, Vitals, metrics::names},
};

/// Where events go.
#[derive(Debug, Clone)]
pub struct Settings {
    pub address: Address,
    /// The topic exchange of all events.
    pub exchange: String,
    /// The exchange of dead runs, and the queue that is bound to it.
    pub dead_letters: String,
}

/// What a publisher, or who follows a feed, works with.
#[derive(Clone)]
pub struct Deps {
    pub ledger: Postgres,
    /// Where it leaves what it counts, and its loop's pulse.
    pub vitals: Vitals,
}

/// The most events of one round: what is in memory at once.
pub const BATCH: usize = 500;
/// How often it looks where there was nothing to publish: how long an event waits at most.
const POLL: Duration = Duration::from_millis(200);

/// Runs until `shutdown`, then ends after the round it is in. It connects again for as long as it
/// takes, and says each trouble once.
pub async fn run(settings: Settings, deps: Deps, shutdown: CancellationToken) -> anyhow::Result<()> {
    deps.vitals.metrics.expect_events();
    let publisher = name::unique("events");
    let keeper = Keeper {
        pulse: deps.vitals.health.pulse("events: publish"),
        deps,
        shutdown,
        address: &settings.address,
        meanwhile: "events wait in the database",
        connected: |metrics, is_there| metrics.set(&names::BROKER_CONNECTED, [], is_there),
        ready: &|| tracing::info!(%publisher, exchange = %settings.exchange, "ready"),
    };
    let work = async |link: Link| {
        let lost = keeper.publish_over(&link, &publisher).await;
        link.connection.close().await;
        lost
    };
    keeper.keep(async || Link::open(&settings).await, work).await;
    Ok(())
}

impl Keeper<'_> {
    /// Until the link is lost: why. None: shutdown came.
    async fn publish_over(&self, link: &Link, publisher: &str) -> Option<Trouble> {
        let Self { deps: Deps { ledger, vitals }, pulse, shutdown, .. } = self;
        // One event tries the link: where the broker takes none, no others are sent in vain.
        let (mut most, mut blocked, mut said) = (1, false, Said::default());
        while !shutdown.is_cancelled() {
            pulse.beat();
            if blocked && !link.is_blocked() {
                link.unblocked();
                blocked = false;
            }
            if let Some(trouble) = link.trouble() {
                return Some(trouble);
            }
            if link.is_blocked() {
                if !blocked {
                    tracing::warn!("events wait in the database: the broker takes none (a memory or disk alarm)");
                }
                blocked = true;
                self.pause(FIRST_PAUSE).await;
                continue;
            }
            let rest = match pulse.waiting(publish_once(ledger, link, publisher, most)).await {
                Ok(round) => {
                    said = Said::default();
                    let Round { routed, unroutable, unconfirmed, claimed } = round;
                    vitals.metrics.events_published(routed, unroutable, unconfirmed);
                    // A refusal, too, shows that the broker hears what it is sent.
                    if link.trouble().is_none() {
                        most = BATCH;
                    }
                    match (claimed, unconfirmed) {
                        (0, _) => POLL,
                        // The next events of the runs that were published may wait for nothing
                        // else.
                        (_, 0) => Duration::ZERO,
                        _ => link.trouble().map_or(FIRST_PAUSE, |_| Duration::ZERO),
                    }
                }
                Err(error) => {
                    if said.is_news(&error) {
                        tracing::warn!(%error, "cannot take events from the ledger; trying again");
                    }
                    FIRST_PAUSE
                }
            };
            self.pause(rest).await;
        }
        None
    }
}
