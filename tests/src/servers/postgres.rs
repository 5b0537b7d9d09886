//! A private Postgres: initialised in a temporary directory, on a free port of the loopback
//! address, with a random password and no Unix socket.

mod database;
mod installation;
mod options;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use sqlx::{Connection, Executor, PgConnection};

pub use database::Database;
pub use options::{Durability, Options};

use super::guard::Guard;
use super::{Process, Program, directory, free_port, until};
use installation::Installation;

const STARTS_WITHIN: Duration = Duration::from_secs(60);
const STOPS_WITHIN: Duration = Duration::from_secs(60);

/// A running (or stopped) server. Dropping it ends it and removes its data.
pub struct Postgres {
    process: Process,
    installation: Installation,
    options: Options,
    port: u16,
    password: String,
    released: Arc<Mutex<Vec<String>>>,
}

impl Postgres {
    pub async fn start(options: Options) -> Result<Self> {
        let installation = Installation::find(options.needs_cron())?;
        let password = format!("{:032x}", rand::random::<u128>());
        let process = initialise(&installation, &password, &options).await?;
        let released = Arc::default();
        let mut server = Self { process, installation, options, port: 0, password, released };

        for _ in 0..5 {
            server.port = free_port()?;
            match server.launch().await {
                Err(error) if server.port_was_taken() => tracing::debug!("port {} was taken: {error:#}", server.port),
                Err(error) => return Err(error),
                Ok(()) => return Ok(server),
            }
        }
        bail!("found no port for Postgres in five tries; its log ends:\n{}", server.process.log_tail())
    }

    /// A standby of `primary`, which takes no writes until it is promoted. From then on the primary
    /// confirms a commit only when the standby has it.
    pub async fn standby_of(primary: &Self) -> Result<Self> {
        let installation = Installation::find(false)?;
        let user = directory::unprivileged()?;
        let guard = Guard::new("postgres-standby", user, "QUIT")?;
        let from = primary.url("postgres");
        let program = Program::new(installation.program("pg_basebackup"));
        let program = program.args([
            "--pgdata=data",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
            "--dbname",
            &from,
        ]);
        let mut process = Process::start(guard, program)?;
        let status = process.wait_for_exit(STARTS_WITHIN).await?;
        if !status.success() {
            bail!("pg_basebackup failed ({status}); its log ends:\n{}", process.log_tail());
        }
        let (password, options, released) = (primary.password.clone(), primary.options.clone(), Arc::default());
        let mut server = Self { process, installation, options, port: free_port()?, password, released };
        server.launch().await?;
        let mut connection = primary.connect().await?;
        run(&mut connection, "alter system set synchronous_standby_names = '*'".to_owned()).await?;
        run(&mut connection, "select pg_reload_conf()".to_owned()).await?;
        connection.close().await.context("close the connection")?;
        Ok(server)
    }

    /// Makes a standby a primary.
    pub async fn promote(&self) -> Result<()> {
        let mut connection = self.connect().await?;
        run(&mut connection, "select pg_promote()".to_owned()).await?;
        connection.close().await.context("close the connection")
    }

