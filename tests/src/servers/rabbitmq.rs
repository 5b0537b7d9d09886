//! A private RabbitMQ: its own node, cookie, epmd, ports and data, so that it knows nothing of
//! another one on this machine. It runs Debian's script for the server itself, not the command that
//! hands over to the user rabbitmq.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::directory::{self, User};
use super::guard::Guard;
use super::{Identity, Process, Program, free_port, until};

const STARTS_WITHIN: Duration = Duration::from_secs(90);
const CTL_WITHIN: Duration = Duration::from_secs(60);
const USER: &str = "sluice";
const COOKIE: &str = "sluice";

/// Starts an epmd that ends with the server: the server would start one that outlives it.
const START: &str = r#"
epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 &
until epmd -port "$ERL_EPMD_PORT" -names >/dev/null 2>&1; do sleep 0.05; done
exec "$0"
"#;

/// A user beside the one who may do everything, and what the user may do in the vhost `/`: three
/// regular expressions.
#[derive(Clone, Debug)]
pub struct Account<'a> {
    pub name: &'a str,
    pub password: &'a str,
    pub configure: &'a str,
    pub write: &'a str,
    pub read: &'a str,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    accounts: Vec<Account<'static>>,
    tls: Option<Identity>,
}

impl Options {
    pub fn account(mut self, account: Account<'static>) -> Self {
        self.accounts.push(account);
        self
    }

    /// Takes connections over TLS too, on a port of their own (`RabbitMq::tls_url`).
    pub fn tls(mut self, identity: Identity) -> Self {
        self.tls = Some(identity);
        self
    }

    fn definitions(&self, password: &str) -> String {
        let all = Account { name: USER, password, configure: ".*", write: ".*", read: ".*" };
        let accounts: Vec<Account<'_>> = self.accounts.iter().cloned().chain([all]).collect();
        let users: Vec<_> = accounts
            .iter()
            .map(|account| json!({ "name": account.name, "password": account.password, "tags": [] }))
            .collect();
        let permissions: Vec<_> = accounts
            .iter()
            .map(|account| {
                let Account { name, configure, write, read, .. } = account;
                json!({ "user": name, "vhost": "/", "configure": configure, "write": write, "read": read })
            })
            .collect();
        json!({ "vhosts": [{ "name": "/" }], "users": users, "permissions": permissions }).to_string()
    }
}

/// The ports that one server needs.
#[derive(Clone, Copy)]
struct Ports {
    amqp: u16,
    tls: u16,
    distribution: u16,
    epmd: u16,
}

/// A running (or killed) server. Dropping it ends it and removes its data.
pub struct RabbitMq {
    process: Process,
    ports: Ports,
    password: String,
}

impl RabbitMq {
    pub async fn start(options: Options) -> Result<Self> {
        let script = script("rabbitmq-server")?;
        for _ in 0..5 {
            let user = directory::unprivileged()?;
            let guard = Guard::new("rabbitmq", user, "KILL")?;
            let ports = Ports { amqp: free_port()?, tls: free_port()?, distribution: free_port()?, epmd: free_port()? };
            let password = format!("{:016x}", rand::random::<u64>());
            write_files(guard.directory(), user, &options, ports, &password)?;

            let program = environment(guard.directory(), ports)
                .into_iter()
                .fold(Program::new("/bin/sh"), |program, (name, value)| program.env(name, value));
            let program = program.args(["-c", START]).args([&script]);
            let process = Process::start(guard, program)?;
            let mut server = Self { process, ports, password };
            match server.wait_until_ready().await {
                Err(error) if server.port_was_taken() => tracing::debug!("a port was taken: {error:#}"),
                Err(error) => return Err(error),
                Ok(()) => return Ok(server),
            }
        }
        bail!("found no ports for RabbitMQ in five tries: too many other servers start at the same time")
    }

