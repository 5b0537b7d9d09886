//! Where Redis is and how long we wait for it. The address is a secret: it may carry a password.

use std::{fmt, str::FromStr, time::Duration};

use redis::{Client, IntoConnectionInfo, RedisError};
use workflows::secret::Secret;

/// How long one attempt to connect may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a question to Redis waits for its answer. Then its connection is dropped.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an apalis-redis worker waits for an answer before it is rebuilt: above the longest
/// pause of Redis that should go unnoticed.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of the queue.
#[derive(Debug, Clone)]
pub struct Config {
    /// `redis://` or `rediss://`, e.g. `rediss://:password@host:6380/0`. The certificates of the
    /// system are trusted, or those of `SSL_CERT_FILE`.
    pub url: Secret,
    /// What all our keys begin with, so that several Sluices can share one Redis.
    pub prefix: Prefix,
    /// How hints are kept in Redis.
    pub transport: Transport,
    /// The most hints of one step that Redis holds (1000). The rest waits in Postgres, where it is
    /// sorted by priority.
    pub high_water: u64,
}

/// How hints are kept in Redis. Every process of one Sluice must have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Our own (`lists`).
    #[default]
    Lists,
    /// That of the crate apalis-redis (`apalis-redis`).
    ApalisRedis,
}

impl Config {
    pub fn new(url: Secret, prefix: Prefix) -> Self {
        Self { url, prefix, transport: Transport::default(), high_water: 1000 }
    }

    /// Parses the address. Opens no connection.
    pub(super) fn client(&self) -> Result<Client, BadConfig> {
        let info = self.url.expose().into_connection_info()?;
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        #[cfg(target_os = "linux")]
        // A network that swallows packets would otherwise hold a dead connection for a quarter of
        // an hour.
        let tcp = tcp.set_user_timeout(RESPONSE_TIMEOUT);
        Ok(Client::open(info.set_tcp_settings(tcp))?)
    }
}

/// Settings that cannot work. The address itself is not in the message, for it may carry a
/// password.
#[derive(Debug, thiserror::Error)]
#[error(
    "the Redis URL is not usable ({source}): expected redis://[user:password@]host[:port][/db], \
     or rediss:// for TLS"
)]
pub struct BadConfig {
    #[from]
    pub(super) source: RedisError,
}

/// What all keys begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is no prefix.
#[derive(Debug, thiserror::Error)]
#[error("expected 1 to 40 letters, digits, hyphens or underscores")]
pub struct BadPrefix;

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if text.is_empty() || text.len() > 40 || !text.chars().all(fits) {
            return Err(BadPrefix);
        }
        Ok(Self(text.to_owned()))
    }
}
