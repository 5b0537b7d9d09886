//! The Postgres and the Redis that are measured: private ones, set as in production (fsync and
//! synchronous_commit on), or given ones. Everything that is made there has names of its own and is
//! removed by `leave`.

use anyhow::{Context, Result, bail};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use url::Url;
use uuid::Uuid;

use super::{
    Say,
    cpu::{Meter, parent_of},
};
use crate::{
    fleet::SUPABASE,
    servers::{Postgres, Redis, postgres, redis},
};

/// Given servers, by URL. Postgres': as a superuser.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub postgres: Option<Url>,
    pub redis: Option<Url>,
}

pub struct Site {
    // Alive as long as this is.
    postgres: Option<Postgres>,
    redis: Option<Redis>,
    postgres_url: Url,
    redis_url: String,
    postgres_pid: Option<u32>,
    redis_pid: Option<u32>,
    /// In another database than the ones that are measured, so that their counters do not count it.
    pub desk: PgConnection,
    desk_pid: u32,
    /// How many databases were made so far, and those that are there.
    made: usize,
    databases: Vec<String>,
    role: Role,
}

/// Whom the services connect as: what README says of the database's role.
struct Role {
    name: String,
    password: String,
}

/// A migrated database of its own, with a part of Redis of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    pub name: String,
    /// As the superuser: the app's connections.
    pub url: String,
    /// As the services' role.
    pub services_url: String,
    pub redis_prefix: String,
}

impl Site {
    pub async fn open(given: &Given, say: Say) -> Result<Self> {
        let postgres = match &given.postgres {
            None => Some(start_postgres(say).await?),
            Some(_) => None,
        };
        let redis = match &given.redis {
            None => Some(Redis::start(redis::Options::default()).await?),
            Some(_) => None,
        };
        let postgres_url = match (&postgres, &given.postgres) {
            (Some(own), _) => own.url("postgres").parse().context("read the private Postgres' address")?,
            (None, Some(url)) => url.clone(),
            (None, None) => bail!("there is no Postgres"),
        };
        let redis_url = match (&redis, &given.redis) {
            (Some(own), _) => own.url(),
            (None, Some(url)) => url.to_string(),
            (None, None) => bail!("there is no Redis"),
        };
        let mut desk = PgConnection::connect(postgres_url.as_str()).await.context("connect to Postgres")?;
        let desk_pid = backend(&mut desk).await?;
        let postgres_pid = postgres.as_ref().map(Postgres::pid).or_else(|| parent_of(desk_pid, "postgres"));
        let redis_pid = match &redis {
            Some(own) => Some(own.pid()),
            None => local_redis(&redis_url).await,
        };
        let name = format!("sluice_bench_{:08x}", rand::random::<u32>());
        let role = Role { name, password: Uuid::new_v4().simple().to_string() };
        let (made, databases) = (0, Vec::new());
        let mut site = Self {
            postgres,
            redis,
            postgres_url,
            redis_url,
            postgres_pid,
            redis_pid,
            desk,
            desk_pid,
            made,
            databases,
            role,
        };
        site.extensions(say).await;
        Ok(site)
    }

    /// For counting. A server that lacks one has that figure left out.
    async fn extensions(&mut self, say: Say) {
        for extension in ["pg_stat_statements", "pg_walinspect"] {
            let create = AssertSqlSafe(format!("create extension if not exists {extension}"));
            if let Err(error) = sqlx::raw_sql(create).execute(&mut self.desk).await {
                say(&format!("without {extension}: {error}"));
            }
        }
    }

    /// Whose time counts; the roles and the API are added by who starts them.
    pub fn meter(&self) -> Meter {
        let excluded = vec![self.desk_pid];
        Meter { postgres: self.postgres_pid, redis: self.redis_pid, excluded, ..Meter::default() }
    }

    /// What Redis holds is gone with a private one only: a given one keeps what has this run's
    /// prefixes.
    pub fn redis_url(&self) -> &str {
        &self.redis_url
    }

    /// The log of a private Postgres.
    pub fn postgres_log(&self) -> Option<String> {
        self.postgres.as_ref().map(Postgres::log)
    }

