//! Pools, and the wait for Postgres at the start: without it a role can do nothing, and a start is often everything at
//! once. Here is also seen what the settings cannot tell: whether an address leads where they say.

use std::time::Duration;

use anyhow::Context;
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Refused;
use crate::{
    config::{self, Database},
    database::{Pooling, is_by_transaction},
    ledger::{self, migrations, postgres::Postgres},
};

/// How long a caller waits for a connection: longer waits hide that there are too few.
const ACQUIRE: Duration = Duration::from_secs(5);
/// A connection that nobody needs goes back to the server, which may have none left for others.
const IDLE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);
const CONNECTS_WITHIN: Duration = Duration::from_secs(30);

/// What our statements rely on, whatever the role or the database is set to. Not as options of the connection: PgBouncer
/// refuses those that it does not know.
const SESSION: &str = "\
    set lock_timeout = '5s'; \
    set statement_timeout = '15s'; \
    set idle_in_transaction_session_timeout = '10s'; \
    set default_transaction_isolation = 'read committed'; \
    set default_transaction_read_only = off; \
    set row_security = on; \
    set search_path = ''; \
    set datestyle = 'ISO, MDY'; \
    set intervalstyle = 'postgres'";

/// Opens no connection yet. `name` is what Postgres shows. A connection that died is noticed by whoever uses it, who tries
/// again: asking each one before each use would cost a round trip.
fn pool(database: &Database, name: &str, connections: u32) -> PgPool {
    let options = PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE).test_before_acquire(false);
    let options = match database.pooling {
        Pooling::Session => options.idle_timeout(IDLE).after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SESSION).execute(connection).await.map(drop) })
        }),
        // Nothing that is set would stay.
        Pooling::Transaction => options.idle_timeout(IDLE),
    };
    options.connect_lazy_with(database.connect(&application(name)))
}

/// What Postgres shows of a connection.
pub(super) fn application(name: &str) -> String {
    format!("sluice-{name}")
}

/// The ledger over a pool of its own.
pub(super) fn ledger(config: &config::Ledger, name: &str, connections: u32) -> Postgres {
    let pool = pool(&config.database, name, connections);
    Postgres::new(pool, config.database.pooling, config.registry.clone())
}

/// Tells the database which workflows this program runs, and waits for a Postgres that does not answer. `false`: shutdown
/// came first.
pub(super) async fn register(ledger: &Postgres, shutdown: &CancellationToken) -> anyhow::Result<bool> {
    loop {
        match ledger.register().await {
            Ok(()) => return Ok(true),
            Err(error) if is_refused(&error) => return Err(error).context("register the workflows"),
            Err(error) => tracing::warn!(%error, "cannot register the workflows; trying again"),
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            return Ok(false);
        }
    }
}

/// 42: what is there, or what we may do, is not as it must be; no waiting mends that.
fn is_refused(error: &ledger::Error) -> bool {
    let ledger::Error::Database(sqlx::Error::Database(said)) = error else { return false };
    said.code().is_some_and(|code| code.starts_with("42"))
}

/// The ledger for one command of a person, who is told at once what a role would wait for.
pub async fn open(config: &config::Ledger) -> anyhow::Result<Postgres> {
    match timeout(LOOK, look(&config.database, "cli")).await {
        Ok(Look::Ledger) => Ok(ledger(config, "cli", config.max_connections)),
        Ok(Look::Refused(reason)) => Err(Refused(vec![reason]).into()),
        Ok(Look::Away(reason)) => {
            anyhow::bail!("Postgres does not answer ({reason}): check DATABASE_URL, then try again")
        }
        Err(_) => anyhow::bail!("Postgres does not answer within {LOOK:?}: check DATABASE_URL, then try again"),
    }
}

/// Waits until Postgres answers and refuses one without a ledger, or behind a pooler that we take for a session. `false`:
/// shutdown came first.
pub(super) async fn wait_for(database: &Database, name: &str, shutdown: &CancellationToken) -> anyhow::Result<bool> {
    let mut said = String::new();
    loop {
        let looked = match shutdown.run_until_cancelled(timeout(LOOK, look(database, name))).await {
            None => return Ok(false),
            Some(looked) => looked.unwrap_or_else(|_| Look::Away(format!("no answer within {LOOK:?}"))),
        };
        match looked {
            Look::Ledger => return Ok(true),
            Look::Refused(reason) => return Err(Refused(vec![reason]).into()),
            Look::Away(reason) if reason != said => {
                tracing::warn!("waiting for Postgres: {reason}");
                said = reason;
            }
            Look::Away(_) => {}
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            return Ok(false);
        }
    }
}

/// A connection with a session of its own, for migrations: their lock is the session's.
pub async fn open_session(database: &Database, name: &str) -> anyhow::Result<PgConnection> {
    let options = database.connect(&application(name));
    let connecting = timeout(CONNECTS_WITHIN, options.connect());
    let connecting = connecting.await.with_context(|| format!("connect to Postgres within {CONNECTS_WITHIN:?}"))?;
    let mut connection = connecting.context("connect to Postgres: check DATABASE_URL")?;
    if is_by_transaction(&mut connection, &options).await.context("ask Postgres for a session")? {
        let problem = format!(
            "a transaction pooler answers at {}, and migrations need a session of their own: give DATABASE_URL the address \
             of Postgres itself or of a pooler in session mode",
            place(&options)
        );
        return Err(Refused(vec![problem]).into());
    }
    Ok(connection)
}

enum Look {
    Ledger,
    Away(String),
    Refused(String),
}

/// Over a connection of its own: a pool would keep the reason to itself.
async fn look(database: &Database, name: &str) -> Look {
    let options = database.connect(&application(name));
    match ask(&options, database.pooling).await {
        Ok(Found::Ledger) => Look::Ledger,
        Ok(Found::Nothing) => Look::Refused("the database has no ledger: run `sluice migrate`".to_owned()),
        Ok(Found::TransactionPooler) => Look::Refused(format!(
            "a transaction pooler answers at {}, and DATABASE_POOLING takes it for a session (auto does so on every port \
             but 6543): set DATABASE_POOLING=transaction, or give the address of Postgres itself or of a pooler in session \
             mode",
            place(&options)
        )),
        Err(error) => {
            // 28: who we are; 3D: which database; 42501: what we may see.
            let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
            match code.starts_with("28") || code.starts_with("3D") || code == "42501" {
                true => Look::Refused(format!("Postgres does not let us in ({error}): check DATABASE_URL")),
                false => Look::Away(error.to_string()),
            }
        }
    }
}

enum Found {
    Ledger,
    Nothing,
    TransactionPooler,
}

async fn ask(options: &PgConnectOptions, pooling: Pooling) -> sqlx::Result<Found> {
    let mut connection = options.connect().await?;
    if pooling == Pooling::Session && is_by_transaction(&mut connection, options).await? {
        return Ok(Found::TransactionPooler);
    }
    let there = migrations::is_there(&mut connection).await?;
    connection.close().await?;
    Ok(if there { Found::Ledger } else { Found::Nothing })
}

fn place(options: &PgConnectOptions) -> String {
    format!("{}:{}", options.get_host(), options.get_port())
}
