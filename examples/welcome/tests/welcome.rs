//! The example as its reader runs it: the program as a process, real Postgres and Redis, a mailing
//! service of the test's own.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde_json::Value;
use sqlx::PgPool;
use tests::servers::{self, Process, Program, binary, until};
use tokio::{runtime::Runtime, task::spawn_blocking};

const PATIENCE: Duration = Duration::from_secs(60);

/// What the mailing service holds.
#[derive(Clone, Default)]
struct Mailing {
    contacts: Arc<Mutex<BTreeMap<String, Option<String>>>>,
    /// By their key: a key is one mail.
    mails: Arc<Mutex<BTreeMap<String, String>>>,
    /// The addresses that it was asked for, once or more often.
    asked: Arc<Mutex<BTreeSet<String>>>,
    /// Calls for a mail get no answer.
    is_silent: Arc<AtomicBool>,
    /// How many of them there were.
    unanswered: Arc<AtomicUsize>,
}

impl Mailing {
    fn router(self) -> Router {
        Router::new()
            .route("/health", get(async || Json(Value::Null)))
            .route("/contacts", post(create))
            .route("/contacts/{name}/lists/{list}", put(join))
            .route("/mails", post(mail))
            .with_state(self)
    }
}

async fn create(State(mailing): State<Mailing>, Json(body): Json<Value>) -> Response {
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let first = mailing.asked.lock().unwrap().insert(text("email"));
    match text("email").split('@').nth(1) {
        Some("refused.example") => return StatusCode::UNPROCESSABLE_ENTITY.into_response(),
        Some("busy.example") if first => {
            return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response();
        }
        Some("slow.example") if first => return StatusCode::REQUEST_TIMEOUT.into_response(),
        Some("locked.example") if first => return StatusCode::UNAUTHORIZED.into_response(),
        _ => {}
    }
    match mailing.contacts.lock().unwrap().insert(text("name"), None) {
        None => StatusCode::CREATED.into_response(),
        Some(_) => StatusCode::CONFLICT.into_response(),
    }
}

async fn join(State(mailing): State<Mailing>, Path((name, list)): Path<(String, String)>) -> StatusCode {
    match mailing.contacts.lock().unwrap().get_mut(&name) {
        Some(joined) => {
            *joined = Some(list);
            StatusCode::OK
        }
        None => StatusCode::NOT_FOUND,
    }
}

async fn mail(State(mailing): State<Mailing>, Json(body): Json<Value>) -> StatusCode {
    if mailing.is_silent.load(SeqCst) {
        mailing.unanswered.fetch_add(1, SeqCst);
        pending::<()>().await;
    }
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    mailing.mails.lock().unwrap().insert(text("idempotency_key"), text("to"));
    StatusCode::ACCEPTED
}

/// The mailing service while it lives. What it holds outlives it.
struct Service {
    /// Its tasks, so that they all end at once.
    runtime: Option<Runtime>,
    address: SocketAddr,
}

impl Service {
    /// Port 0: any.
    fn start(mailing: Mailing, address: SocketAddr) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, mailing.router()).await
        });
        Self { runtime: Some(runtime), address }
    }

    /// In the middle of whatever it does: its connections break, and its port refuses new ones.
    async fn kill(mut self) -> SocketAddr {
        let runtime = self.runtime.take().unwrap();
        spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
        self.address
    }
}

