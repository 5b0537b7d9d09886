//! The engine-free loop: four of the five calls for each sign-up and four small commits, by 64
//! tasks that forget everything. What it reaches on this machine, at once or in a stream, is what
//! an engine is measured against: no order, no retry, no lease, no ledger.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgPoolOptions};
use tokio::{task::JoinSet, time::Instant};
use uuid::Uuid;

use super::{
    cpu::{Cpu, Meter},
    site::{Database, Site},
    stage::Stage,
    steady::LEAD_IN,
};

const TASKS: u32 = 64;

const TABLE: &str = "create schema bare;
    create table bare.sign_up (
      id uuid primary key,
      state text not null,
      updated_at timestamptz not null default now()
    )";

pub struct Bare {
    http: Client,
    api_url: String,
    api_key: &'static str,
    database: Database,
}

/// What a burst or a stream through it took.
#[derive(Clone, Copy, Debug)]
pub struct Loop {
    pub users: usize,
    pub seconds: f64,
    /// Its own time is the bench's.
    pub cpu: Cpu,
}

impl Bare {
    pub async fn prepare(stage: &Stage, database: &Database) -> Result<Self> {
        let mut connection = PgConnection::connect(&database.url).await.context("connect the loop to the database")?;
        sqlx::raw_sql(TABLE).execute(&mut connection).await.context("make the loop's table")?;
        connection.close().await.context("close the connection")?;
        let http = Client::builder().build().context("make an HTTP client")?;
        Ok(Self { http, api_url: stage.api.url.clone(), api_key: stage.api.key, database: database.clone() })
    }

    pub async fn burst(&self, stage: &Stage, number: usize) -> Result<Loop> {
        let connections = self.connect().await?;
        let meter = meter(stage);
        let left = Arc::new(AtomicUsize::new(number));
        let before = meter.read();
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let (mut task, left) = (self.task(&connections).await?, left.clone());
            tasks.spawn(async move {
                let one_less = |left: usize| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
                    task.sign_up().await?;
                }
                anyhow::Ok(())
            });
        }
        await_all(&mut tasks).await?;
        let taken = Loop { users: number, seconds: began.elapsed().as_secs_f64(), cpu: meter.read() - before };
        connections.close().await;
        Ok(taken)
    }

    /// So many sign-ups a second, evenly, after some that are not measured.
    pub async fn stream(&self, stage: &Stage, rate: f64, seconds: f64) -> Result<Loop> {
        let connections = self.connect().await?;
        let meter = meter(stage);
        self.evenly(&connections, rate, LEAD_IN).await?;
        let before = meter.read();
        let began = Instant::now();
        let users = self.evenly(&connections, rate, seconds).await?;
        let taken = Loop { users, seconds: began.elapsed().as_secs_f64(), cpu: meter.read() - before };
        connections.close().await;
        Ok(taken)
    }

    async fn evenly(&self, connections: &PgPool, rate: f64, seconds: f64) -> Result<usize> {
        let number = (rate * seconds).round() as usize;
        let mut evenly = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
        let mut tasks = JoinSet::new();
        for _ in 0..number {
            evenly.tick().await;
            let mut task = self.task(connections).await?;
            tasks.spawn(async move { task.sign_up().await });
        }
        await_all(&mut tasks).await?;
        Ok(number)
    }

    async fn connect(&self) -> Result<PgPool> {
        let pool = PgPoolOptions::new().max_connections(TASKS).min_connections(TASKS).test_before_acquire(false);
        pool.connect(&self.database.url).await.context("connect the loop to the database")
    }

    async fn task(&self, connections: &PgPool) -> Result<Task> {
        let connection = connections.acquire().await.context("take a connection")?;
        Ok(Task { http: self.http.clone(), api_url: self.api_url.clone(), api_key: self.api_key, connection })
    }
}

fn meter(stage: &Stage) -> Meter {
    Meter { api: Some(stage.api.pid()), ..Site::meter(&stage.site) }
}

async fn await_all(tasks: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(done) = tasks.join_next().await {
        done.context("wait for a task of the loop")??;
    }
    Ok(())
}

struct Task {
    http: Client,
    api_url: String,
    api_key: &'static str,
    connection: PoolConnection<Postgres>,
}

impl Task {
    async fn sign_up(&mut self) -> Result<()> {
        let user = Uuid::new_v4();
        let name = format!("user_{user}");
        let insert = sqlx::query("insert into bare.sign_up (id, state) values ($1, 'received')").bind(user);
        insert.execute(&mut *self.connection).await.context("write a sign-up")?;
        let token = Uuid::new_v4();
        let body = json!({"instanceName": name, "token": token, "integration": "WHATSAPP-BAILEYS", "qrcode": false});
        self.call(Method::POST, "/instance/create", Some(body)).await?;
        self.write(user, "created").await?;
        self.call(Method::POST, &format!("/webhook/set/{name}"), Some(webhook())).await?;
        self.write(user, "configured").await?;
        let webhook = self.call(Method::GET, &format!("/webhook/find/{name}"), None).await?;
        ensure!(webhook.get("enabled") == Some(&json!(true)), "the webhook is not there: {webhook}");
        self.call(Method::GET, &format!("/instance/connectionState/{name}"), None).await?;
        self.write(user, "ready").await
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let mut request = self.http.request(method, format!("{}{path}", self.api_url)).header("apikey", self.api_key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.and_then(reqwest::Response::error_for_status);
        answer.with_context(|| format!("call {path}"))?.json().await.with_context(|| format!("read {path}"))
    }

    async fn write(&mut self, user: Uuid, state: &'static str) -> Result<()> {
        let update = sqlx::query("update bare.sign_up set state = $2, updated_at = now() where id = $1");
        let done = update.bind(user).bind(state).execute(&mut *self.connection).await;
        done.context("write a sign-up").map(drop)
    }
}

/// What Sluice asks for with its default settings.
fn webhook() -> Value {
    json!({"webhook": {
        "enabled": true,
        "url": "http://127.0.0.1:9/functions/v1/evolution-webhook-handler",
        "events": ["CONNECTION_UPDATE", "MESSAGES_UPSERT", "QRCODE_UPDATED"],
        "headers": {},
        "byEvents": false,
        "base64": false,
    }})
}