    /// For the sessions of this database that begin from now on.
    pub async fn set_for(&mut self, database: &Database, setting: &str, value: &str) -> Result<()> {
        self.run(format!("alter database {} set {setting} = '{value}'", database.name)).await
    }

    /// The name of the services' role.
    pub fn role(&self) -> &str {
        &self.role.name
    }

    /// A setting of Postgres.
    pub async fn setting(&mut self, name: &str) -> Result<String> {
        let query = sqlx::query_scalar("select current_setting($1)").bind(name);
        query.fetch_one(&mut self.desk).await.with_context(|| format!("read Postgres' setting {name}"))
    }

    /// An empty database as Supabase gives one; `migrate` is given its superuser's URL.
    pub async fn new_database(&mut self, migrate: impl AsyncFnOnce(&str) -> Result<()>) -> Result<Database> {
        self.made += 1;
        let name = format!("{}_{}", self.role.name, self.made);
        self.run(format!("create database {name} template template0")).await?;
        self.databases.push(name.clone());
        let url = self.url(&name, None)?;
        let mut connection = PgConnection::connect(&url).await.context("connect to the new database")?;
        sqlx::raw_sql(SUPABASE).execute(&mut connection).await.context("make a Supabase-like database")?;
        connection.close().await.context("close the connection")?;
        migrate(&url).await?;
        if self.made == 1 {
            let Role { name, password } = &self.role;
            self.run(format!("create role {name} login password '{password}' in role sluice_runtime")).await?;
        }
        let services_url = self.url(&name, Some(&self.role))?;
        Ok(Database { redis_prefix: name.clone(), name, url, services_url })
    }

    /// Removes the databases that were made, so that nothing is tidied there while something else
    /// is measured.
    pub async fn clear(&mut self) -> Result<()> {
        for name in std::mem::take(&mut self.databases) {
            self.run(format!("drop database if exists {name} with (force)")).await?;
        }
        Ok(())
    }

    /// Removes what was made on a given server. A private one goes as a whole.
    pub async fn leave(mut self) -> Result<()> {
        self.clear().await?;
        self.run(format!("drop role if exists {}", self.role.name)).await
    }

    /// Nothing where the Redis was given.
    pub fn own_redis(&self) -> Option<&Redis> {
        self.redis.as_ref()
    }

    /// Whether both servers are ours.
    pub fn is_private(&self) -> bool {
        self.postgres.is_some() && self.redis.is_some()
    }

    fn url(&self, database: &str, role: Option<&Role>) -> Result<String> {
        let mut url = self.postgres_url.clone();
        url.set_path(database);
        if let Some(role) = role {
            let set = url.set_username(&role.name).and_then(|()| url.set_password(Some(&role.password)));
            set.ok().context("the URL of Postgres takes no user")?;
        }
        Ok(url.into())
    }

    async fn run(&mut self, statement: String) -> Result<()> {
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut self.desk).await;
        done.context("change the server that is measured").map(drop)
    }
}

/// The process that serves a connection.
pub async fn backend(connection: &mut PgConnection) -> Result<u32> {
    let pid: i32 =
        sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await.context("ask for a pid")?;
    u32::try_from(pid).context("read a pid")
}

/// No checkpoint falls into a measurement by chance.
async fn start_postgres(say: Say) -> Result<Postgres> {
    let options = || {
        let options = postgres::Options::default().durable().set("shared_buffers", "256MB");
        options.set("max_wal_size", "8GB").set("checkpoint_timeout", "1h").set("max_connections", "300")
    };
    let counting = options().set("shared_preload_libraries", "pg_stat_statements");
    match Postgres::start(counting).await {
        Ok(started) => Ok(started),
        Err(error) => {
            say(&format!("statements will not be counted, Postgres does not load pg_stat_statements: {error:#}"));
            Postgres::start(options()).await
        }
    }
}

/// The process id of a Redis on this machine.
async fn local_redis(url: &str) -> Option<u32> {
    let mut connection = ::redis::Client::open(url).ok()?.get_multiplexed_async_connection().await.ok()?;
    let info: String = ::redis::cmd("INFO").arg("server").query_async(&mut connection).await.ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("process_id:"))?.trim().parse().ok()?;
    ["redis-server", "valkey-server"].iter().any(|name| parent_of(pid, name).is_some()).then_some(pid)
}