/// A runtime may not be waited for where a test ends.
impl Drop for Service {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The shop's servers, its program, and its database as its owner.
struct Shop {
    mailing: Mailing,
    service: Option<Service>,
    pool: PgPool,
    program: Process,
    _servers: (servers::Postgres, servers::Redis),
}

impl Shop {
    async fn open() -> Self {
        let postgres = servers::Postgres::start(Default::default()).await.unwrap();
        let redis = servers::Redis::start(Default::default()).await.unwrap();
        let url = postgres.create_named_database("shop").await.unwrap();
        let migrate = Program::new(binary("sluice").unwrap()).args(["migrate"]).env("DATABASE_URL", &url);
        let mut migrate = migrate.start().unwrap();
        let migrated = migrate.wait_for_exit(PATIENCE).await.unwrap();
        assert!(migrated.success(), "{}", migrate.log());
        let pool = PgPool::connect(&url).await.unwrap();
        sqlx::raw_sql(include_str!("../shop.sql")).execute(&pool).await.unwrap();

        let mailing = Mailing::default();
        let service = Service::start(mailing.clone(), ([127, 0, 0, 1], 0).into());
        let mailer = format!("http://{}", service.address);

        let program = Program::new(binary("welcome").unwrap()).args(["all"]).env("MAILER_URL", mailer);
        let program = program.env("DATABASE_URL", &url).env("REDIS_URL", redis.url()).start().unwrap();
        let shop = Self { mailing, service: Some(service), pool, program, _servers: (postgres, redis) };
        let registered = async || {
            let select = "select exists (select from sluice.workflow where name = 'welcome')";
            sqlx::query_scalar(select).fetch_one(&shop.pool).await.unwrap_or(false).then_some(())
        };
        until(PATIENCE, registered).await.expect("the program registers its workflow");
        shop
    }

