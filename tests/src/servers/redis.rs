//! A private Redis in a temporary directory, on a free port of the loopback address. It loads
//! `dump.rdb` when it starts, whatever its persistence: SAVE, later writes, `kill` and `restart`
//! make a Redis that is restored from an old snapshot.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::time::timeout;

use super::guard::Guard;
use super::{Identity, Process, Program, directory, free_port, until};

const STARTS_WITHIN: Duration = Duration::from_secs(30);
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// What Redis keeps over a stop and a kill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing, unless a client says SAVE.
    #[default]
    Nothing,
    /// Every write (append-only file).
    EveryWrite,
    /// All at a stop, nothing since the last snapshot at a kill.
    Snapshots,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    persistence: Persistence,
    password: Option<String>,
    settings: Vec<(String, String)>,
    tls: Option<Identity>,
}

impl Options {
    pub fn persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// `noeviction` (Redis' own default), `allkeys-lru` and so on.
    pub fn maxmemory_policy(self, policy: &str) -> Self {
        self.set("maxmemory-policy", policy)
    }

    /// A line of redis.conf.
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Takes connections over TLS too, on a port of their own (`Redis::tls_port`).
    pub fn tls(mut self, identity: Identity) -> Self {
        self.tls = Some(identity);
        self
    }

    fn configuration(&self, port: u16, tls_port: Option<u16>) -> String {
        let (save, appendonly) = match self.persistence {
            Persistence::Nothing => ("\"\"", "no"),
            Persistence::EveryWrite => ("\"\"", "yes"),
            Persistence::Snapshots => ("3600 1", "no"),
        };
        let mut lines = vec![
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            "daemonize no".to_owned(),
            format!("save {save}"),
            format!("appendonly {appendonly}"),
        ];
        lines.extend(self.password.iter().map(|password| format!("requirepass {password}")));
        if let Some(port) = tls_port {
            lines.extend([format!("tls-port {port}"), "tls-auth-clients no".to_owned()]);
            lines.extend(["tls-cert-file server.crt", "tls-key-file server.key"].map(str::to_owned));
            // It wants one although it asks no client for a certificate.
            lines.push("tls-ca-cert-file server.crt".to_owned());
        }
        lines.extend(self.settings.iter().map(|(name, value)| format!("{name} {value}")));
        lines.join("\n") + "\n"
    }
}

/// A running (or stopped) server. Dropping it ends it and removes its data.
pub struct Redis {
    process: Process,
    options: Options,
    port: u16,
    tls_port: Option<u16>,
}

impl Redis {
    pub async fn start(options: Options) -> Result<Self> {
        let program = Program::new(program()?).args(["redis.conf"]);
        for _ in 0..5 {
            let user = directory::unprivileged()?;
            let guard = Guard::new("redis", user, "KILL")?;
            let port = free_port()?;
            let tls_port = options.tls.as_ref().map(|_| free_port()).transpose()?;
            if let Some(identity) = &options.tls {
                identity.write(guard.directory(), user)?;
            }
            let configuration = guard.directory().join("redis.conf");
            fs::write(&configuration, options.configuration(port, tls_port)).context("write redis.conf")?;
            directory::give(&configuration, user)?;

            let process = Process::start(guard, program.clone())?;
            let mut server = Self { process, options: options.clone(), port, tls_port };
            match server.wait_until_ready().await {
                Err(error) if server.port_was_taken() => tracing::debug!("port {port} was taken: {error:#}"),
                Err(error) => return Err(error),
                Ok(()) => return Ok(server),
            }
        }
        bail!("found no port for Redis in five tries: too many other servers start at the same time")
    }

    /// `redis://…`, with the password where there is one.
    pub fn url(&self) -> String {
        match &self.options.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}/", self.port),
            None => format!("redis://127.0.0.1:{}/", self.port),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it takes TLS, if it does.
    pub fn tls_port(&self) -> Option<u16> {
        self.tls_port
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The server's log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Everything in it is gone, and its connections stay.
    pub async fn flush_all(&self) -> Result<()> {
        self.ask(&["FLUSHALL"]).await.map(drop)
    }

    /// What it answers to a command; nothing where that is no list of texts.
    pub(crate) async fn ask(&self, words: &[&str]) -> Result<Vec<String>> {
        let client = ::redis::Client::open(self.url()).context("read the private Redis' address")?;
        let asked = timeout(Duration::from_secs(10), async {
            let mut connection = client.get_multiplexed_async_connection().await?;
            let mut command = ::redis::cmd(words[0]);
            command.arg(&words[1..]);
            command.query_async::<::redis::Value>(&mut connection).await
        });
        let value =
            asked.await.context("Redis does not answer")?.with_context(|| format!("ask Redis for {}", words[0]))?;
        Ok(::redis::from_redis_value(value).unwrap_or_default())
    }

    /// Ends it in good order.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.wait_for_exit(STOPS_WITHIN).await?;
        Ok(())
    }

