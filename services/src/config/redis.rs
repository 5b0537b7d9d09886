//! Where Redis is, and what our keys there begin with.

use clap::Args;
use url::Url;
use workflows::secret::Secret;

use super::Faults;
use crate::queue;

#[derive(Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisOptions {
    /// redis://[user:password@]host:6379[/db], or rediss:// for TLS (the CA certificates of the system or of
    /// SSL_CERT_FILE). It holds hints only: what is lost there is sent again. Needs maxmemory-policy noeviction and no
    /// cluster mode
    #[arg(long, env = "REDIS_URL", value_name = "URL")]
    redis_url: Option<String>,

    /// What all keys begin with, so that several Sluices can share one Redis
    #[arg(long, env = "REDIS_PREFIX", value_name = "TEXT", default_value = "sluice")]
    redis_prefix: String,
}

impl RedisOptions {
    /// None within: no Redis was named, which only what can do without one may be content with.
    pub(super) fn read_if_given(&self, faults: &mut Faults) -> Option<Option<queue::Config>> {
        match self.redis_url {
            Some(_) => self.read(faults).map(Some),
            None => Some(None),
        }
    }

    pub(super) fn read(&self, faults: &mut Faults) -> Option<queue::Config> {
        let what = "give the address of Redis, redis://[user:password@]host:6379";
        let url = faults.required("REDIS_URL", self.redis_url.as_deref(), what);
        let url = url.map(str::trim).filter(|url| is_redis(url, faults));
        let prefix = match self.redis_prefix.trim().parse() {
            Ok(prefix) => Some(prefix),
            Err(_) => {
                let problem = "expected 1 to 40 letters, digits, hyphens or underscores";
                faults.add("REDIS_PREFIX", &self.redis_prefix, problem);
                None
            }
        };
        Some(queue::Config::new(Secret::new(url?), prefix?))
    }
}

fn is_redis(text: &str, faults: &mut Faults) -> bool {
    const SETTING: &str = "REDIS_URL";
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => {
            let problem = format!("is no URL ({error}): expected redis://[user:password@]host:6379");
            faults.add_url(SETTING, text, problem);
            return false;
        }
    };
    if !matches!(url.scheme(), "redis" | "rediss") || url.host_str().is_none_or(str::is_empty) {
        faults.add_url(SETTING, text, "expected redis:// or rediss:// and a host");
        return false;
    }
    let database = url.path().trim_matches('/');
    if !database.is_empty() && database.parse::<u16>().is_err() {
        faults.add_url(
            SETTING,
            text,
            format!("its path is {:?}: expected the number of a database, or none", url.path()),
        );
        return false;
    }
    true
}
