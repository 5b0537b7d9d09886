//! What a process waits for at its start, as Kubernetes starts everything at once: Postgres, the
//! database, the migration, its rights. It waits unready and says for what, and goes on by itself.

use std::time::Duration;

use tests::servers::{self, Process, Redis, redis, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use uuid::Uuid;

use crate::{
    app::{App, Session, migrations},
    program::{printed, run, said, start},
};

/// Long enough for a loaded machine with two cores.
const PATIENCE: Duration = Duration::from_secs(60);

const NO_API: (&str, &str) = ("EVOLUTION_API_BASE_URL", "http://127.0.0.1:9");

/// A login of its own, and a database that is not there yet.
struct Later {
    login: String,
    database: String,
    superuser: Session,
    _home: App,
}

impl Later {
    async fn new() -> Self {
        let id = Uuid::new_v4().simple().to_string();
        let (login, database) = (format!("login_{id}"), format!("later_{id}"));
        let home = App::bare().await;
        let mut superuser = home.superuser().await;
        superuser.run(&format!("create role {login} login password 'secret'")).await;
        Self { login, database, superuser, _home: home }
    }

    async fn url(&self) -> String {
        servers::shared().await.postgres.url_as(&self.login, "secret", &self.database)
    }

    async fn owners_url(&self) -> String {
        servers::shared().await.postgres.url(&self.database)
    }

    async fn create(&self) -> App {
        servers::shared().await.postgres.create_named_database(&self.database).await.unwrap();
        let app = App::at(self.owners_url().await.parse().unwrap());
        app.become_supabase().await;
        app
    }
}

/// In a failover the address may lead to a replica for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_starts_on_a_replica_of_redis_waits_for_the_primary_and_says_so_once() {
    const SAID: &str = "Redis is a replica and takes no writes";
    let app = App::migrated().await;
    let primary = Redis::start(redis::Options::default()).await.unwrap();
    let replica = redis::Options::default().set("replicaof", format!("127.0.0.1 {}", primary.port()));
    let replica = Redis::start(replica).await.unwrap();
    let url = sqlx::ConnectOptions::to_url_lossy(&app.options()).to_string();
    let mut relay = Role::start_with(&url, &replica.url()).await;

    relay.waits(SAID, "not ready: Redis\n").await;
    let client = ::redis::Client::open(replica.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    ::redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut connection).await.unwrap();

    relay.answers(200, "ok\n").await;
    assert_eq!(relay.process.log().matches(SAID).count(), 1, "{}", relay.process.log());
}

struct Role {
    process: Process,
    address: String,
}

impl Role {
    async fn start(url: &str) -> Self {
        Self::start_with(url, &servers::shared().await.redis.url()).await
    }

    async fn start_with(url: &str, redis: &str) -> Self {
        let prefix = servers::prefix().replace(':', "");
        let variables = [
            ("DATABASE_URL", url),
            ("REDIS_URL", redis),
            ("REDIS_PREFIX", &prefix),
            ("HTTP_LISTEN", "127.0.0.1:0"),
            ("LOG_FORMAT", "json"),
            NO_API,
        ];
        let mut process = start(&["relay"], &variables);
        process.wait_for_log("health and metrics", PATIENCE).await.unwrap();
        let log = process.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let line = lines.find(|line| line["message"] == "health and metrics").unwrap();
        Self { process, address: line["address"].as_str().unwrap().to_owned() }
    }

    /// Says so, once, and is not ready for that reason.
    async fn waits(&mut self, log: &str, page: &str) {
        self.process.wait_for_log(log, PATIENCE).await.unwrap();
        self.answers(503, page).await;
        assert_eq!(self.process.log().matches(log).count(), 1, "{}", self.process.log());
    }

    async fn answers(&self, status: u16, page: &str) {
        let mut last = (0, String::new());
        let answered = until(PATIENCE, async || {
            last = ask(&self.address).await?;
            (last.0 == status && last.1 == page).then_some(())
        });
        assert!(answered.await.is_some(), "/readyz answers {last:?}, not {status} {page}");
    }
}

