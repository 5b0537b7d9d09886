//! Why a pool gets no connection, in the server's own words: the pool only says that it waited.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgPool};
use tokio::time::{sleep, timeout};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A pool that found its connections busy so many times in a row is in need of another one.
const LOOKS: u32 = 3;
const WAITS: Duration = Duration::from_secs(5);

/// Asks for a connection where the pool has had none to spare for a while: its size counts those that it only tries to open.
/// Each reason is said once until it is over. Never returns.
pub(super) async fn say_refusals(pool: &PgPool) {
    let (mut said, mut looks) = (None, 0);
    loop {
        sleep(LOOK_EVERY).await;
        if pool.num_idle() > 0 {
            (said, looks) = (None, 0);
            continue;
        }
        looks += 1;
        if looks < LOOKS {
            continue;
        }
        let refusal = refusal(pool).await;
        if let Some(reason) = refusal.as_ref().filter(|_| refusal != said) {
            let mend = "where it has too few of them, give each role fewer: DATABASE_MAX_CONNECTIONS";
            tracing::warn!(reason, mend, "Postgres refuses connections");
        }
        if refusal.is_none() {
            looks = 0;
        }
        said = refusal;
    }
}

/// What the server says. A server that is not there says nothing.
async fn refusal(pool: &PgPool) -> Option<String> {
    match timeout(WAITS, pool.connect_options().connect()).await {
        Ok(Ok(connection)) => {
            let _ = timeout(WAITS, connection.close()).await;
            None
        }
        Ok(Err(sqlx::Error::Database(said))) => Some(said.message().to_owned()),
        Ok(Err(_)) | Err(_) => None,
    }
}
