//! What stands between us and Postgres, and how to find out. A pooler does not say what it is: what
//! tells is to whom it gives a backend.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection, Row, postgres::PgConnectOptions};
use tokio::time::timeout;

/// What stands between us and Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// Nothing, or a pooler that gives each client a connection of its own.
    #[default]
    Session,
    /// A pooler that gives a connection for one transaction: no prepared statements survive, no
    /// LISTEN.
    Transaction,
}

/// How often two connections are compared: on a busy pooler, both may keep their backends for a
/// while by chance.
const ROUNDS: usize = 2;
/// How long the second connection is waited for.
const WAITS: Duration = Duration::from_secs(3);

/// Whether a pooler gives backends by the transaction to this connection and to a second one, made
/// for the question with `options`. Never true where each has a backend of its own. Where there is
/// no room for a second one, as in an emergency, or where two poolers side by side serve one each,
/// nothing is seen: false.
pub async fn is_by_transaction(one: &mut PgConnection, options: &PgConnectOptions) -> sqlx::Result<bool> {
    let first = backend(one).await?;
    let Ok(Ok((mut other, second))) = timeout(WAITS, second(options)).await else { return Ok(false) };
    let mut found = first == second;
    // In another order each time: a pooler that takes its backends in turns is seen too.
    for _ in 0..ROUNDS {
        found = found || backend(&mut other).await? != second;
        found = found || backend(one).await? != first || backend(one).await? != first;
    }
    other.close().await?;
    Ok(found)
}

/// A pooler that has no backend left lets a client in and keeps its first question waiting.
async fn second(options: &PgConnectOptions) -> sqlx::Result<(PgConnection, i32)> {
    let mut connection = options.connect().await?;
    let backend = backend(&mut connection).await?;
    Ok((connection, backend))
}

/// In the simple protocol, which every pooler can take.
async fn backend(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("select pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}
