//! The app whose users sign up: clients that insert users, as Supabase's auth does, and a look at
//! the rows that a user sees. The look costs Postgres next to nothing and its process is left out
//! of the CPU that is counted.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::{sync::Barrier, task::JoinSet, time::Instant};
use uuid::Uuid;

use super::site::{Database, backend};

/// Looked at together: so few that a look costs Postgres a tenth of a millisecond.
const LOOK: usize = 50;
const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(120);

const SIGN_UP: &str = "insert into auth.users (id, email) values ($1, $1 || '@example.org')";

pub struct App {
    clients: PgPool,
    number: usize,
    look: PgConnection,
    look_pid: u32,
    /// Transactions of our own in this database: what the counters count beside Sluice's.
    pub transactions: i64,
}

/// Users who signed up in one transaction.
pub struct Together {
    pub users: Vec<Uuid>,
    /// By Postgres' clock, in seconds.
    pub began: f64,
    pub committed: f64,
}

/// One user's way, by Postgres' clock in seconds: when the sign-up's transaction began, and when
/// the run ended well.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub struct Way {
    pub signed_up: f64,
    pub ready: f64,
}

impl Way {
    pub fn milliseconds(&self) -> f64 {
        (self.ready - self.signed_up) * 1000.0
    }
}

/// A steady stream that was sent.
pub struct Stream {
    pub users: Vec<Uuid>,
    /// How long each sign-up's own transaction took, waiting for a connection included, in
    /// milliseconds.
    pub commits: Vec<f64>,
    pub seconds: f64,
}