async fn ask(address: &str) -> Option<(u16, String)> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().tls_certs_only([]).timeout(PATIENCE).build().unwrap();
    let response = client.get(format!("http://{address}/readyz")).send().await.ok()?;
    Some((response.status().as_u16(), response.text().await.ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_starts_before_database_migration_and_grant_waits_unready_and_goes_on_by_itself() {
    let mut later = Later::new().await;
    let mut relay = Role::start(&later.url().await).await;

    relay.waits("waiting for Postgres: database ", "not ready: Postgres\n").await;
    later.create().await;
    relay.waits("waiting for the schema: the database has no schema sluice", "not ready: the schema\n").await;
    let migrated = run(&["migrate"], &[("DATABASE_URL", &later.owners_url().await)]).await;
    assert_eq!(migrated.status.code(), Some(0), "{}", said(&migrated));
    let refused =
        format!("waiting for rights in the database: the login {} may not use the schema sluice", later.login);
    relay.waits(&refused, "not ready: rights in the database\n").await;
    assert!(
        relay.process.log().contains(&format!("grant sluice_runtime to {}", later.login)),
        "{}",
        relay.process.log()
    );
    later.superuser.run(&format!("grant sluice_runtime to {}", later.login)).await;

    relay.answers(200, "ok\n").await;
    relay.process.terminate().unwrap();
    assert_eq!(relay.process.wait_for_exit(PATIENCE).await.unwrap().code(), Some(0), "{}", relay.process.log());
}

/// Issue 15: with only the first migration applied `/readyz` said 200.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_not_all_there_is_waited_for() {
    let app = App::new().await;
    let files = migrations();
    let (last, rest) = files.split_last().unwrap();
    let mut superuser = app.superuser().await;
    superuser.run(&rest[0]).await;
    let mut relay = Role::start(sqlx::ConnectOptions::to_url_lossy(&app.options()).as_str()).await;

    relay.waits("waiting for the schema: it is incomplete, and this program needs ", "not ready: the schema\n").await;
    for file in &rest[1..] {
        superuser.run(file).await;
    }
    relay.answers(503, "not ready: the schema\n").await;
    superuser.run(last).await;
    relay.answers(200, "ok\n").await;
}

/// A newer program has migrated it: its pods are rolled one by one.
#[tokio::test(flavor = "multi_thread")]
async fn the_newest_migration_says_that_it_is_there_and_a_newer_one_is_no_reason_to_wait() {
    let app = App::migrated().await;
    let mut superuser = app.superuser().await;
    let newest = sluice::ledger::migrations::needed().to_string();
    assert_eq!(superuser.one::<String>("select value from sluice.setting where name = 'schema'").await, newest);

    superuser.run("update sluice.setting set value = '99990101000000' where name = 'schema'").await;
    let relay = Role::start(sqlx::ConnectOptions::to_url_lossy(&app.options()).as_str()).await;

    relay.answers(200, "ok\n").await;
    app.migrate().await;
    assert_eq!(
        superuser.one::<String>("select value from sluice.setting where name = 'schema'").await,
        "99990101000000"
    );
}

#[tokio::test]
async fn a_password_that_is_wrong_is_refused_and_not_waited_for() {
    let later = Later::new().await;
    let redis = servers::shared().await.redis.url();
    let wrong = later.url().await.replace("secret", "hunter2");

    for arguments in [["relay"].as_slice(), &["queue", "stats"], &["migrate", "--wait"]] {
        let mut variables = vec![("DATABASE_URL", wrong.as_str()), ("REDIS_URL", &redis)];
        variables.extend((arguments == ["relay"]).then_some(NO_API));
        let refused = run(arguments, &variables).await;

        let said = said(&refused);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {said}");
        let text = "cannot start: Postgres does not let us in (password authentication failed for user";
        assert!(said.contains(text) && !said.contains("hunter2"), "{arguments:?}: {said}");
    }
}

/// Supabase's pooler before a project that it does not know: it says so to whoever comes.
async fn pooler_without_the_project() -> u16 {
    const FATAL: &[u8] = b"E\0\0\0\x34SFATAL\0VFATAL\0CXX000\0MTenant or user not found\0\0";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut asked = [0; 1024];
            // First it is asked for TLS.
            if client.read(&mut asked).await.is_ok() && client.write_all(b"N").await.is_ok() {
                let _ = client.read(&mut asked).await;
                let _ = client.write_all(FATAL).await;
            }
        }
    });
    port
}

