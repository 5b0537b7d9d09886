//! The only place that knows apalis, apalis-redis and Redis.
//!
//! It owns what travels through Redis: a [`Hint`] that a step is dispatched, wakes, and the numbers by which a loss
//! of Redis is noticed. It must never hold the only copy of anything: wiping Redis at any moment costs a delay, no
//! more, because the ledger is the truth and the token of a hint decides at the claim.
//!
//! [`Queue::push`] and [`consume::Consumer`] move hints, [`wakes`] rings bells, [`sweep`] keeps Redis small, [`check`]
//! refuses a Redis that would drop hints, [`loss`] says how relays notice that Redis is not what it was.

pub mod check;
mod config;
mod connection;
pub mod consume;
mod handover;
mod hint;
mod keys;
pub mod loss;
mod push;
mod stamp;
mod sweep;
mod wakes;

pub use check::{Finding, Severity};
pub use config::{BadConfig, Config, Prefix};
pub use consume::{Consumer, Drained, Status};
pub use handover::Delivery;
pub use hint::Hint;
pub use push::{Inlet, PushReport};
pub use stamp::{Marks, Round, Stamps, watch_once};
pub use sweep::Swept;
pub use wakes::Bell;

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use workflows::ids::StepName;

use keys::Keys;
use wakes::Wakes;

/// What a call to Redis can end with. Every call ends: none waits longer than its timeout.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {what} in Redis: {source}")]
    Redis { what: &'static str, source: RedisError },
    #[error("cannot {what} in Redis: no answer within {after:?}")]
    Late { what: &'static str, after: Duration },
}

/// A handle on Redis, cheap to clone: one connection that heals itself, one more for wakes, and the key prefix.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    manager: ConnectionManager,
    config: Config,
    wakes: Wakes,
}

impl Queue {
    /// Takes no connection yet, so that a role starts while Redis is away; the first use connects. Fails only where the
    /// settings cannot work: an address that is none, certificates that cannot be read.
    ///
    /// Must be called within a tokio runtime.
    pub fn connect(config: &Config) -> Result<Self, BadConfig> {
        let client = config.client()?;
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), patience(config))
            .map_err(|source| config.refused(source))?;
        let wakes = Wakes::start(client, manager.clone(), &config.prefix);
        Ok(Self { shared: Arc::new(Shared { manager, config: config.clone(), wakes }) })
    }

    /// Asks Redis for a sign of life: for readiness.
    pub async fn ping(&self) -> Result<(), Error> {
        self.ask("ping", redis::cmd("PING").query_async(&mut self.manager())).await
    }

    fn manager(&self) -> ConnectionManager {
        self.shared.manager.clone()
    }

    fn keys(&self, step: &StepName) -> Keys {
        Keys::new(&self.shared.config.prefix, step)
    }

    /// Bounds one call to Redis: also the wait for a connection, which the client's own timeout does not cover.
    async fn ask<T>(&self, what: &'static str, call: impl Future<Output = Result<T, RedisError>>) -> Result<T, Error> {
        let after = self.shared.config.command_timeout;
        match tokio::time::timeout(after, call).await {
            Ok(answer) => answer.map_err(|source| Error::Redis { what, source }),
            Err(_) => Err(Error::Late { what, after }),
        }
    }
}

/// One attempt to connect per call, since each caller has a backoff of its own. The long response timeout lets a
/// worker outlive a Redis that stops answering for seconds: apalis ends a worker at the first error.
fn patience(config: &Config) -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(config::CONNECT_TIMEOUT))
        .set_response_timeout(Some(config.response_timeout))
}

/// A connection of its own for one question, where the shared one would be held up.
async fn single(client: &Client) -> Result<redis::aio::MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config::CONNECT_TIMEOUT))
        .set_response_timeout(Some(config::CONNECT_TIMEOUT));
    client.get_multiplexed_async_connection_with_config(&config).await
}
