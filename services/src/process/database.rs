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

/// What Postgres shows of a connection.
pub(super) fn application(name: &str) -> String {
    format!("sluice-{name}")
}

/// The ledger over a pool of its own.
pub(super) fn ledger(config: &config::Ledger, name: &str, connections: u32) -> Postgres {
    let options = config.database.connect(&application(name));
    let database = database::Database::open(options, config.database.pooling, connections);
    Postgres::over(database, config.registry.clone())
}

/// Tells the database which workflows this program runs. `false`: shutdown came first.
pub(super) async fn register(ledger: &Postgres, life: &Life) -> anyhow::Result<bool> {
    let mut said = Said::default();
    loop {
        let Err(error) = ledger.register().await else { return Ok(true) };
        unregistered(&error).say_of(life, &mut said);
        if life.shutdown.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            return Ok(false);
        }
    }
}

fn unregistered(error: &ledger::Error) -> Away {
    match error {
        ledger::Error::Database(error @ sqlx::Error::Database(database))
            if database.code().as_deref() == Some(INSUFFICIENT_PRIVILEGE) =>
        {
            rights(&said(error), "the login")
        }
        error => Away { what: POSTGRES, reason: format!("it does not take the workflows of this program: {error}") },
    }
}

/// The ledger for one command of a person, who is told at once what a role would wait for.
pub async fn open(config: &config::Ledger) -> anyhow::Result<Postgres> {
    match look(&config.database, "cli").await {
        Ok(()) | Err(Trouble::Away(Away { what: STANDBY, .. })) => Ok(ledger(config, "cli", config.max_connections)),
        Err(Trouble::Refused(reason) | Trouble::Away(Away { what: SCHEMA | RIGHTS, reason })) => {
            Err(Refused(vec![reason]).into())
        }
        Err(Trouble::Away(Away { reason, .. })) => {
            anyhow::bail!("cannot connect to Postgres ({reason}): check DATABASE_URL, then try again")
        }
    }
}

/// Waits, not ready, until Postgres answers, lets us in and has the schema that this program needs.
/// Refuses what no waiting mends: a wrong password, a pooler that the settings take for a session.
/// `false`: shutdown came first.
pub(super) async fn wait_for(database: &Database, name: &str, life: &Life) -> anyhow::Result<bool> {
    let mut said = Said::default();
    loop {
        match life.shutdown.run_until_cancelled(look(database, name)).await {
            None => return Ok(false),
            Some(Ok(())) => return Ok(true),
            Some(Err(Trouble::Refused(reason))) => return Err(Refused(vec![reason]).into()),
            Some(Err(Trouble::Away(away))) => away.say_of(life, &mut said),
        }
        if life.shutdown.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            return Ok(false);
        }
    }
}

/// A connection with a session of its own, for migrations: their lock is the session's. A Postgres
/// that does not answer or does not know the login yet is waited for until `deadline`, if there is
/// one.
pub async fn open_session(database: &Database, name: &str, deadline: Option<Instant>) -> anyhow::Result<PgConnection> {
    let options = database.connect(&application(name));
    let mut said = Said::default();
    loop {
        let away = match within(CONNECTS_WITHIN, session(&options)).await {
            Ok(connection) => return Ok(connection),
            Err(Trouble::Refused(problem)) => return Err(Refused(vec![problem]).into()),
            Err(Trouble::Away(away)) => away,
        };
        if deadline.is_none_or(|deadline| Instant::now() + PAUSE > deadline) {
            let wait = if deadline.is_none() { ", or wait for it with --wait" } else { "" };
            anyhow::bail!("cannot connect to Postgres ({}): check DATABASE_URL{wait}", away.reason);
        }
        away.say(&mut said);
        sleep(PAUSE).await;
    }
}

async fn session(options: &PgConnectOptions) -> Result<PgConnection, Trouble> {
    let mut connection = options.connect().await?;
    if is_by_transaction(&mut connection, options).await? {
        return Err(Trouble::Refused(format!(
            "a transaction pooler answers at {}, and migrations need a session of their own: give DATABASE_URL the address \
             of Postgres itself or of a pooler in session mode",
            place(options)
        )));
    }
    settings::pin_migration(&mut connection).await?;
    Ok(connection)
}

