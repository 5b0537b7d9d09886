//! Wakes through pub/sub, so that nobody has to poll fast. A wake may be lost: whoever waits for
//! one has a slow tick behind it. One connection per process listens for all bells and heals
//! itself; ringing never waits and never fails.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use futures::StreamExt;
use parking_lot::Mutex;
use redis::RedisError;
use tokio::{sync::watch, time};
use tokio_util::task::AbortOnDropHandle;

use super::{Prefix, Queue, config::CONNECT_TIMEOUT, keys, link::Link};

/// How often the listening connection is asked whether it still lives.
const PING_EVERY: Duration = Duration::from_secs(5);
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// Rings when somebody pushed a wake. Wakes that come while nobody waits are kept as one.
#[derive(Clone)]
pub struct Bell {
    pub(super) rings: watch::Receiver<()>,
}

impl Bell {
    /// Waits for the next wake. Cancelling it loses none.
    pub async fn rung(&mut self) {
        if self.rings.changed().await.is_err() {
            // The queue is gone, and with it the loop that waits here: never ring again.
            std::future::pending::<()>().await;
        }
    }
}

/// The bells of this process and the two tasks behind them.
pub(super) struct Wakes {
    bells: Arc<Bells>,
    relay: watch::Sender<()>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Wakes {
    pub(super) fn start(link: Arc<Link>, prefix: &Prefix) -> Self {
        let bells = Arc::new(Bells::default());
        let relay = watch::Sender::new(());
        let listening = tokio::spawn(listen(link.clone(), bells.clone()));
        let ringing = tokio::spawn(ring(link, keys::wake_relay(prefix), relay.subscribe()));
        Self { bells, relay, _tasks: [listening, ringing].map(AbortOnDropHandle::new) }
    }
}

impl Queue {
    /// Wakes a relay, after a settle for instance. Never waits and never fails; many wakes at once
    /// become one.
    pub fn wake_relay(&self) {
        self.shared.wakes.relay.send_replace(());
    }

    /// The bell that [`Queue::wake_relay`] rings, in whatever process it is called. It also rings
    /// whenever the connection was lost and found again, because wakes may have been missed.
    pub fn relay_bell(&self) -> Bell {
        self.bell(keys::wake_relay(&self.shared.config.prefix))
    }

    /// The bell that rings when hints are pushed to an empty queue, or handed back.
    pub(super) fn bell(&self, channel: String) -> Bell {
        self.shared.wakes.bells.get(channel)
    }
}

#[derive(Default)]
struct Bells {
    by_channel: Mutex<BTreeMap<String, watch::Sender<()>>>,
    /// Raised when a channel is added, so that the listener subscribes to it.
    added: watch::Sender<()>,
}

impl Bells {
    fn get(&self, channel: String) -> Bell {
        let rings = self.by_channel.lock().entry(channel).or_default().subscribe();
        self.added.send_replace(());
        Bell { rings }
    }

    fn channels(&self) -> Vec<String> {
        self.by_channel.lock().keys().cloned().collect()
    }

    fn ring(&self, channel: &str) {
        if let Some(bell) = self.by_channel.lock().get(channel) {
            bell.send_replace(());
        }
    }

    fn ring_all(&self) {
        for bell in self.by_channel.lock().values() {
            bell.send_replace(());
        }
    }
}

async fn ring(link: Arc<Link>, channel: String, mut wakes: watch::Receiver<()>) {
    while wakes.changed().await.is_ok() {
        let mut publish = redis::cmd("PUBLISH");
        let publish = publish.arg(&channel).arg(1);
        // A wake that cannot be sent is only a delay, and stale by the time Redis is back.
        let _ = time::timeout(CONNECT_TIMEOUT, publish.query_async::<()>(&mut link.connection())).await;
    }
}

async fn listen(link: Arc<Link>, bells: Arc<Bells>) {
    let (mut added, mut renewed) = (bells.added.subscribe(), link.watch());
    // A process that waits for no wake needs no connection for them.
    while bells.channels().is_empty() {
        if added.changed().await.is_err() {
            return;
        }
    }
    loop {
        if let Err(error) = session(&link, &bells, &mut added, &mut renewed).await {
            tracing::debug!(%error, "lost the connection that listens for wakes");
        }
        time::sleep(RETRY_EVERY).await;
    }
}

/// One life of the listening connection. It ends with the shared one: what led that to the wrong
/// server leads this there too.
async fn session(
    link: &Link,
    bells: &Bells,
    added: &mut watch::Receiver<()>,
    renewed: &mut watch::Receiver<u64>,
) -> Result<(), RedisError> {
    renewed.mark_unchanged();
    let (mut sink, mut stream) = within(link.client.get_async_pubsub()).await?.split();
    added.mark_unchanged();
    within(sink.subscribe(bells.channels())).await?;
    bells.ring_all();
    let mut ping = time::interval(PING_EVERY);
    loop {
        tokio::select! {
            message = stream.next() => match message {
                Some(message) => bells.ring(message.get_channel_name()),
                None => return Ok(()),
            },
            _ = renewed.changed() => return Ok(()),
            _ = added.changed() => within(sink.subscribe(bells.channels())).await?,
            _ = ping.tick() => within(sink.ping::<redis::Value>()).await.map(drop)?,
        }
    }
}

async fn within<T>(call: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    time::timeout(CONNECT_TIMEOUT, call).await.map_err(io::Error::from)?
}