impl App {
    pub async fn connect(database: &Database, clients: u32) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(clients).min_connections(clients).test_before_acquire(false);
        let pool = pool.connect(&database.url).await.context("connect the app to the database")?;
        let mut look = PgConnection::connect(&database.url).await.context("connect the app to the database")?;
        let look_pid = backend(&mut look).await?;
        Ok(Self { clients: pool, number: clients as usize, look, look_pid, transactions: 0 })
    }

    /// The process of Postgres that serves the look.
    pub fn look_pid(&self) -> u32 {
        self.look_pid
    }

    pub async fn close(self) -> Result<()> {
        self.clients.close().await;
        self.look.close().await.context("close the app's connection")
    }

    pub async fn together(&mut self, number: usize) -> Result<Together> {
        let users: Vec<Uuid> = (0..number).map(|_| Uuid::new_v4()).collect();
        let mut client = self.clients.acquire().await.context("take a connection")?;
        let clock = "select extract(epoch from clock_timestamp())::float8";
        let began = sqlx::query_scalar(clock).fetch_one(&mut *client).await.context("read the clock")?;
        sqlx::query(
            "insert into auth.users (id, email)
             select id, id || '@example.org'
             from unnest($1::uuid[]) as id",
        )
        .bind(&users)
        .execute(&mut *client)
        .await
        .context("sign users up together")?;
        let committed = sqlx::query_scalar(clock).fetch_one(&mut *client).await.context("read the clock")?;
        self.transactions += 3;
        Ok(Together { users, began, committed })
    }

    pub async fn one(&mut self) -> Result<Uuid> {
        let user = Uuid::new_v4();
        self.transactions += 1;
        sqlx::query(SIGN_UP).bind(user).execute(&self.clients).await.context("sign a user up")?;
        Ok(user)
    }

    /// Opens every connection: each signs one user up, all before the first lets go of its
    /// connection.
    pub async fn warm(&mut self) -> Result<Vec<Uuid>> {
        let all = Arc::new(Barrier::new(self.number));
        let mut clients = JoinSet::new();
        for _ in 0..self.number {
            let (pool, all) = (self.clients.clone(), all.clone());
            clients.spawn(async move {
                let user = Uuid::new_v4();
                let mut client = pool.acquire().await.context("take a connection")?;
                sqlx::query(SIGN_UP).bind(user).execute(&mut *client).await.context("sign a user up")?;
                all.wait().await;
                anyhow::Ok(user)
            });
        }
        let mut users = Vec::new();
        while let Some(done) = clients.join_next().await {
            users.push(done.context("wait for a client")??);
        }
        Ok(users)
    }

    /// So many sign-ups a second, evenly, each a transaction of its own, whether or not the one
    /// before has come back.
    pub async fn stream(&mut self, rate: f64, seconds: f64) -> Result<Stream> {
        let number = (rate * seconds).round() as usize;
        let began = Instant::now();
        let mut evenly = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
        let mut sent = JoinSet::new();
        for _ in 0..number {
            let due = evenly.tick().await;
            let clients = self.clients.clone();
            sent.spawn(async move {
                let user = Uuid::new_v4();
                sqlx::query(SIGN_UP).bind(user).execute(&clients).await.context("sign a user up")?;
                anyhow::Ok((user, due.elapsed().as_secs_f64() * 1000.0))
            });
        }
        let mut stream = Stream { users: Vec::new(), commits: Vec::new(), seconds: 0.0 };
        while let Some(done) = sent.join_next().await {
            let (user, took) = done.context("wait for a sign-up")??;
            stream.users.push(user);
            stream.commits.push(took);
        }
        stream.seconds = began.elapsed().as_secs_f64();
        self.transactions += i64::try_from(number).context("count sign-ups")?;
        Ok(stream)
    }

    /// As many rows as all clients together can insert, each a transaction of its own: rows per
    /// second.
    pub async fn as_many_as_possible(&mut self, seconds: f64) -> Result<f64> {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let began = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..self.number {
            let pool = self.clients.clone();
            clients.spawn(async move {
                let mut client = pool.acquire().await.context("take a connection")?;
                let mut rows = 0_u32;
                while Instant::now() < until {
                    let row = sqlx::query(SIGN_UP).bind(Uuid::new_v4());
                    row.execute(&mut *client).await.context("sign a user up")?;
                    rows += 1;
                }
                anyhow::Ok(rows)
            });
        }
        let mut rows = 0;
        while let Some(done) = clients.join_next().await {
            rows += done.context("wait for a client")??;
        }
        self.transactions += i64::from(rows);
        Ok(f64::from(rows) / began.elapsed().as_secs_f64())
    }

    /// Waits until every one of them is ready. Nobody may be dead.
    pub async fn await_ready(&mut self, users: &[Uuid]) -> Result<()> {
        self.await_ready_telling(users, |_| {}).await
    }

    pub async fn await_ready_telling(&mut self, users: &[Uuid], mut tell: impl FnMut(usize)) -> Result<()> {
        for (index, some) in users.chunks(LOOK).enumerate() {
            tell(index * LOOK);
            self.await_some(some).await?;
        }
        Ok(())
    }

    async fn await_some(&mut self, users: &[Uuid]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (ready, failed, why) = self.states(users).await?;
            ensure!(failed == 0, "{failed} sign-ups failed: {}", why.unwrap_or_default());
            if ready == users.len() as i64 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("{} sign-ups were not ready within {PATIENCE:?}", users.len() as i64 - ready);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// How many of them are ready.
    pub async fn ready(&mut self, users: &[Uuid]) -> Result<i64> {
        Ok(self.states(users).await?.0)
    }

    /// How many are ready, how many failed, and why one of these did.
    async fn states(&mut self, users: &[Uuid]) -> Result<(i64, i64, Option<String>)> {
        self.transactions += 1;
        sqlx::query_as(
            "select count(*) filter (where status = 'completed'), count(*) filter (where status = 'failed'),
               max(error_message) filter (where status = 'failed')
             from public.evolution_instance_creation_queue
             where user_id = any($1)",
        )
        .bind(users)
        .fetch_one(&mut self.look)
        .await
        .context("look how many are ready")
    }

    /// How long it takes, from before the insert, until another connection sees that the user is
    /// ready; in milliseconds.
    pub async fn watch_one(&mut self, first_look: Duration) -> Result<f64> {
        let began = Instant::now();
        let user = self.one().await?;
        tokio::time::sleep_until(began + first_look).await;
        while self.states(&[user]).await?.0 == 0 {
            ensure!(began.elapsed() < PATIENCE, "a sign-up was not ready within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    }

    /// The ways of users who are ready, in the order in which they became so.
    pub async fn ways(&mut self, users: &[Uuid]) -> Result<Vec<Way>> {
        self.transactions += 1;
        sqlx::query_as(
            "select extract(epoch from created_at)::float8 as signed_up, extract(epoch from processed_at)::float8 as ready
             from public.evolution_instance_creation_queue
             where user_id = any($1)
               and status = 'completed'
             order by processed_at",
        )
        .bind(users)
        .fetch_all(&mut self.look)
        .await
        .context("read when they were ready")
    }

    /// Runs a statement of the measurement's own: a trigger, a setting, history.
    pub async fn run(&mut self, statement: &'static str) -> Result<()> {
        self.transactions += 1;
        let done = sqlx::raw_sql(statement).execute(&mut self.look).await;
        done.with_context(|| format!("run '{statement}'")).map(drop)
    }

    pub fn look(&mut self) -> &mut PgConnection {
        &mut self.look
    }
}