    /// A customer signs up, and the run is asked for in the same transaction.
    async fn sign_up(&self, name: &str, email: &str) {
        let mut tx = self.pool.begin().await.unwrap();
        let insert = "insert into shop.customer (name, email) values ($1, $2)";
        sqlx::query(insert).bind(name).bind(email).execute(&mut *tx).await.unwrap();
        let start = "select sluice.start('welcome', $1, jsonb_build_object('email', $2::text, 'list', 'news'))";
        sqlx::query(start).bind(name).bind(email).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn is(&self, name: &str, state: &str) {
        let select = "select state = $2 from shop.customer where name = $1";
        let there = async || {
            let query = sqlx::query_scalar(select).bind(name).bind(state);
            query.fetch_one(&self.pool).await.unwrap_or(false).then_some(())
        };
        until(PATIENCE, there).await.unwrap_or_else(|| panic!("{name} is not {state}:\n{}", self.program.log()));
    }

    /// Waits until the query's one boolean is true.
    async fn until(&self, select: &'static str) {
        let there = async || self.ask::<bool>(select).await.then_some(());
        until(PATIENCE, there).await.unwrap_or_else(|| panic!("not so: {select}\n{}", self.program.log()));
    }

    async fn ask<T>(&self, select: &'static str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(select).fetch_one(&self.pool).await.unwrap()
    }
}

#[tokio::test]
async fn customers_are_welcomed_once_and_the_shops_table_follows() {
    let shop = Shop::open().await;

    for number in 0..20 {
        shop.sign_up(&format!("customer-{number}"), &format!("c{number}@example.com")).await;
    }
    for number in 0..20 {
        shop.is(&format!("customer-{number}"), "welcome").await;
    }
    // Who asks again while a run is unfinished joins it; afterwards it is a new one, with the same
    // key for its mail.
    let start = "select sluice.start('welcome', 'customer-0', '{\"email\": \"c0@example.com\", \"list\": \"news\"}')";
    sqlx::query(start).execute(&shop.pool).await.unwrap();
    let again = "select count(*) = 2 from sluice.run where subject = 'customer-0' and state = 'succeeded'";
    until(PATIENCE, async || shop.ask::<bool>(again).await.then_some(())).await.expect("a second run succeeds");

    let (contacts, mails) = (shop.mailing.contacts.lock().unwrap().len(), shop.mailing.mails.lock().unwrap().len());
    assert_eq!((contacts, mails), (20, 20));
}

#[tokio::test]
async fn what_is_refused_is_a_dead_letter_and_says_why() {
    let shop = Shop::open().await;

    shop.sign_up("refused", "ada@refused.example").await;
    shop.sign_up("no-address", "nobody").await;
    shop.is("refused", "failed").await;
    shop.is("no-address", "failed").await;

    let why: String = shop.ask("select problem from shop.customer where name = 'refused'").await;
    assert_eq!(why, "the mailer answered 422 Unprocessable Entity");
    let why: String = shop.ask("select problem from shop.customer where name = 'no-address'").await;
    assert!(why.contains("has no @"), "{why}");
    let unknown = sqlx::query("select sluice.start('nobodys', 'ada')").execute(&shop.pool).await.unwrap_err();
    assert!(unknown.to_string().contains("no workflow is called nobodys"), "{unknown}");
}

#[tokio::test]
async fn a_pause_holds_its_step_and_counts_nothing() {
    let shop = Shop::open().await;
    sqlx::query(
        "update sluice.gate set paused_at = now(), paused_by = 'ana' where scope = 'step' and name = 'join-list'",
    )
    .execute(&shop.pool)
    .await
    .unwrap();

    shop.sign_up("ada", "ada@example.com").await;
    let held = "select exists (select from sluice.step where name = 'join-list' and state = 'due')";
    until(PATIENCE, async || shop.ask::<bool>(held).await.then_some(())).await.expect("the step is due");
    assert_eq!(shop.mailing.mails.lock().unwrap().len(), 0);
    sqlx::query("update sluice.gate set paused_at = null, paused_by = null where name = 'join-list'")
        .execute(&shop.pool)
        .await
        .unwrap();

    shop.is("ada", "welcome").await;
    let attempts: i64 = shop.ask("select count(*) from sluice.attempt").await;
    assert_eq!(attempts, 3);
}

#[tokio::test]
async fn a_rate_limit_a_timeout_and_a_refused_key_end_no_run() {
    let shop = Shop::open().await;

    for name in ["busy", "slow", "locked"] {
        shop.sign_up(name, &format!("ada@{name}.example")).await;
    }
    for name in ["busy", "slow", "locked"] {
        shop.is(name, "welcome").await;
    }

    let uncounted = "select string_agg(run.subject || ' ' || attempt.outcome::text || ' ' || attempt.class, ', '
           order by run.subject)
         from sluice.attempt
         join sluice.run on run.id = attempt.run_id
         where run.subject in ('busy', 'locked')
           and attempt.outcome <> 'succeeded'";
    let uncounted: String = shop.ask(uncounted).await;
    assert_eq!(uncounted, "busy deferred rate_limited, locked deferred key_refused", "{}", shop.program.log());
}

#[tokio::test]
async fn a_mailing_service_that_is_killed_in_the_middle_costs_no_run_an_attempt() {
    let mut shop = Shop::open().await;
    shop.mailing.is_silent.store(true, SeqCst);
    for number in 0..5 {
        shop.sign_up(&format!("early-{number}"), &format!("c{number}@example.com")).await;
    }
    let under_way = async || (shop.mailing.unanswered.load(SeqCst) == 5).then_some(());
    until(PATIENCE, under_way).await.expect("five mails are under way");

    let address = shop.service.take().unwrap().kill().await;
    shop.mailing.is_silent.store(false, SeqCst);
    shop.until("select exists (select from sluice.gate where scope = 'host' and breaker = 'open')").await;
    shop.sign_up("late", "late@example.com").await;
    shop.until("select exists (select from sluice.run where subject = 'late')").await;
    shop.service = Some(Service::start(shop.mailing.clone(), address));

    for name in ["early-0", "early-1", "early-2", "early-3", "early-4", "late"] {
        shop.is(name, "welcome").await;
    }
    shop.until("select breaker = 'closed' from sluice.gate where scope = 'host'").await;
    let counted: i64 = shop.ask("select sum(failures + crashes) from sluice.step").await;
    assert_eq!(counted, 0, "{}", shop.program.log());
    assert_eq!(shop.mailing.mails.lock().unwrap().len(), 6);
}
