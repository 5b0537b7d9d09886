//! Connections to Postgres: how many there are, that those which nobody needs go back, and that
//! what statements rely on is set on each, whatever the database says.

use std::time::Duration;

use sluice::database::{Database, Pooling};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tests::{
    evolution::{Config, server::Server},
    fleet::Fleet,
    servers::{Postgres, Proxy, postgres, redis, until},
};
use uuid::Uuid;

use crate::{
    app::{App, Session},
    pooler,
    program::{run, said},
};

/// Long enough for a loaded machine with two cores.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a test waits where nothing comes.
const GIVEN_UP: Duration = Duration::from_millis(200);

/// What somebody may have set, for every login of the database.
const CONTRARY: &str = "
    alter database NAME set default_transaction_isolation = 'serializable';
    alter database NAME set default_transaction_read_only = on;
    alter database NAME set row_security = off;
    alter database NAME set search_path = nowhere;
    alter database NAME set datestyle = 'German, DMY';
    alter database NAME set intervalstyle = 'sql_standard';
    alter database NAME set statement_timeout = '20s';
    alter database NAME set lock_timeout = '20s';
    alter database NAME set idle_in_transaction_session_timeout = '20s'";

async fn set_contrary(app: &App) {
    let mut superuser = app.superuser().await;
    let name: String = superuser.one("select current_database()::text").await;
    superuser.run(&CONTRARY.replace("NAME", &name)).await;
}

const SET: &str =
    "select concat_ws(' | ', current_setting('transaction_isolation'), current_setting('transaction_read_only'),
    current_setting('row_security'), current_setting('search_path'), current_setting('datestyle'),
    current_setting('intervalstyle'))";
const RELIED_ON: &str = r#"read committed | off | on | "" | ISO, MDY | postgres"#;

#[tokio::test]
async fn what_statements_rely_on_is_set_on_every_connection_whatever_the_database_says() {
    let app = App::migrated().await;
    set_contrary(&app).await;
    let behind = pooler::options_of(app.options().get_database().unwrap()).await;

    for (pooling, options) in [(Pooling::Session, app.options()), (Pooling::Transaction, behind)] {
        let database = Database::open(options, pooling, 2);
        let alone: (String,) = database.ask_one(SET, |ask| ask).await.unwrap();
        let mut tx = database.begin().await.unwrap();
        let within: (String,) = tx.query_as(SET).fetch_one(tx.connection()).await.unwrap();
        let waits: (String,) = tx
            .query_as("select concat_ws(' ', current_setting('lock_timeout'), current_setting('statement_timeout'))")
            .fetch_one(tx.connection())
            .await
            .unwrap();
        tx.commit().await.unwrap();

        assert_eq!(
            (alone.0.as_str(), within.0.as_str(), waits.0.as_str()),
            (RELIED_ON, RELIED_ON, "900ms 15s"),
            "{pooling:?}"
        );
    }
}

/// Issue 11: `row_security = off` stopped intake, serializable transactions lost leases.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_contrary_settings_is_migrated_and_serves_sign_ups_directly_and_through_a_pooler() {
    const USERS: i64 = 5;
    let api = Server::start(Config::default()).await.unwrap();
    for (pooling, migrated) in [("auto", false), ("transaction", true)] {
        let mut fleet = pooler::Fleet::behind(pooler::shared().await, api.base_url(), api.key()).await;
        let url = fleet.app.options().to_url_lossy().to_string();
        set_contrary(&fleet.app).await;
        if !migrated {
            let migrated = run(&["migrate"], &[("DATABASE_URL", &url)]).await;
            assert_eq!(migrated.status.code(), Some(0), "{}", said(&migrated));
            fleet.set("DATABASE_URL", &url);
        }
        fleet.set("DATABASE_POOLING", pooling);
        fleet.start(&["relay"]).await;
        fleet.start(&["worker", "create-instance", "configure-webhooks", "verify"]).await;
        let mut app = fleet.app.superuser().await;
        // The app itself writes.
        app.run("set default_transaction_read_only = off; set search_path = public").await;

        for _ in 0..USERS {
            app.sign_up(Uuid::new_v4(), "{}").await.unwrap();
        }

        let ready = "select count(*) = 5 from public.evolution_instance_creation_queue where status = 'completed'";
        fleet.until("all are ready", ready).await;
        let attempts = "select count(*) from sluice.attempt where outcome <> 'succeeded'";
        assert_eq!(app.one::<i64>(attempts).await, 0, "{pooling}");
    }
}

async fn login(fleet: &Fleet, limit: u32) -> String {
    let mut session = fleet.connect().await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "create role limited login password 'secret' connection limit {limit} in role sluice_runtime"
    )))
    .execute(&mut session)
    .await
    .unwrap();
    session.close().await.unwrap();
    fleet.postgres.url_as("limited", "secret", "app")
}

