//! A whole Sluice as separate processes: private Postgres with a Supabase-like database, private
//! Redis, the simulated Evolution API, and `sluice` relays and workers as a user starts them. For
//! the demo, the benchmark, the tests that kill processes and chaos. Everything ends with it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use sqlx::{Connection, PgConnection};

use crate::{
    evolution::{Config, server::Server},
    servers::{Postgres, Process, Program, RabbitMq, Redis, binary, postgres, rabbitmq, redis},
};

/// A minimal database as Supabase gives one: roles, `auth.users`, `profiles`, the publication.
pub const SUPABASE: &str = include_str!("../../../deploy/supabase/app.sql");

/// The steps, each of which has a worker process of its own.
pub const STEPS: [&str; 3] = ["create-instance", "configure-webhooks", "verify"];

const DATABASE: &str = "app";
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// Where the servers run and what the processes are started with.
pub struct Fleet {
    /// By name: `relay-1`, `worker-verify-1`. Before the servers, so that it ends before them.
    processes: BTreeMap<String, Process>,
    pub api: Server,
    pub redis: Redis,
    pub postgres: Postgres,
    rabbitmq: Option<RabbitMq>,
    environment: BTreeMap<String, String>,
}

/// What can be hit by itself, so that one server may be away while a process is killed.
pub struct Parts<'a> {
    pub processes: &'a mut BTreeMap<String, Process>,
    pub api: &'a Server,
    pub redis: &'a mut Redis,
    pub postgres: &'a mut Postgres,
    pub rabbitmq: Option<&'a mut RabbitMq>,
}

impl Fleet {
    /// Starts the servers and migrates the database. No role runs yet.
    pub async fn prepare(postgres: postgres::Options, redis: redis::Options, api: Config) -> Result<Self> {
        let (postgres, redis) = tokio::try_join!(Postgres::start(postgres), Redis::start(redis))?;
        let api = Server::start(api).await?;
        let url = postgres.create_named_database(DATABASE).await?;
        let mut fleet =
            Self { processes: BTreeMap::new(), api, redis, postgres, rabbitmq: None, environment: BTreeMap::new() };
        fleet.environment = fleet.environment(&url);
        let mut connection = PgConnection::connect(&url).await.context("connect to the app's database")?;
        sqlx::raw_sql(SUPABASE).execute(&mut connection).await.context("make a Supabase-like database")?;
        connection.close().await.context("close the connection")?;
        fleet.sluice(&["migrate"]).await?;
        Ok(fleet)
    }

    fn environment(&self, url: &str) -> BTreeMap<String, String> {
        [
            ("DATABASE_URL", url.to_owned()),
            ("REDIS_URL", self.redis.url()),
            ("EVOLUTION_API_BASE_URL", self.api.base_url().to_owned()),
            ("EVOLUTION_API_KEY", self.api.key().to_owned()),
            ("SUPABASE_URL", "http://127.0.0.1:9".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Starts a private RabbitMQ, to which every process started from now on publishes; its
    /// address.
    pub async fn add_rabbitmq(&mut self) -> Result<String> {
        let server = RabbitMq::start(rabbitmq::Options::default()).await?;
        let url = server.url();
        self.rabbitmq = Some(server);
        self.set("AMQP_URL", &url);
        Ok(url)
    }

    pub fn rabbitmq(&mut self) -> Result<&mut RabbitMq> {
        self.rabbitmq.as_mut().context("this fleet has no RabbitMQ")
    }

    /// What every process started from now on finds in its environment.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.environment.insert(name.to_owned(), value.into());
    }

    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// The app's database, as its superuser.
    pub fn database_url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    pub async fn connect(&self) -> Result<PgConnection> {
        PgConnection::connect(&self.database_url()).await.context("connect to the app's database")
    }

    /// Runs `sluice` with these arguments to its end; its output.
    pub async fn sluice(&self, arguments: &[&str]) -> Result<String> {
        let mut process = self.program(arguments)?.start()?;
        let status = process.wait_for_exit(Duration::from_secs(60)).await?;
        if !status.success() {
            bail!("sluice {} ended with {status}:\n{}", arguments.join(" "), process.log());
        }
        Ok(process.log())
    }

    /// Starts a role that may have to wait for what it needs: the caller keeps it.
    pub fn launch(&self, arguments: &[&str]) -> Result<Process> {
        self.program(arguments)?.start()
    }

    /// Starts a role under a name, and waits until it says that it is ready.
    pub async fn start(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        let mut process = self.launch(arguments)?;
        process.wait_for_log("ready", STARTS_WITHIN).await?;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    /// One relay and one worker per step, each a process.
    pub async fn start_roles(&mut self) -> Result<()> {
        self.start("relay-1", &["relay"]).await?;
        for step in STEPS {
            self.start(&format!("worker-{step}-1"), &["worker", step]).await?;
        }
        Ok(())
    }

    pub fn process(&mut self, name: &str) -> Result<&mut Process> {
        self.processes.get_mut(name).with_context(|| format!("no process is called {name}"))
    }

    pub fn names(&self) -> Vec<String> {
        self.processes.keys().cloned().collect()
    }

    /// Kills a process (SIGKILL) and starts it anew at once.
    pub async fn replace(&mut self, name: &str) -> Result<()> {
        let process = self.process(name)?;
        process.kill().await?;
        process.start_again()
    }

    pub fn parts(&mut self) -> Parts<'_> {
        let Self { processes, api, redis, postgres, rabbitmq, .. } = self;
        Parts { processes, api, redis, postgres, rabbitmq: rabbitmq.as_mut() }
    }

    fn program(&self, arguments: &[&str]) -> Result<Program> {
        let program = Program::new(binary("sluice")?).args(arguments.iter().copied());
        Ok(self.environment.iter().fold(program, |program, (name, value)| program.env(name, value)))
    }
}