#[tokio::test]
async fn a_project_that_the_pooler_does_not_know_is_refused_and_not_waited_for() {
    let url = format!("postgres://postgres.ref:hunter2@127.0.0.1:{}/postgres", pooler_without_the_project().await);
    let redis = servers::shared().await.redis.url();

    let refused = run(&["relay"], &[("DATABASE_URL", &url), ("REDIS_URL", &redis), NO_API]).await;

    let said = said(&refused);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    let text = "cannot start: the pooler knows no such project (Tenant or user not found): check the user";
    assert!(said.contains(text) && !said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn migrate_waits_for_the_database_and_a_check_until_nothing_is_pending() {
    let later = Later::new().await;
    let url = later.owners_url().await;
    let variables = [("DATABASE_URL", url.as_str())];
    let mut migration = start(&["migrate", "--wait"], &variables);
    let mut check = start(&["migrate", "--check", "--wait=2m"], &variables);
    migration.wait_for_log("waiting for Postgres: database ", PATIENCE).await.unwrap();
    check.wait_for_log("waiting for Postgres: database ", PATIENCE).await.unwrap();

    later.create().await;

    assert_eq!(migration.wait_for_exit(PATIENCE).await.unwrap().code(), Some(0), "{}", migration.log());
    assert_eq!(check.wait_for_exit(PATIENCE).await.unwrap().code(), Some(0), "{}", check.log());
    assert!(check.log().contains("up to date"), "{}", check.log());
}

/// Nothing is pending, and the slow changes are still made.
#[tokio::test]
async fn a_check_waits_for_a_migration_that_is_under_way_and_comes_back_when_its_session_is_lost() {
    const SESSION: &str = "select pid from pg_stat_activity
        where application_name = 'sluice-migrate' and datname = current_database() and query like '%from sluice.missing()%'";
    let app = App::new().await;
    let url = sqlx::ConnectOptions::to_url_lossy(&app.options()).to_string();
    let variables = [("DATABASE_URL", url.as_str())];
    let migrated = run(&["migrate"], &variables).await;
    assert_eq!(migrated.status.code(), Some(0), "{}", said(&migrated));
    let (mut migrates, mut superuser) = (app.superuser().await, app.superuser().await);
    migrates.run("select pg_advisory_lock(7318, 3)").await;
    migrates.run("revoke usage on schema sluice from sluice_runtime").await;

    let mut check = start(&["migrate", "--check", "--wait=2m"], &variables);
    let session = async |superuser: &mut Session, other_than: i32| {
        let looks = until(PATIENCE, async || {
            superuser.all::<i32>(SESSION).await.into_iter().find(|session| *session != other_than)
        });
        looks.await.expect("it looks at what is missing")
    };
    let first = session(&mut superuser, 0).await;
    superuser.run(&format!("select pg_terminate_backend({first})")).await;
    session(&mut superuser, first).await;
    migrates.run("select sluice.let_runtime_in(); select pg_advisory_unlock(7318, 3)").await;

    assert_eq!(check.wait_for_exit(PATIENCE).await.unwrap().code(), Some(0), "{}", check.log());
}

#[tokio::test]
async fn a_migration_waits_no_longer_than_it_is_told_to() {
    let nowhere = format!("postgres://ada:hunter2@127.0.0.1:{}/app", servers::free_port().unwrap());
    let at_once = run(&["migrate"], &[("DATABASE_URL", &nowhere)]).await;
    let waited = run(&["migrate", "--wait=1500ms"], &[("DATABASE_URL", &nowhere)]).await;
    let app = App::new().await;
    let url = sqlx::ConnectOptions::to_url_lossy(&app.options()).to_string();
    let pending = run(&["migrate", "--check", "--wait=1500ms"], &[("DATABASE_URL", &url)]).await;

    assert_eq!((at_once.status.code(), waited.status.code(), pending.status.code()), (Some(1), Some(1), Some(3)));
    assert!(
        said(&at_once).contains("wait for it with --wait") && !said(&at_once).contains("waiting"),
        "{}",
        said(&at_once)
    );
    assert_eq!(said(&waited).matches("waiting for Postgres").count(), 1, "{}", said(&waited));
    assert!(printed(&pending).contains("pending 20261122000001 ledger"), "{}", printed(&pending));
}
