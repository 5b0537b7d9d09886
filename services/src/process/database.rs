//! What a process waits for at its start: Postgres, its rights there, and the schema that this
//! program needs. Without them a role can do nothing, and a start is often everything at once. Here
//! is also seen what the settings cannot tell: whether an address leads where they say.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::{Instant, sleep, timeout};

use super::{Life, Refused};
use crate::{
    config::{self, Database},
    database::{self, Pooling, is_by_transaction, said, settings},
    ledger::{
        self,
        migrations::{self, INSUFFICIENT_PRIVILEGE, Schema},
        postgres::Postgres,
    },
    telemetry::Said,
};

const LOOK: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);
const CONNECTS_WITHIN: Duration = Duration::from_secs(30);

/// The ledger over a pool of its own.
pub(super) fn ledger(config: &config::Ledger, name: &str, connections: u32) -> Postgres {
    let database = database::Database::open(config.database.connect(name), config.database.pooling, connections);
    Postgres::over(database, config.registry.clone())
}

/// Tells the database which workflows this program runs. `false`: shutdown came first.
pub(super) async fn register(ledger: &Postgres, life: &Life) -> anyhow::Result<bool> {
    wait(life, async || ledger.register().await.map_err(unregistered)).await
}

fn unregistered(error: ledger::Error) -> Trouble {
    match error {
        ledger::Error::Database(error) if code(&error) == INSUFFICIENT_PRIVILEGE => rights(&said(&error), "the login"),
        error => Trouble::Away(POSTGRES, format!("it does not take the workflows of this program: {error}")),
    }
}

/// The ledger for one command of a person, who is told at once what a role would wait for.
pub async fn open(config: &config::Ledger) -> anyhow::Result<Postgres> {
    match look(&config.database, "cli").await {
        Ok(()) | Err(Trouble::Away(STANDBY, _)) => Ok(ledger(config, "cli", config.max_connections)),
        Err(Trouble::Refused(reason) | Trouble::Away(SCHEMA | RIGHTS, reason)) => Err(Refused(vec![reason]).into()),
        Err(Trouble::Away(_, reason)) => {
            anyhow::bail!("cannot connect to Postgres ({reason}): check DATABASE_URL, then try again")
        }
    }
}

/// Waits until Postgres answers, lets us in and has the schema that this program needs. `false`:
/// shutdown came first.
pub(super) async fn wait_for(database: &Database, name: &str, life: &Life) -> anyhow::Result<bool> {
    let ready = wait(life, async || look(database, name).await);
    life.shutdown.run_until_cancelled(ready).await.unwrap_or(Ok(false))
}

/// Tries, not ready, until it is done. Refuses what no waiting mends: a wrong password, a pooler
/// that the settings take for a session. `false`: shutdown came first.
async fn wait(life: &Life, attempt: impl AsyncFn() -> Result<(), Trouble>) -> anyhow::Result<bool> {
    let mut said = Said::default();
    loop {
        match attempt().await {
            Ok(()) => return Ok(true),
            Err(Trouble::Refused(reason)) => return Err(Refused(vec![reason]).into()),
            Err(Trouble::Away(what, reason)) => {
                life.readiness.wait_for(what);
                say(what, &reason, &mut said);
            }
        }
        if life.shutdown.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            return Ok(false);
        }
    }
}

fn say(what: &str, reason: &str, said: &mut Said) {
    if said.is_news(&reason) {
        tracing::warn!("waiting for {what}: {reason}");
    }
}

/// A connection with a session of its own, for migrations: their lock is the session's. A Postgres
/// that does not answer or does not know the login yet is waited for until `deadline`, if there is
/// one.
pub async fn open_session(database: &Database, deadline: Option<Instant>) -> anyhow::Result<PgConnection> {
    let options = database.connect("migrate");
    let mut said = Said::default();
    loop {
        let (what, reason) = match within(CONNECTS_WITHIN, session(&options)).await {
            Ok(connection) => return Ok(connection),
            Err(Trouble::Refused(reason)) => return Err(Refused(vec![reason]).into()),
            Err(Trouble::Away(what, reason)) => (what, reason),
        };
        if deadline.is_none_or(|deadline| Instant::now() + PAUSE > deadline) {
            let wait = if deadline.is_none() { ", or wait for it with --wait" } else { "" };
            anyhow::bail!("cannot connect to Postgres ({reason}): check DATABASE_URL{wait}");
        }
        say(what, &reason, &mut said);
        sleep(PAUSE).await;
    }
}

