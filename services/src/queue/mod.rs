//! The only place that knows apalis, apalis-redis and Redis.
//!
//! It owns what travels through Redis: a [`Hint`] that a step is due, and wakes. It must never hold
//! the only copy of anything: what is due stays due in Postgres until a worker has claimed it, a
//! hint may be pushed twice, and a claim is won once. So wiping Redis at any moment costs a delay,
//! no more.
//!
//! [`send`] pushes hints to a [`HintSink`], [`Consumer`] hands them to a handler. Two transports
//! carry them: `lists` is our own, `apalis_redis` is that of the crate. `wakes` rings bells, `link`
//! is the connection, [`check`] refuses a Redis that would drop hints.

mod apalis_redis;
pub mod check;
mod config;
mod consume;
mod delivery;
mod hint;
mod keys;
mod link;
mod lists;
mod send;
mod sink;
mod wakes;

pub use check::{Finding, Severity};
pub use config::{BadConfig, BadPrefix, Config, Prefix, Transport};
pub use consume::{Consumer, Status};
pub use delivery::Delivery;
pub use hint::Hint;
pub use send::send;
pub use sink::{HintSink, PushReport, Pushed};
pub use wakes::Bell;

use std::{pin::pin, sync::Arc, time::Duration};

use redis::{RedisError, aio::ConnectionManager};
use tokio::time::{Instant, timeout};
use workflows::ids::StepName;

use config::COMMAND_TIMEOUT;
use keys::Keys;
use link::Link;
use wakes::Wakes;

/// What a question to Redis can end with. Each ends: none waits longer than its timeout, or twice
/// as long where this process stood still.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {what} in Redis: {source}")]
    Redis { what: &'static str, source: RedisError },
    #[error("cannot {what} in Redis: no answer within {after:?}")]
    Late { what: &'static str, after: Duration },
}

/// A handle on Redis, cheap to clone: one connection that heals itself, one more for wakes, and the
/// key prefix.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    link: Arc<Link>,
    config: Config,
    wakes: Wakes,
    pushers: lists::Pushers,
}

impl Queue {
    /// Takes no connection yet, so that a role starts while Redis is away; the first use connects.
    /// Fails only where the settings cannot work: an address that is none, certificates that cannot
    /// be read.
    ///
    /// Must be called within a tokio runtime.
    pub fn connect(config: &Config) -> Result<Self, BadConfig> {
        let link = Arc::new(Link::new(config.client()?)?);
        let wakes = Wakes::start(link.clone(), &config.prefix);
        Ok(Self { shared: Arc::new(Shared { link, config: config.clone(), wakes, pushers: Default::default() }) })
    }

    /// Whether a hint could be written now: for readiness.
    pub async fn ping(&self) -> Result<(), Error> {
        let mut set = redis::cmd("SET");
        set.arg(keys::ping(&self.shared.config.prefix)).arg(1).arg("PX").arg(10_000);
        self.ask("write", set.query_async(&mut self.connection())).await
    }

    fn connection(&self) -> ConnectionManager {
        self.shared.link.connection()
    }

    fn keys(&self, step: &StepName) -> Keys {
        Keys::new(&self.shared.config.prefix, step)
    }

    /// Bounds one question to Redis: also the wait for a connection, which the client's own timeout
    /// does not cover. A server that has not answered may be gone without a word, and its address
    /// may lead to another by now.
    async fn ask<T>(&self, what: &'static str, call: impl Future<Output = Result<T, RedisError>>) -> Result<T, Error> {
        self.ask_within(COMMAND_TIMEOUT, what, call).await
    }

    async fn ask_within<T>(
        &self,
        after: Duration,
        what: &'static str,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, Error> {
        let answer = self.shared.link.judged(in_time(after, call)).await.ok_or(Error::Late { what, after })?;
        answer.map_err(|source| Error::Redis { what, source })
    }
}

/// A timer that is so late says that this process stood still.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// The answer, where it comes in time. A process that stood still finds its timer run out, and an
/// answer perhaps unread: it waits once more before it blames the server.
async fn in_time<T>(after: Duration, call: impl Future<Output = T>) -> Option<T> {
    let (began, mut call) = (Instant::now(), pin!(call));
    match timeout(after, &mut call).await {
        Err(_) if began.elapsed() >= after + STOOD_STILL => timeout(after, call).await.ok(),
        answered => answered.ok(),
    }
}