    /// `amqp://…` of the user who may do everything, in the vhost `/`.
    pub fn url(&self) -> String {
        self.url_as(USER, &self.password)
    }

    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/%2f", self.ports.amqp)
    }

    /// `amqps://…`, where it has an identity.
    pub fn tls_url(&self) -> String {
        format!("amqps://{USER}:{}@localhost:{}/%2f", self.password, self.ports.tls)
    }

    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The server's log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Has it write down which quorum queues it has, which it does a while after they were made:
    /// one that it has not written down has no leader after a kill, and nobody can listen at it.
    pub async fn write_down_queues(&self) -> Result<()> {
        self.ctl(&["eval", "[dets:sync(Table) || Table <- dets:all()]."]).await.map(drop)
    }

    /// Ends it, all of it, at one stroke (SIGKILL).
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// Starts it again on the same ports with the same data, killing it before where it runs;
    /// returns once it answers.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
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

    /// What `rabbitmqctl` answers, e.g. to `["list_queues", "name", "messages"]`.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::new(script("rabbitmqctl")?);
        command
            .args(["--quiet", "--erlang-cookie", COOKIE])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(environment(self.process.directory(), self.ports))
            .env("HOME", std::env::temp_dir())
            .kill_on_drop(true);
        let output = tokio::time::timeout(CTL_WITHIN, command.output()).await.context("rabbitmqctl does not end")?;
        let output = output.context("run rabbitmqctl")?;
        if !output.status.success() {
            bail!("rabbitmqctl {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let port = self.ports.amqp;
        let ready = until(STARTS_WITHIN, async || {
            if let Ok(Some(status)) = self.process.exited() {
                return Some(Err(status));
            }
            let answer = tokio::time::timeout(Duration::from_secs(5), greet(port)).await;
            answer.ok()?.ok().map(Ok)
        });
        match ready.await {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => bail!("RabbitMQ did not start ({status}); its log ends:\n{}", self.process.log_tail()),
            None => {
                bail!("RabbitMQ does not answer within {STARTS_WITHIN:?}; its log ends:\n{}", self.process.log_tail())
            }
        }
    }

    fn port_was_taken(&self) -> bool {
        self.process.log_tail().contains("eaddrinuse")
    }
}

/// Whether it speaks AMQP: it answers the greeting with a method, `connection.start`.
async fn greet(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
    match stream.read_u8().await? {
        1 => Ok(()),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

fn environment(directory: &Path, ports: Ports) -> Vec<(&'static str, String)> {
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    vec![
        ("HOME", path("")),
        ("ERL_EPMD_PORT", ports.epmd.to_string()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_NODENAME", "sluice@localhost".to_owned()),
        ("RABBITMQ_DIST_PORT", ports.distribution.to_string()),
        ("RABBITMQ_CONF_ENV_FILE", path("env.conf")),
        ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
        ("RABBITMQ_CONFIG_FILES", path("no-more-files")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", path("no.config")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
        ("RABBITMQ_MNESIA_BASE", path("data")),
        ("RABBITMQ_LOG_BASE", path("data")),
        ("RABBITMQ_LOGS", "-".to_owned()),
        // One scheduler that does not spin while it waits: it shares a small machine with what is
        // tested.
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none".to_owned()),
    ]
}

fn write_files(directory: &Path, user: Option<User>, options: &Options, ports: Ports, password: &str) -> Result<()> {
    let path = |name: &str| directory.join(name).display().to_string();
    let mut lines = vec![
        format!("listeners.tcp.1 = 127.0.0.1:{}", ports.amqp),
        format!("load_definitions = {}", path("definitions.json")),
        "log.console = true".to_owned(),
        "log.file = false".to_owned(),
        "vm_memory_high_watermark.absolute = 1GB".to_owned(),
        "disk_free_limit.absolute = 50MB".to_owned(),
    ];
    if let Some(identity) = &options.tls {
        identity.write(directory, user)?;
        lines.extend([
            format!("listeners.ssl.1 = 127.0.0.1:{}", ports.tls),
            format!("ssl_options.certfile = {}", path("server.crt")),
            format!("ssl_options.keyfile = {}", path("server.key")),
            "ssl_options.verify = verify_none".to_owned(),
        ]);
    }
    let files = [
        ("rabbitmq.conf", lines.join("\n") + "\n"),
        ("definitions.json", options.definitions(password)),
        ("enabled_plugins", "[].\n".to_owned()),
        ("env.conf", String::new()),
        // Only its owner may read it, or the server does not start.
        (".erlang.cookie", COOKIE.to_owned()),
    ];
    for (name, text) in files {
        let path = directory.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes()).with_context(|| format!("write {name}"))?;
        directory::give(&path, user)?;
    }
    let data = directory.join("data");
    fs::create_dir(&data).context("make RabbitMQ's data directory")?;
    directory::give(&data, user)
}

fn script(name: &str) -> Result<PathBuf> {
    let script = Path::new("/usr/lib/rabbitmq/bin").join(name);
    if !script.exists() {
        bail!("found no {}: run tests/setup", script.display());
    }
    Ok(script)
}
