use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, Row};
use tests::servers::postgres::{Options, Postgres};
use tests::servers::{Database, fresh_database, fresh_database_from, shared, until};

async fn count(database: &Database, table: &'static str) -> i64 {
    let pool = database.pool().await.unwrap();
    let query = format!("select count(*) from {table}");
    let row = pool.fetch_one(sqlx::raw_sql(sqlx::AssertSqlSafe(query))).await.unwrap();
    row.get(0)
}

async fn answers(url: &str) -> Option<()> {
    let connected = tokio::time::timeout(Duration::from_millis(300), PgConnection::connect(url)).await;
    connected.ok()?.ok().map(drop)
}

#[tokio::test]
async fn every_test_gets_a_database_of_its_own() {
    let (one, other) = tokio::join!(fresh_database(), fresh_database());
    one.pool().await.unwrap().execute("create table mark ()").await.unwrap();

    let seen = other.pool().await.unwrap().fetch_one("select to_regclass('mark') is null").await.unwrap();

    assert_ne!(one.name(), other.name());
    assert!(seen.get::<bool, _>(0));
}

#[tokio::test]
async fn a_template_is_prepared_once_and_copied_for_each() {
    let prepare = async |url: &str| {
        let mut connection = PgConnection::connect(url).await?;
        // Fails where it is run twice on one database.
        connection.execute("create table mark (it int); insert into mark values (1)").await?;
        connection.close().await?;
        Ok(())
    };

    let one = fresh_database_from("marked", prepare).await;
    let other = fresh_database_from("marked", prepare).await;

    assert_ne!(one.name(), other.name());
    assert_eq!((count(&one, "mark").await, count(&other, "mark").await), (1, 1));
}

#[tokio::test]
async fn a_database_is_removed_after_its_test_has_let_go_of_it() {
    let server = Postgres::start(Options::default()).await.unwrap();
    let gone = server.create_database().await.unwrap();
    let name = gone.name().to_owned();
    let pool = gone.pool().await.unwrap(); // an open connection does not keep it
    drop(gone);

    let kept = server.create_database().await.unwrap();

    let names = sqlx::query_scalar::<_, String>("select datname from pg_database where datname like 'test%'");
    let names = names.fetch_all(&kept.pool().await.unwrap()).await.unwrap();
    assert_eq!(names, [kept.name()]);
    assert!(!names.contains(&name));
    drop(pool);
}

#[tokio::test]
async fn nobody_enters_without_the_password() {
    let database = fresh_database().await;
    let wrong = shared().await.postgres.url_as("postgres", "wrong", database.name());

    let refused = PgConnection::connect(&wrong).await.unwrap_err();

    assert!(refused.to_string().contains("password authentication failed"), "{refused}");
}

#[tokio::test]
async fn a_killed_postgres_keeps_what_it_committed_and_returns_on_its_port() {
    let mut server = Postgres::start(Options::default()).await.unwrap();
    let database = server.create_database().await.unwrap();
    let pool = database.pool().await.unwrap();
    pool.execute("create table mark (it int); insert into mark values (1)").await.unwrap();
    let before = (server.port(), server.pid());

    server.kill().await.unwrap();
    assert!(answers(database.url()).await.is_none());
    server.restart().await.unwrap();

    assert_eq!(server.port(), before.0);
    assert_ne!(server.pid(), before.1);
    assert_eq!(count(&database, "mark").await, 1);
}

#[tokio::test]
async fn a_restarted_postgres_keeps_its_data() {
    let mut server = Postgres::start(Options::default()).await.unwrap();
    let database = server.create_database().await.unwrap();
    let pool = database.pool().await.unwrap();
    pool.execute("create table mark (it int); insert into mark values (1)").await.unwrap();

    server.restart().await.unwrap();

    assert_eq!(count(&database, "mark").await, 1);
}

#[tokio::test]
async fn a_paused_postgres_answers_nothing_until_it_is_resumed() {
    let mut server = Postgres::start(Options::default()).await.unwrap();
    let url = server.url("postgres");
    let mut open = PgConnection::connect(&url).await.unwrap();

    server.pause().unwrap();
    let over_a_new_connection = answers(&url).await;
    let over_an_open_one = tokio::time::timeout(Duration::from_millis(300), open.execute("select 1")).await;
    server.resume().unwrap();

    assert!(over_a_new_connection.is_none());
    assert!(over_an_open_one.is_err());
    assert!(until(Duration::from_secs(10), async || answers(&url).await).await.is_some());
}

#[tokio::test]
async fn pg_cron_schedules_jobs_where_it_is_asked_for() {
    let server = Postgres::start(Options::default().cron("app")).await.unwrap();
    let url = server.create_named_database("app").await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();

    connection.execute("create extension pg_cron").await.unwrap();
    let jobs = "select cron.schedule('tick', '*/5 * * * *', 'select 1')";

    assert_eq!(connection.fetch_one(jobs).await.unwrap().get::<i64, _>(0), 1);
}

#[tokio::test]
async fn a_postgres_that_cannot_start_says_why() {
    let refused = Postgres::start(Options::default().set("shared_buffers", "much")).await.err().unwrap();

    let message = refused.to_string();
    assert!(message.contains("did not start") && message.contains("shared_buffers"), "{message}");
}