    /// `postgres://…` of a database of this server, as its superuser `postgres`.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", &self.password, database)
    }

    /// `postgres://…` as another role.
    pub fn url_as(&self, role: &str, password: &str, database: &str) -> String {
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The superuser's.
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server's first process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The server's log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it in good order, disconnecting its clients.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::INT)?;
        self.process.wait_for_exit(STOPS_WITHIN).await?;
        Ok(())
    }

    /// Ends every one of its processes at one stroke, as a crash of the machine's power would.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await?;
        self.remove_shared_memory();
        Ok(())
    }

    /// Starts it again on the same port with the same data, stopping it before where it runs;
    /// returns once it answers.
    pub async fn restart(&mut self) -> Result<()> {
        if self.process.exited()?.is_none() {
            self.stop().await?;
        }
        self.launch().await
    }

    /// Freezes all of its processes: connections stay open and nothing answers.
    pub fn pause(&mut self) -> Result<()> {
        self.process.pause()
    }

    pub fn resume(&mut self) -> Result<()> {
        self.process.resume()
    }

    /// A new empty database. Databases that were dropped (in Rust's sense) are removed on the way.
    pub async fn create_database(&self) -> Result<Database> {
        self.create_database_from("template0").await
    }

    /// A new database, copied from another one that nobody is connected to.
    pub async fn create_database_from(&self, template: &str) -> Result<Database> {
        let name = format!("test_{:016x}", rand::random::<u64>());
        let mut connection = self.connect().await?;
        for name in self.take_released() {
            run(&mut connection, format!("drop database if exists {name} with (force)")).await?;
        }
        run(&mut connection, format!("create database {name} template {template}")).await?;
        connection.close().await.context("close the connection")?;
        Ok(Database::new(name.clone(), self.url(&name), Arc::clone(&self.released)))
    }

    /// A database with a chosen name, for a template (or for pg_cron's). It stays until the server
    /// goes.
    pub async fn create_named_database(&self, name: &str) -> Result<String> {
        let mut connection = self.connect().await?;
        run(&mut connection, format!("create database {name} template template0")).await?;
        connection.close().await.context("close the connection")?;
        Ok(self.url(name))
    }

    async fn connect(&self) -> Result<PgConnection> {
        let connection = PgConnection::connect(&self.url("postgres")).await;
        connection.with_context(|| format!("connect to the private Postgres on port {}", self.port))
    }

    async fn launch(&mut self) -> Result<()> {
        let mut arguments = vec!["-D".to_owned(), "data".to_owned()];
        let own = [
            ("port", self.port.to_string()),
            ("listen_addresses", "127.0.0.1".into()),
            ("unix_socket_directories", String::new()),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        for (name, value) in self.options.lines().into_iter().chain(own) {
            arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        let program = Program::new(self.installation.program("postgres")).args(arguments);
        self.process.start_other(program)?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let url = self.url("postgres");
        let ready = until(STARTS_WITHIN, async || {
            if let Ok(Some(status)) = self.process.exited() {
                return Some(Err(status));
            }
            let answer = tokio::time::timeout(Duration::from_secs(2), PgConnection::connect(&url)).await;
            let connection = answer.ok()?.ok()?;
            // A server that is shutting down again, or one that is not ours, shows in the next
            // check.
            let _ = connection.close().await;
            Some(Ok(()))
        });
        match ready.await {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => bail!("Postgres did not start ({status}); its log ends:\n{}", self.process.log_tail()),
            None => {
                bail!("Postgres does not answer within {STARTS_WITHIN:?}; its log ends:\n{}", self.process.log_tail())
            }
        }
    }

    fn port_was_taken(&self) -> bool {
        self.process.log_tail().contains("could not bind")
    }

    fn take_released(&self) -> Vec<String> {
        std::mem::take(&mut *self.released.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Postgres marks its data directory with a System V segment that only a server in good order
    /// removes; its id is the second word of the seventh line of postmaster.pid.
    fn remove_shared_memory(&self) {
        let mark = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        if let Some(segment) = mark.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            // Only tidiness hangs on it: a segment without a process does not keep the server from
            // starting.
            let _ = std::process::Command::new("ipcrm").args(["-m", segment]).output();
        }
    }

    fn data(&self) -> PathBuf {
        self.process.directory().join("data")
    }
}

/// Makes the data directory. The process that is returned has ended; the server takes its place.
async fn initialise(installation: &Installation, password: &str, options: &Options) -> Result<Process> {
    let user = directory::unprivileged()?;
    let guard = Guard::new("postgres", user, "QUIT")?;
    let password_file = guard.directory().join("password");
    fs::write(&password_file, password).context("write the password file")?;
    directory::give(&password_file, user)?;

    if let Some(identity) = options.identity() {
        identity.write(guard.directory(), user)?;
    }

    let program = Program::new(installation.program("initdb")).args([
        "--pgdata=data",
        "--username=postgres",
        "--pwfile=password",
        // Hashed in the server, plain on the wire, which is this machine's: hashing in an
        // unoptimised client is slow.
        "--auth=password",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--lc-messages=C",
        "--no-sync",
        "--no-instructions",
    ]);
    let mut process = Process::start(guard, program)?;
    let status = process.wait_for_exit(STARTS_WITHIN).await?;
    if !status.success() {
        bail!("initdb failed ({status}); its log ends:\n{}", process.log_tail());
    }
    fs::remove_file(&password_file).context("remove the password file")?;
    Ok(process)
}

async fn run(connection: &mut PgConnection, statement: String) -> Result<()> {
    let context = format!("run '{statement}'");
    connection.execute(sqlx::AssertSqlSafe(statement)).await.context(context)?;
    Ok(())
}