async fn session(options: &PgConnectOptions) -> Result<PgConnection, Trouble> {
    let mut connection = options.connect().await?;
    refuse_pooler(&mut connection, options, "migrations need a session of their own: give DATABASE_URL").await?;
    settings::pin_migration(&mut connection).await?;
    Ok(connection)
}

async fn refuse_pooler(connection: &mut PgConnection, options: &PgConnectOptions, why: &str) -> Result<(), Trouble> {
    if !is_by_transaction(connection, options).await? {
        return Ok(());
    }
    let (host, port) = (options.get_host(), options.get_port());
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Err(Trouble::Refused(format!(
        "a transaction pooler answers at {host}:{port}, and {why} the address of Postgres itself or of a pooler in session \
         mode"
    )))
}

/// What stands in the way of a start.
enum Trouble {
    /// What is not there yet, as /readyz names it, and the reason for a person.
    Away(&'static str, String),
    Refused(String),
}

const POSTGRES: &str = "Postgres";
const RIGHTS: &str = "rights in the database";
const SCHEMA: &str = "the schema";
const STANDBY: &str = "a Postgres that takes writes";

async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    let silent = |_| Err(Trouble::Away(POSTGRES, format!("no answer within {limit:?}")));
    timeout(limit, asked).await.unwrap_or_else(silent)
}

/// Over a connection of its own: a pool would keep the reason to itself.
async fn look(database: &Database, name: &str) -> Result<(), Trouble> {
    within(LOOK, ask(&database.connect(name), database.pooling)).await
}

async fn ask(options: &PgConnectOptions, pooling: Pooling) -> Result<(), Trouble> {
    let mut connection = options.connect().await?;
    if pooling == Pooling::Session {
        let why = "DATABASE_POOLING takes it for a session (auto does so on every port but 6543): set \
                   DATABASE_POOLING=transaction, or give";
        refuse_pooler(&mut connection, options, why).await?;
    }
    let schema = migrations::schema(&mut connection).await?;
    let takes_writes = database::takes_writes(&mut connection).await?;
    connection.close().await?;
    judge(schema, takes_writes)
}

fn judge(schema: Schema, takes_writes: bool) -> Result<(), Trouble> {
    let standby = "this one is a standby: give DATABASE_URL the address of the primary, or promote it";
    let missing = "the database has no schema sluice: run `sluice migrate`";
    Err(match schema {
        Schema::Ready if takes_writes => return Ok(()),
        Schema::Ready => Trouble::Away(STANDBY, standby.to_owned()),
        Schema::Closed { login } => rights(&format!("the login {login} may not use the schema sluice"), &login),
        Schema::Missing => Trouble::Away(SCHEMA, missing.to_owned()),
        Schema::Behind { newest } => {
            let newest = newest.map_or_else(|| "is incomplete".to_owned(), |newest| format!("is at {newest}"));
            let needed = migrations::needed();
            let reason = format!("it {newest}, and this program needs {needed}: run `sluice migrate` of this version");
            Trouble::Away(SCHEMA, reason)
        }
    })
}

fn rights(problem: &str, login: &str) -> Trouble {
    Trouble::Away(RIGHTS, format!("{problem}: as the database's owner, grant sluice_runtime to {login}"))
}

fn code(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    code.unwrap_or_default().into_owned()
}

/// Whether waiting mends it. What Postgres says of a login that is not there yet depends on how it
/// asks for passwords: with them, it says that the password is wrong.
impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        let said = said(&error);
        if said.to_lowercase().contains("tenant or user not found") || said.contains("tenant/user") {
            return Self::Refused(format!(
                "the pooler knows no such project ({said}): check the user (postgres.PROJECT_REF) and the host (its \
                 region) of DATABASE_URL"
            ));
        }
        match code(&error).as_str() {
            INSUFFICIENT_PRIVILEGE => rights(&said, "the login"),
            code if code.starts_with("28") && !said.contains("does not exist") => {
                Self::Refused(format!("Postgres does not let us in ({said}): check DATABASE_URL"))
            }
            _ => Self::Away(POSTGRES, said),
        }
    }
}
