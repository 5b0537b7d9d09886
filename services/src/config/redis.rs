//! Where Redis is, and what our keys there begin with.

use clap::Args;
use url::Url;
use workflows::secret::Secret;

use super::{Faults, fault::ENCODE};
use crate::queue::{self, BadPrefix, Transport};

#[derive(Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisOptions {
    /// redis://[user:password@]host:6379[/db], or rediss:// for TLS (the CA certificates of the
    /// system or of SSL_CERT_FILE). It holds hints only: what is lost there is sent again. Needs
    /// maxmemory-policy noeviction and no cluster mode; of servers that a Sentinel watches, an
    /// address that follows the primary
    #[arg(long, env = "REDIS_URL", value_name = "URL")]
    redis_url: Option<String>,

    /// What all keys begin with, so that several Sluices can share one Redis
    #[arg(long, env = "REDIS_PREFIX", value_name = "TEXT", default_value = "sluice")]
    redis_prefix: String,

    /// How hints are kept in Redis, the same for every process: lists, which is made for them, or
    /// apalis-redis, the layout of the crate of that name
    #[arg(long, env = "QUEUE_TRANSPORT", value_name = "lists|apalis-redis", default_value = "lists")]
    queue_transport: String,

    /// The most hints that Redis holds per step of the workflow; the rest waits in Postgres, the
    /// most urgent first
    #[arg(long, env = "QUEUE_HIGH_WATER", value_name = "NUMBER", default_value = "1000")]
    queue_high_water: String,
}

impl RedisOptions {
    /// None: no Redis was named, which only what can do without one may be content with, or a fault
    /// was left.
    pub(super) fn read_if_given(&self, faults: &mut Faults) -> Option<queue::Config> {
        self.redis_url.as_ref().and_then(|_| self.read(faults))
    }

    pub(super) fn read(&self, faults: &mut Faults) -> Option<queue::Config> {
        let what = "give the address of Redis, redis://[user:password@]host:6379";
        let url = faults.required("REDIS_URL", self.redis_url.as_deref(), what);
        let url = url.map(str::trim).filter(|url| is_redis(url, faults));
        let bad = |problem: BadPrefix| faults.add("REDIS_PREFIX", &self.redis_prefix, problem.to_string());
        let prefix = self.redis_prefix.trim().parse().map_err(bad).ok();
        let transports = [("lists", Transport::Lists), ("apalis-redis", Transport::ApalisRedis)];
        let transport = faults.choice("QUEUE_TRANSPORT", &self.queue_transport, &transports);
        let high_water = faults.number("QUEUE_HIGH_WATER", &self.queue_high_water, 1..=100_000);
        let (transport, high_water) = (transport?, high_water?);
        Some(queue::Config { transport, high_water, ..queue::Config::new(Secret::new(url?), prefix?) })
    }
}

/// No part of an address that cannot be read is shown: a password with a `/`, `?`, `#` or `@` that
/// is not encoded may be taken for any of them.
fn is_redis(text: &str, faults: &mut Faults) -> bool {
    let problem = match Url::parse(text) {
        Err(error) => format!("is no URL ({error}): expected redis://[user:password@]host:6379; {ENCODE}"),
        Ok(url) if !matches!(url.scheme(), "redis" | "rediss") || url.host_str().is_none_or(str::is_empty) => {
            "expected redis:// or rediss:// and a host".to_owned()
        }
        Ok(url) if !is_database(url.path()) => {
            format!("has behind its host what is no number of a database: give a number or nothing; {ENCODE}")
        }
        Ok(_) => return true,
    };
    faults.add_secret("REDIS_URL", problem);
    false
}

fn is_database(path: &str) -> bool {
    let database = path.trim_matches('/');
    database.is_empty() || database.parse::<u16>().is_ok()
}
