//! A private PgBouncer before a private Postgres, on a free port of the loopback address: it lets
//! everybody in and works on Postgres as its superuser. Poolers as users have them refuse what is
//! not in their configuration; so does this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Row};

use super::guard::Guard;
use super::{Postgres, Process, Program, directory, free_port, until};

const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// For how long a client is given a connection to Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Transaction,
    Session,
}

#[derive(Clone, Debug)]
pub struct Options {
    mode: Mode,
    connections: u16,
    role: Option<String>,
    settings: Vec<(String, String)>,
}

impl Default for Options {
    /// Fewer connections than a role's clients: they are really shared.
    fn default() -> Self {
        Self { mode: Mode::default(), connections: 4, role: None, settings: Vec::new() }
    }
}

impl Options {
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The most connections to Postgres for each database.
    pub fn connections(mut self, connections: u16) -> Self {
        self.connections = connections;
        self
    }

    /// Whom clients work as, in place of the superuser. Must be there once a client asks for a
    /// database.
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }

    /// A line of pgbouncer.ini.
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    fn configuration(&self, port: u16, postgres: &Postgres, version: Version) -> String {
        let (at, password) = (postgres.port(), postgres.password());
        let role = self.role.as_ref().map(|role| format!(" connect_query='set role {role}'")).unwrap_or_default();
        let mode = match self.mode {
            Mode::Transaction => "transaction",
            Mode::Session => "session",
        };
        let mut lines = vec![
            "[databases]".to_owned(),
            format!("* = host=127.0.0.1 port={at} user=postgres password={password}{role}"),
            "[pgbouncer]".to_owned(),
            "listen_addr = 127.0.0.1".to_owned(),
            format!("listen_port = {port}"),
            "unix_socket_dir =".to_owned(),
            "auth_type = any".to_owned(),
            format!("pool_mode = {mode}"),
            format!("default_pool_size = {}", self.connections),
            "max_client_conn = 1000".to_owned(),
            // It would wait 15 s after a Postgres that did not answer once.
            "server_login_retry = 1".to_owned(),
        ];
        if version >= KEEPS_STATEMENTS {
            lines.push("max_prepared_statements = 0".to_owned());
        }
        lines.extend(self.settings.iter().map(|(name, value)| format!("{name} = {value}")));
        lines.join("\n") + "\n"
    }
}

/// A running (or stopped) pooler. Dropping it ends it and removes its directory.
pub struct PgBouncer {
    process: Process,
    port: u16,
}

impl PgBouncer {
    pub async fn start(postgres: &Postgres, options: Options) -> Result<Self> {
        let path = program()?;
        let version = version(&path)?;
        for _ in 0..5 {
            let user = directory::unprivileged()?;
            let guard = Guard::new("pgbouncer", user, "KILL")?;
            let port = free_port()?;
            let configuration = guard.directory().join("pgbouncer.ini");
            let text = options.configuration(port, postgres, version);
            fs::write(&configuration, text).context("write pgbouncer.ini")?;
            directory::give(&configuration, user)?;

            let process = Process::start(guard, Program::new(&path).args(["pgbouncer.ini"]))?;
            let mut server = Self { process, port };
            match server.wait_until_ready().await {
                Err(error) if server.port_was_taken() => tracing::debug!("port {port} was taken: {error:#}"),
                Err(error) => return Err(error),
                Ok(()) => return Ok(server),
            }
        }
        bail!("found no port for PgBouncer in five tries: too many other servers start at the same time")
    }

    /// `postgres://…` of a database of the Postgres behind it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://app@127.0.0.1:{}/{database}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// How many clients it has for a database, and how many connections to Postgres for them.
    pub async fn clients_and_connections(&self, database: &str) -> Result<(usize, usize)> {
        let mut console = self.console().await?;
        let mut counts = [0, 0];
        for (count, question) in counts.iter_mut().zip(["show clients", "show servers"]) {
            let rows = sqlx::raw_sql(question).fetch_all(&mut console).await.context(question)?;
            let databases: Vec<String> = rows.iter().map(|row| row.try_get("database")).collect::<sqlx::Result<_>>()?;
            *count = databases.iter().filter(|found| *found == database).count();
        }
        console.close().await.context("close the console")?;
        Ok((counts[0], counts[1]))
    }

    /// Ends it at one stroke (SIGKILL), and with it every connection.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// Starts it again on the same port, killing it before where it runs; returns once it answers.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill().await?;
        self.process.start_again()?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let ready = until(STARTS_WITHIN, async || {
            if let Ok(Some(status)) = self.process.exited() {
                return Some(Err(status));
            }
            let answer = tokio::time::timeout(Duration::from_secs(2), self.console()).await;
            answer.ok()?.ok().map(Ok)
        });
        match ready.await {
            Some(Ok(_)) => Ok(()),
            Some(Err(status)) => {
                bail!("PgBouncer did not start ({status}); its log ends:\n{}", self.process.log_tail())
            }
            None => {
                bail!("PgBouncer does not answer within {STARTS_WITHIN:?}; its log ends:\n{}", self.process.log_tail())
            }
        }
    }

    /// Its own console, which knows the simple protocol only.
    async fn console(&self) -> Result<sqlx::PgConnection> {
        let options: PgConnectOptions = self.url("pgbouncer").parse().context("read the pooler's address")?;
        options.extra_float_digits(None).connect().await.context("connect to the pooler's console")
    }

    fn port_was_taken(&self) -> bool {
        self.process.log_tail().contains("Address already in use")
    }
}

type Version = (u32, u32);

/// The first that keeps clients' prepared statements, and so the first that must be told not to.
const KEEPS_STATEMENTS: Version = (1, 21);

fn version(program: &Path) -> Result<Version> {
    let output = Command::new(program).arg("--version").output().context("ask PgBouncer for its version")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = text.strip_prefix("PgBouncer ").and_then(|text| {
        let (major, rest) = text.split_once('.')?;
        let minor = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    numbers.with_context(|| format!("PgBouncer's version is none: {text}"))
}

/// Debian's is where only root's PATH leads.
fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    match places.find(|place| place.join("pgbouncer").exists()) {
        Some(place) => Ok(place.join("pgbouncer")),
        None => bail!("found no pgbouncer on PATH or in /usr/sbin: run tests/setup"),
    }
}
