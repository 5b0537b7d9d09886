//! What is wrong with this Redis, asked at the start of a role.

use redis::{
    AsyncConnectionConfig, ErrorKind, InfoDict, RedisError, RedisResult, ServerErrorKind, aio::MultiplexedConnection,
};

use super::{Error, Queue, Transport, config::CONNECT_TIMEOUT, keys};

/// What a finding means for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The process must not start on it.
    Refuse,
    /// It works, at a cost that the operator should know.
    Warn,
    /// Redis did not answer, or is a replica now: it must be asked again.
    Unknown,
}

/// One fault, in words for the person who runs this Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub text: String,
}

impl Severity {
    fn finding(self, text: impl Into<String>) -> Finding {
        Finding { severity: self, text: text.into() }
    }
}

impl Queue {
    /// Looks for settings of Redis that would lose hints or cannot work. A role starts without a
    /// Redis that it cannot reach, and pushes nothing until it is there.
    pub async fn check(&self) -> Vec<Finding> {
        match self.ask("read the settings", self.facts()).await {
            Ok(facts) => judge(&facts, self.shared.config.transport),
            Err(Error::Redis { source, .. }) if is_refusal(&source) => {
                vec![Severity::Refuse.finding(format!(
                    "Redis refuses what REDIS_URL says ({source}): check its user, its password and the number of its database"
                ))]
            }
            Err(error) => {
                // A server without TLS never answers a client that begins with TLS.
                let tls = self.shared.config.url.expose().starts_with("rediss:");
                let tls = if tls { ", and that this port speaks TLS" } else { "" };
                let text = format!("{error}; no work moves until Redis answers: check REDIS_URL and the network{tls}");
                vec![Severity::Unknown.finding(text)]
            }
        }
    }

    async fn facts(&self) -> RedisResult<Facts> {
        let mut connection = self.single().await?;
        let info = redis::cmd("INFO").query_async::<InfoDict>(&mut connection).await;
        let info = unless_refused(info)?.unwrap_or_else(|| InfoDict::new(""));
        let is = |field, value| info.get::<String>(field).as_deref() == Some(value);
        let mut get = redis::cmd("CONFIG");
        let get = get.arg("GET").arg("maxmemory-policy");
        let policy = unless_refused(get.query_async::<Vec<String>>(&mut connection).await)?;
        let tried = self.try_rights(&mut connection).await.err();
        let kind = tried.as_ref().map(RedisError::kind);
        Ok(Facts {
            policy: policy.and_then(|pair| pair.into_iter().nth(1)).or_else(|| info.get("maxmemory_policy")),
            cluster: is("redis_mode", "cluster") || is("cluster_enabled", "1"),
            replica: is("role", "slave") || kind == Some(ErrorKind::Server(ServerErrorKind::ReadOnly)),
            forbidden: tried.filter(|_| kind == Some(ErrorKind::Server(ServerErrorKind::NoPerm))).map(|error| {
                let prefix = &self.shared.config.prefix;
                format!("({error}): it needs ~{prefix}:* &{prefix}:* +@all -@dangerous")
            }),
        })
    }

    /// A connection of its own: the shared one would be held up.
    async fn single(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(CONNECT_TIMEOUT));
        self.shared.link.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// One of each kind of thing that is done later: a key, a channel, a script.
    async fn try_rights(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let prefix = &self.shared.config.prefix;
        let ping = keys::ping(prefix);
        redis::cmd("SET").arg(ping).arg(1).arg("PX").arg(10_000).exec_async(connection).await?;
        redis::cmd("PUBLISH").arg(keys::wake_relay(prefix)).arg(1).exec_async(connection).await?;
        redis::cmd("EVAL").arg("return 1").arg(0).exec_async(connection).await
    }
}

/// Whether Redis is there and will not have us, whenever we come.
fn is_refusal(error: &RedisError) -> bool {
    let database = error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
        && error.to_string().contains("switch database");
    database || error.kind() == ErrorKind::AuthenticationFailed
}

/// What Redis says of itself.
#[derive(Debug, Default)]
struct Facts {
    /// None where neither CONFIG nor INFO tells.
    policy: Option<String>,
    cluster: bool,
    replica: bool,
    /// A right that is missing, and what is needed.
    forbidden: Option<String>,
}

fn judge(facts: &Facts, transport: Transport) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.cluster {
        findings.push(Severity::Refuse.finding(
            "Redis runs in cluster mode, and the keys of one queue would be spread over its nodes: \
             point REDIS_URL to a Redis without cluster mode",
        ));
    }
    if facts.replica {
        // In the middle of a failover the address may lead there for a while.
        let text = "Redis is a replica and takes no writes; no work moves until REDIS_URL leads to the primary";
        findings.push(Severity::Unknown.finding(text));
    }
    if let Some(forbidden) = &facts.forbidden {
        findings.push(Severity::Refuse.finding(format!("the user of REDIS_URL lacks a right {forbidden}")));
    }
    match facts.policy.as_deref() {
        Some("noeviction") => {}
        // No key of our own transport that matters expires.
        Some(policy) if policy.starts_with("volatile-") && transport == Transport::Lists => {}
        Some(policy) if policy.starts_with("volatile-") => findings.push(Severity::Warn.finding(format!(
            "maxmemory-policy is {policy}: only keys that expire are evicted, and hints do not, but workers may be \
             rebuilt under memory pressure; set it to noeviction"
        ))),
        Some(policy) => findings.push(Severity::Refuse.finding(format!(
            "maxmemory-policy is {policy}, so Redis may evict hints when memory runs short: set it to noeviction"
        ))),
        None => findings.push(Severity::Warn.finding(
            "this Redis does not tell its maxmemory-policy (CONFIG and INFO are forbidden): make sure that it is \
             noeviction",
        )),
    }
    findings
}

/// Nothing where Redis does not say it.
fn unless_refused<T>(answer: RedisResult<T>) -> RedisResult<Option<T>> {
    match answer {
        Err(error) if error.is_io_error() => Err(error),
        answer => Ok(answer.ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn severities(facts: Facts, transport: Transport) -> Vec<Severity> {
        judge(&facts, transport).into_iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn only_noeviction_passes_everywhere_without_a_word() {
        let policy = |policy: Option<&str>| Facts { policy: policy.map(str::to_owned), ..Facts::default() };

        for transport in [Transport::Lists, Transport::ApalisRedis] {
            assert_eq!(severities(policy(Some("noeviction")), transport), []);
            assert_eq!(severities(policy(Some("allkeys-lru")), transport), [Severity::Refuse]);
            assert_eq!(severities(policy(None), transport), [Severity::Warn]);
        }
        assert_eq!(severities(policy(Some("volatile-ttl")), Transport::Lists), []);
        assert_eq!(severities(policy(Some("volatile-ttl")), Transport::ApalisRedis), [Severity::Warn]);
    }

    #[test]
    fn a_right_that_is_missing_is_named() {
        let facts =
            Facts { policy: Some("noeviction".to_owned()), forbidden: Some("(SET)".to_owned()), ..Facts::default() };

        let [finding] = judge(&facts, Transport::Lists).try_into().expect("one finding");

        assert_eq!(finding, Severity::Refuse.finding("the user of REDIS_URL lacks a right (SET)"));
    }
}