/// Issue 11: one process of each held 21 connections, and Supabase's session pool has 15.
#[tokio::test(flavor = "multi_thread")]
async fn one_process_of_each_role_and_a_person_fit_a_login_with_15_connections() {
    const USERS: i64 = 60;
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    let url = login(&fleet, 15).await;
    fleet.set("DATABASE_URL", url);
    fleet.start_roles().await.unwrap();
    let mut session = fleet.connect().await.unwrap();

    let mut most = 0;
    for user in 0..USERS {
        sqlx::query("insert into auth.users (email) values ($1)")
            .bind(format!("{user}@example.org"))
            .execute(&mut session)
            .await
            .unwrap();
    }
    let ready = until(PATIENCE, async || {
        fleet.sluice(&["queue", "stats"]).await.expect("a person finds room");
        most = most.max(number(&mut session, "select count(*) from pg_stat_activity where usename = 'limited'").await);
        let ready = "select count(*) from evolution_instance_creation_queue where status = 'completed'";
        (number(&mut session, ready).await == USERS).then_some(())
    });

    assert!(ready.await.is_some(), "not ready within {PATIENCE:?}");
    assert!(most > 4, "{most} connections were seen");
    for name in fleet.names() {
        let log = fleet.process(&name).unwrap().log();
        assert!(!log.contains("refuses connections") && !log.contains("timed out"), "{log}");
    }
    let lost = "select count(*) from sluice.attempt where outcome <> 'succeeded'";
    assert_eq!(number(&mut session, lost).await, 0);
    session.close().await.unwrap();
}

async fn number(session: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(session).await.unwrap()
}

/// Issue 11: a pool kept what it once needed while the server refused its neighbour a connection.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_nobody_needs_any_more_go_back_to_a_server_that_has_too_few() {
    let app = App::bare().await;
    let mut superuser = app.superuser().await;
    let login = format!("limited_{}", Uuid::new_v4().simple());
    superuser.run(&format!("create role {login} login password 'secret' connection limit 4")).await;
    let options = app.options().username(&login).password("secret");
    let (greedy, needy) =
        (Database::open(options.clone(), Pooling::Session, 4), Database::open(options, Pooling::Session, 4));
    let begun = futures::future::try_join_all((0..4).map(|_| greedy.begin())).await.unwrap();
    for tx in begun {
        tx.commit().await.unwrap();
    }
    let refused = tokio::time::timeout(Duration::from_secs(1), needy.takes_writes()).await;
    assert!(refused.is_err(), "there was room");

    let giving = tokio::spawn({
        let greedy = greedy.clone();
        async move { greedy.give_back(Duration::from_millis(400)).await }
    });
    // It goes on to work with one at a time.
    let let_in = until(PATIENCE, async || {
        greedy.takes_writes().await.unwrap();
        tokio::time::timeout(Duration::from_secs(1), needy.takes_writes()).await.ok()?.ok()
    });

    let let_in = let_in.await;
    let kept = greedy.status().size;
    assert!(let_in.is_some(), "the pool of {kept} keeps them");
    assert!((1..4).contains(&kept), "{kept}");
    giving.abort();
}

