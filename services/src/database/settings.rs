//! What our statements rely on, whatever the role or the database is set to. Set by statements and
//! not as options of the connection: PgBouncer refuses options that it does not know.

use sqlx::PgConnection;

/// Of a connection that works for the ledger.
const SESSION: &str = "\
    set default_transaction_isolation = 'read committed'; \
    set default_transaction_read_only = off; \
    set row_security = on; \
    set search_path = ''; \
    set datestyle = 'ISO, MDY'; \
    set intervalstyle = 'postgres'; \
    set lock_timeout = '5s'; \
    set statement_timeout = '15s'; \
    set idle_in_transaction_session_timeout = '10s'";

/// Of a migration: it sets its own limits on locks, and what it builds on a large table takes as
/// long as it takes. Its files name each schema, but for what the app's own defaults name.
const MIGRATION: &str = "\
    set default_transaction_isolation = 'read committed'; \
    set default_transaction_read_only = off; \
    set row_security = on; \
    set datestyle = 'ISO, MDY'; \
    set intervalstyle = 'postgres'; \
    set lock_timeout = 0; \
    set statement_timeout = 0; \
    set idle_in_transaction_session_timeout = 0";

/// The same as `SESSION`, of one transaction: behind a transaction pooler nothing else stays. Its
/// isolation is said by its `begin`, its limits by whoever begins it.
pub(super) const TRANSACTION: &str = "\
    set local row_security = on; \
    set local search_path = ''; \
    set local datestyle = 'ISO, MDY'; \
    set local intervalstyle = 'postgres'";

/// For a connection that has a session of its own.
pub async fn pin(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql(SESSION).execute(connection).await.map(drop)
}

/// For the session of a migration.
pub async fn pin_migration(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql(MIGRATION).execute(connection).await.map(drop)
}