/// What is not there yet, as /readyz names it, and the reason for a person.
#[derive(Debug)]
struct Away {
    what: &'static str,
    reason: String,
}

const POSTGRES: &str = "Postgres";
const RIGHTS: &str = "rights in the database";
const SCHEMA: &str = "the schema";
const STANDBY: &str = "a Postgres that takes writes";

impl Away {
    fn say(&self, said: &mut Said) {
        let Self { what, reason } = self;
        if said.is_news(reason) {
            tracing::warn!("waiting for {what}: {reason}");
        }
    }

    /// The same of a role, whose readiness tells it too.
    fn say_of(&self, life: &Life, said: &mut Said) {
        life.readiness.wait_for(self.what);
        self.say(said);
    }
}

/// What stands in the way of a start.
enum Trouble {
    Away(Away),
    Refused(String),
}

async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    let silent = |_| Err(Trouble::Away(Away { what: POSTGRES, reason: format!("no answer within {limit:?}") }));
    timeout(limit, asked).await.unwrap_or_else(silent)
}

/// Over a connection of its own: a pool would keep the reason to itself.
async fn look(database: &Database, name: &str) -> Result<(), Trouble> {
    let options = database.connect(&application(name));
    within(LOOK, ask(&options, database.pooling)).await
}

async fn ask(options: &PgConnectOptions, pooling: Pooling) -> Result<(), Trouble> {
    let mut connection = options.connect().await?;
    if pooling == Pooling::Session && is_by_transaction(&mut connection, options).await? {
        return Err(Trouble::Refused(format!(
            "a transaction pooler answers at {}, and DATABASE_POOLING takes it for a session (auto does so on every port \
             but 6543): set DATABASE_POOLING=transaction, or give the address of Postgres itself or of a pooler in session \
             mode",
            place(options)
        )));
    }
    let schema = migrations::schema(&mut connection).await?;
    let takes_writes = database::takes_writes(&mut connection).await?;
    connection.close().await?;
    unready(schema, takes_writes).map_or(Ok(()), |away| Err(Trouble::Away(away)))
}

fn unready(schema: Schema, takes_writes: bool) -> Option<Away> {
    let standby = "this one is a standby: give DATABASE_URL the address of the primary, or promote it";
    let missing = "the database has no schema sluice: run `sluice migrate`";
    Some(match schema {
        Schema::Ready if takes_writes => return None,
        Schema::Ready => Away { what: STANDBY, reason: standby.to_owned() },
        Schema::Closed { login } => rights(&format!("the login {login} may not use the schema sluice"), &login),
        Schema::Missing => Away { what: SCHEMA, reason: missing.to_owned() },
        Schema::Behind { newest } => {
            let newest = newest.map_or_else(|| "is incomplete".to_owned(), |newest| format!("is at {newest}"));
            let needed = migrations::needed();
            let reason = format!("it {newest}, and this program needs {needed}: run `sluice migrate` of this version");
            Away { what: SCHEMA, reason }
        }
    })
}

fn rights(problem: &str, login: &str) -> Away {
    Away { what: RIGHTS, reason: format!("{problem}: as the database's owner, grant sluice_runtime to {login}") }
}

/// Whether waiting mends it. What Postgres says of a login that is not there yet depends on how it
/// asks for passwords: with them, it says that the password is wrong.
impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
        let said = said(&error);
        let is_unknown = said.contains("does not exist");
        if said.to_lowercase().contains("tenant or user not found") || said.contains("tenant/user") {
            return Self::Refused(format!(
                "the pooler knows no such project ({said}): check the user (postgres.PROJECT_REF) and the host (its \
                 region) of DATABASE_URL"
            ));
        }
        match &*code {
            INSUFFICIENT_PRIVILEGE => Self::Away(rights(&said, "the login")),
            code if code.starts_with("28") && !is_unknown => {
                Self::Refused(format!("Postgres does not let us in ({said}): check DATABASE_URL"))
            }
            _ => Self::Away(Away { what: POSTGRES, reason: said }),
        }
    }
}

fn place(options: &PgConnectOptions) -> String {
    let (host, port) = (options.get_host(), options.get_port());
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
