//! The engine-free loop: four of the five calls for each sign-up and four small commits, by 64 tasks that forget everything.
//! What it reaches on this machine is what an engine is measured against: no order, no retry, no lease, no ledger.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::{task::JoinSet, time::Instant};
use uuid::Uuid;

use super::{
    cpu::{Cpu, Meter},
    site::{Database, Site},
    stage::Stage,
};

const TASKS: usize = 64;

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

/// What a burst through it took.
#[derive(Clone, Copy, Debug)]
pub struct Loop {
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
        let mut connections = Vec::new();
        for _ in 0..TASKS {
            let connection = PgConnection::connect(&self.database.url).await;
            connections.push(connection.context("connect the loop to the database")?);
        }
        let meter = Meter { api: Some(stage.api.pid()), ..Site::meter(&stage.site) };
        let left = Arc::new(AtomicUsize::new(number));
        let before = meter.read();
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for connection in connections {
            tasks.spawn(self.task(connection).run(left.clone()));
        }
        let mut finished = Vec::new();
        while let Some(done) = tasks.join_next().await {
            finished.push(done.context("wait for a task of the loop")??);
        }
        let seconds = began.elapsed().as_secs_f64();
        let cpu = meter.read() - before;
        for connection in finished {
            connection.close().await.context("close the loop's connection")?;
        }
        Ok(Loop { seconds, cpu })
    }

    fn task(&self, connection: PgConnection) -> Task {
        Task { http: self.http.clone(), api_url: self.api_url.clone(), api_key: self.api_key, connection }
    }
}

struct Task {
    http: Client,
    api_url: String,
    api_key: &'static str,
    connection: PgConnection,
}

impl Task {
    async fn run(mut self, left: Arc<AtomicUsize>) -> Result<PgConnection> {
        let one_less = |left: usize| left.checked_sub(1);
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            self.sign_up().await?;
        }
        Ok(self.connection)
    }

    async fn sign_up(&mut self) -> Result<()> {
        let user = Uuid::new_v4();
        let name = format!("user_{user}");
        let insert = sqlx::query("insert into bare.sign_up (id, state) values ($1, 'received')").bind(user);
        insert.execute(&mut self.connection).await.context("write a sign-up")?;
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
        let done = update.bind(user).bind(state).execute(&mut self.connection).await;
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