/// The pool of sqlx asks each connection that comes back whether it lives.
#[tokio::test]
async fn a_statement_is_one_round_trip_and_so_is_each_end_of_a_transaction() {
    const TIMES: u64 = 20;
    let app = App::bare().await;
    let proxy = Proxy::to(app.options().get_port()).await.unwrap();
    let database = Database::open(app.options().port(proxy.port()), Pooling::Session, 2);
    let ask = async || database.ask_one::<(i32,)>("select 1", |ask| ask).await.unwrap();
    // It is prepared once.
    ask().await;

    let before = proxy.sent();
    for _ in 0..TIMES {
        ask().await;
    }

    assert_eq!(proxy.sent() - before, TIMES);

    let before = proxy.sent();
    for _ in 0..TIMES {
        database.begin().await.unwrap().commit().await.unwrap();
    }

    assert_eq!(proxy.sent() - before, 2 * TIMES);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_rest_are_there_for_whoever_asks_and_never_more_than_allowed() {
    let app = App::bare().await;
    let database = Database::open(app.options().application_name("resting"), Pooling::Session, 2);
    let held = async || {
        let mut tx = database.begin().await?;
        sqlx::query("select pg_sleep(0.002)").execute(tx.connection()).await?;
        tx.commit().await
    };
    let alone = async || database.ask_one::<(i32,)>("select 1", |ask| ask).await.map(drop);
    for _ in 0..50 {
        let asked = tokio::join!(alone(), held(), alone(), held(), alone(), held());
        assert!(matches!(asked, (Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Ok(()))), "{asked:?}");
    }

    let count = "select count(*)::integer from pg_stat_activity where application_name = 'resting'";
    let (open,): (i32,) = database.ask_one(count, |ask| ask).await.unwrap();
    assert!((1..=2).contains(&open), "{open}");
}

#[tokio::test]
async fn one_lost_connection_takes_those_that_rest_with_it() {
    let app = App::bare().await;
    let proxy = Proxy::to(app.options().get_port()).await.unwrap();
    let database = Database::open(app.options().port(proxy.port()), Pooling::Session, 4);
    let ask = async || database.ask_one::<(i32,)>("select 1 from pg_sleep(0.01)", |ask| ask).await;
    assert!(matches!(tokio::join!(ask(), ask(), ask()), (Ok(_), Ok(_), Ok(_))));

    proxy.close_all();
    let lost = until(PATIENCE, async || ask().await.err()).await;

    assert!(lost.is_some(), "nothing was lost");
    ask().await.expect("the rest of them was not used");
}

/// A server whose machine is gone answers nothing: the kernel gives such a connection up after a
/// quarter of an hour, and sqlx's pool kept its place so long.
#[tokio::test]
async fn a_statement_that_is_given_up_takes_its_connection_with_it_at_once() {
    let app = App::bare().await;
    let proxy = Proxy::to(app.options().get_port()).await.unwrap();
    let database = Database::open(app.options().port(proxy.port()), Pooling::Session, 2);
    let ask = async || database.ask_one::<(i32,)>("select 1", |ask| ask).await;
    let mut tx = database.begin().await.unwrap();
    ask().await.unwrap();

    proxy.stall();
    let within = sqlx::query("select 1").execute(tx.connection());
    assert!(tokio::time::timeout(GIVEN_UP, within).await.is_err());
    drop(tx);
    assert!(tokio::time::timeout(GIVEN_UP, ask()).await.is_err());

    assert_eq!(database.status().size, 0);
    proxy.mend();
    ask().await.unwrap();
}

/// sqlx forgets a `begin` that is given up half-way: what came next over its connection was never
/// committed.
#[tokio::test]
async fn nothing_follows_a_begin_that_was_given_up() {
    let app = App::bare().await;
    let proxy = Proxy::to(app.options().get_port()).await.unwrap();
    let database = Database::open(app.options().port(proxy.port()), Pooling::Session, 1);
    let mut superuser = app.superuser().await;
    superuser.run("create table public.kept (value integer)").await;
    database.begin().await.unwrap().commit().await.unwrap();

    proxy.stall();
    assert!(tokio::time::timeout(GIVEN_UP, database.begin()).await.is_err());
    proxy.mend();
    let insert = "insert into public.kept values (1) returning value";
    assert_eq!(database.ask_one::<(i32,)>(insert, |ask| ask).await.unwrap(), (1,));

    assert_eq!(superuser.all::<i32>("select value from public.kept").await, [1]);
}

/// Issue 11: the log said only that the pool had timed out.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_of_one_connection_too_many_is_in_the_log() {
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    let url = login(&fleet, 15).await;
    fleet.set("DATABASE_URL", url);
    fleet.start("relay-1", &["relay"]).await.unwrap();
    let mut session = fleet.connect().await.unwrap();

    sqlx::query("alter role limited connection limit 0").execute(&mut session).await.unwrap();
    let end_all = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'limited'";
    assert!(number(&mut session, end_all).await > 0);
    let said = until(PATIENCE, async || {
        let log = fleet.process("relay-1").unwrap().log();
        let line = log.lines().find(|line| line.contains("Postgres refuses connections"))?;
        Some(line.to_owned())
    });

    let line = said.await.expect("the refusal is said");
    assert!(line.contains("too many connections for role") && line.contains("DATABASE_MAX_CONNECTIONS"), "{line}");
    session.close().await.unwrap();
}

/// An app with two-phase commit.
#[tokio::test]
async fn a_sign_up_is_prepared_once_the_switch_for_it_is_off() {
    let server = Postgres::start(postgres::Options::default().set("max_prepared_transactions", "5")).await.unwrap();
    let app = App::at(server.create_named_database("app").await.unwrap().parse().unwrap());
    app.become_supabase().await;
    app.migrate().await;
    let (mut session, mut relay): (Session, Session) = (app.superuser().await, app.superuser().await);
    // A relay sleeps, so that a sign-up rings it.
    relay.run("select pg_advisory_lock_shared(7318, 1)").await;
    let prepare = "begin; insert into auth.users (email) values ('ada@example.org'); prepare transaction 'ada'";

    let refused = session.refusal(prepare).await;
    session.run("rollback").await;
    session.run("update sluice.setting set value = 'off' where name = 'intake_notify'").await;
    session.run(prepare).await;
    session.run("commit prepared 'ada'").await;

    assert_eq!(refused, "0A000");
    let queued = "select status from public.evolution_instance_creation_queue";
    assert_eq!(session.all::<String>(queued).await, ["pending"]);
}

/// A migration changes what a statement reads that each connection has prepared.
#[tokio::test]
async fn a_statement_that_a_migration_made_useless_fails_once_for_each_connection() {
    let app = App::migrated().await;
    let mut owner = app.superuser().await;
    owner.run("create table public.kept (a integer); insert into public.kept values (1)").await;
    let database = Database::open(app.options(), Pooling::Session, 1);
    let asked = async || database.ask_one::<(i32,)>("select * from public.kept", |ask| ask).await;
    assert_eq!(asked().await.unwrap(), (1,));
    owner.run("alter table public.kept add b integer").await;

    let refused = asked().await.unwrap_err();
    let later = asked().await.unwrap();

    assert!(refused.to_string().contains("cached plan"), "{refused}");
    assert_eq!(later, (1,));
}