    /// Ends it at one stroke (SIGKILL).
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// Starts it again on the same port, stopping it before where it runs; returns once it answers.
    pub async fn restart(&mut self) -> Result<()> {
        if self.process.exited()?.is_none() {
            self.stop().await?;
        }
        self.process.start_again()?;
        self.wait_until_ready().await
    }

    /// Freezes it: connections stay open and nothing answers.
    pub fn pause(&mut self) -> Result<()> {
        self.process.pause()
    }

    pub fn resume(&mut self) -> Result<()> {
        self.process.resume()
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let client = redis::Client::open(self.url()).context("read the private Redis' address")?;
        let ready = until(STARTS_WITHIN, async || {
            if let Ok(Some(status)) = self.process.exited() {
                return Some(Err(status));
            }
            let answer = timeout(Duration::from_secs(2), ping(&client)).await;
            answer.ok()?.ok().map(Ok)
        });
        match ready.await {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => bail!("Redis did not start ({status}); its log ends:\n{}", self.process.log_tail()),
            None => bail!("Redis does not answer within {STARTS_WITHIN:?}; its log ends:\n{}", self.process.log_tail()),
        }
    }

    fn port_was_taken(&self) -> bool {
        self.process.log_tail().contains("Could not create server TCP listening socket")
    }
}

/// A Redis Sentinel that watches one server and its replicas: it promotes a replica a second after
/// the primary has fallen silent.
pub struct Sentinel {
    _process: Process,
    client: redis::Client,
}

impl Sentinel {
    const WATCHES: &str = "main";

    pub async fn of(primary: &Redis) -> Result<Self> {
        let user = directory::unprivileged()?;
        let guard = Guard::new("sentinel", user, "KILL")?;
        let (port, name) = (free_port()?, Self::WATCHES);
        let lines = [
            "bind 127.0.0.1".to_owned(),
            format!("port {port}"),
            format!("sentinel monitor {name} 127.0.0.1 {} 1", primary.port()),
            format!("sentinel down-after-milliseconds {name} 1000"),
            format!("sentinel failover-timeout {name} 5000"),
        ];
        let configuration = guard.directory().join("sentinel.conf");
        fs::write(&configuration, lines.join("\n") + "\n").context("write sentinel.conf")?;
        directory::give(&configuration, user)?;
        let process = Process::start(guard, Program::new(program()?).args(["sentinel.conf", "--sentinel"]))?;
        let client =
            redis::Client::open(format!("redis://127.0.0.1:{port}/")).context("read the Sentinel's address")?;
        let sentinel = Self { _process: process, client };
        let knows = until(STARTS_WITHIN, async || (sentinel.replicas().await.ok()? > 0).then_some(()));
        knows.await.context("the Sentinel finds no replica")?;
        Ok(sentinel)
    }

    /// The port of the server that is the primary now.
    pub async fn primary(&self) -> Result<u16> {
        let (_, port): (String, u16) = self.ask("GET-MASTER-ADDR-BY-NAME").await?;
        Ok(port)
    }

    /// How many it knows that can be promoted.
    async fn replicas(&self) -> Result<usize> {
        let known: Vec<std::collections::HashMap<String, String>> = self.ask("REPLICAS").await?;
        let linked = |replica: &&std::collections::HashMap<String, String>| {
            replica.get("master-link-status").is_some_and(|status| status == "ok")
        };
        Ok(known.iter().filter(linked).count())
    }

    async fn ask<T: redis::FromRedisValue>(&self, question: &str) -> Result<T> {
        let mut connection = self.client.get_multiplexed_async_connection().await.context("connect to the Sentinel")?;
        let mut command = redis::cmd("SENTINEL");
        command.arg(question).arg(Self::WATCHES).query_async(&mut connection).await.context("ask the Sentinel")
    }
}

async fn ping(client: &redis::Client) -> redis::RedisResult<()> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    redis::cmd("PING").query_async(&mut connection).await
}

fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain(["/usr/bin".into(), "/usr/local/bin".into()]);
    match places.find(|place| place.join("redis-server").exists()) {
        Some(place) => Ok(place.join("redis-server")),
        None => bail!("found no redis-server on PATH: run tests/setup"),
    }
}
