//! Why a pool gets no connection, in the server's own words: the pool only says that it waited.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, postgres::PgConnectOptions};
use tokio::time::{sleep, timeout};

use crate::database::Database;

const ASK_EVERY: Duration = Duration::from_secs(2);
const WAITS: Duration = Duration::from_secs(5);

/// Asks the server for a connection whenever a statement got none in time. Each reason is said once
/// until it is over. Never returns.
pub(super) async fn say_refusals(database: &Database) {
    let mut said = None;
    loop {
        database.starved().await;
        let refusal = refusal(database.options()).await;
        if let Some((reason, mend)) = refusal.as_ref().filter(|_| refusal != said) {
            tracing::warn!(reason, mend, "Postgres refuses connections");
        }
        said = refusal;
        sleep(ASK_EVERY).await;
    }
}

/// What the server says, and what mends it. A server that is not there says nothing.
async fn refusal(options: &PgConnectOptions) -> Option<(String, Option<&'static str>)> {
    match timeout(WAITS, options.connect()).await {
        Ok(Ok(connection)) => {
            let _ = timeout(WAITS, connection.close()).await;
            None
        }
        Ok(Err(sqlx::Error::Database(said))) => {
            // 57P03: it starts or stops.
            let has_too_few = said.code().is_none_or(|code| code != "57P03");
            let mend =
                has_too_few.then_some("where it has too few of them, give each role fewer: DATABASE_MAX_CONNECTIONS");
            Some((said.message().to_owned(), mend))
        }
        _ => None,
    }
}
