//! What is wrong with this Redis, asked at the start of a role.

use redis::{ErrorKind, RedisError, ServerErrorKind, aio::MultiplexedConnection};

use super::{Error, Queue, Transport, keys, single};

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

impl Finding {
    fn refuse(text: impl Into<String>) -> Self {
        Self { severity: Severity::Refuse, text: text.into() }
    }

    fn warn(text: impl Into<String>) -> Self {
        Self { severity: Severity::Warn, text: text.into() }
    }
}

impl Queue {
    /// Looks for settings of Redis that would lose hints or cannot work. A role starts without a
    /// Redis that it cannot reach, and pushes nothing until it is there.
    pub async fn check(&self) -> Vec<Finding> {
        match self.ask("read the settings", self.facts()).await {
            Ok(facts) => judge(&facts, self.shared.config.transport),
            Err(Error::Redis { source, .. }) if is_refusal(&source) => {
                vec![Finding::refuse(format!(
                    "Redis refuses what REDIS_URL says ({source}): check its user, its password and the number of its database"
                ))]
            }
            Err(error) => {
                // A server without TLS never answers a client that begins with TLS.
                let tls = self.shared.config.url.expose().starts_with("rediss:");
                let tls = if tls { ", and that this port speaks TLS" } else { "" };
                let text = format!("{error}; no work moves until Redis answers: check REDIS_URL and the network{tls}");
                vec![Finding { severity: Severity::Unknown, text }]
            }
        }
    }

    async fn facts(&self) -> Result<Facts, RedisError> {
        let client = self.shared.config.client().map_err(|bad| bad.source)?;
        let mut connection = single(&client).await?;
        let info: String = match redis::cmd("INFO").query_async(&mut connection).await {
            Ok(info) => info,
            Err(error) if error.is_io_error() => return Err(error),
            Err(_) => String::new(),
        };
        let mut get = redis::cmd("CONFIG");
        let get = get.arg("GET").arg("maxmemory-policy");
        let policy = match get.query_async::<Vec<String>>(&mut connection).await {
            Ok(pair) => pair.into_iter().nth(1),
            Err(error) if error.is_io_error() => return Err(error),
            Err(_) => None,
        };
        let tried = self.try_rights(&mut connection).await.err();
        let kind = tried.as_ref().map(RedisError::kind);
        let replica = field(&info, "role").as_deref() == Some("slave");
        Ok(Facts {
            policy: policy.or_else(|| field(&info, "maxmemory_policy")),
            cluster: field(&info, "redis_mode").as_deref() == Some("cluster")
                || field(&info, "cluster_enabled").as_deref() == Some("1"),
            replica: replica || kind == Some(ErrorKind::Server(ServerErrorKind::ReadOnly)),
            forbidden: tried.filter(|_| kind == Some(ErrorKind::Server(ServerErrorKind::NoPerm))).map(|error| {
                let prefix = &self.shared.config.prefix;
                format!("({error}): it needs ~{prefix}:* &{prefix}:* +@all -@dangerous")
            }),
        })
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
        findings.push(Finding::refuse(
            "Redis runs in cluster mode, and the keys of one queue would be spread over its nodes: \
             point REDIS_URL to a Redis without cluster mode",
        ));
    }
    if facts.replica {
        // In the middle of a failover the address may lead there for a while.
        let text = "Redis is a replica and takes no writes; no work moves until REDIS_URL leads to the primary";
        findings.push(Finding { severity: Severity::Unknown, text: text.to_owned() });
    }
    if let Some(forbidden) = &facts.forbidden {
        findings.push(Finding::refuse(format!("the user of REDIS_URL lacks a right {forbidden}")));
    }
    match facts.policy.as_deref() {
        Some("noeviction") => {}
        // No key of our own transport that matters expires.
        Some(policy) if policy.starts_with("volatile-") && transport == Transport::Lists => {}
        Some(policy) if policy.starts_with("volatile-") => findings.push(Finding::warn(format!(
            "maxmemory-policy is {policy}: only keys that expire are evicted, and hints do not, but workers may be \
             rebuilt under memory pressure; set it to noeviction"
        ))),
        Some(policy) => findings.push(Finding::refuse(format!(
            "maxmemory-policy is {policy}, so Redis may evict hints when memory runs short: set it to noeviction"
        ))),
        None => findings.push(Finding::warn(
            "this Redis does not tell its maxmemory-policy (CONFIG and INFO are forbidden): make sure that it is \
             noeviction",
        )),
    }
    findings
}

/// One field of an answer to INFO.
fn field(info: &str, name: &str) -> Option<String> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
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

        assert_eq!(finding, Finding::refuse("the user of REDIS_URL lacks a right (SET)"));
    }
}
