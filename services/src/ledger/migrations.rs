//! The migrations, embedded, and how they are brought to a database. Each is one transaction together with its entry in
//! `sluice._sqlx_migrations`: never in `public`, which Supabase exposes. The same files may have been applied by another
//! tool before, since they are safe to run again.
//!
//! The only engine SQL outside `postgres`. Needs a session of its own: never a transaction pooler.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use sqlx::{
    PgConnection, Row,
    migrate::{AppliedMigration, Migrate, MigrateError, Migrator},
};

/// sqlx reads these two only from a file at compile time (`sqlx.toml`) or from the migrator itself, as here.
const TABLE: &str = "sluice._sqlx_migrations";
const SCHEMA: &str = "sluice";

static MIGRATOR: Migrator = Migrator { table_name: Cow::Borrowed(TABLE), ..sqlx::migrate!("../migrations") };

/// How often a migration that met a lock is tried again before it is given up.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(1);
/// How long another migration may keep this one waiting.
const TURN: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("migration {version} {name}: the database answered: {source}")]
    Apply { version: i64, name: String, source: MigrateError },
    #[error(
        "migration {version} {name} met a lock {TRIES} times ({source}): a long transaction holds a table that it changes; \
         end it (select * from pg_stat_activity order by xact_start), then migrate again: what was applied stays"
    )]
    LockedOut { version: i64, name: String, source: MigrateError },
    #[error(
        "migration {version} {name} was applied with another content: this program and the one that applied it \
         differ in a file that must never change; build from a clean checkout"
    )]
    Changed { version: i64, name: String },
    #[error("another migration has been running for {TURN:?}: wait for it, or end it")]
    Busy,
    #[error("the database answered: {0}")]
    Database(#[from] MigrateError),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// One migration, as people see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Migration {
    pub version: i64,
    pub name: String,
}

/// How the database stands to this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub applied: Vec<Migration>,
    pub pending: Vec<Migration>,
    /// Versions that the database has and this program does not know: a newer one migrated it.
    pub unknown: Vec<i64>,
}

/// What happens while migrations are applied.
#[derive(Debug, Clone)]
pub enum Progress<'a> {
    Applied {
        migration: &'a Migration,
        took: Duration,
    },
    /// It met a lock, and is tried again.
    Locked {
        migration: &'a Migration,
    },
}

/// Reads how the database stands; changes nothing.
pub async fn standing(connection: &mut PgConnection) -> Result<Standing, Error> {
    let kept: bool =
        sqlx::query_scalar("select to_regclass($1) is not null").bind(TABLE).fetch_one(&mut *connection).await?;
    let applied = if kept { connection.list_applied_migrations(TABLE).await? } else { Vec::new() };
    stand(&applied)
}

/// Whether the ledger is there, whoever brought it. In the simple protocol, which every pooler can take.
pub async fn is_there(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::raw_sql("select to_regclass('sluice.run') is not null").fetch_one(connection).await?.try_get(0)
}

/// Applies what is pending, one caller at a time, and returns how the database stands then.
///
/// After an error the connection is to be closed: it may hold the lock that keeps others waiting.
pub async fn apply(connection: &mut PgConnection, mut tell: impl FnMut(Progress<'_>)) -> Result<Standing, Error> {
    tokio::time::timeout(TURN, connection.lock()).await.map_err(|_| Error::Busy)??;
    connection.create_schema_if_not_exists(SCHEMA).await?;
    connection.ensure_migrations_table(TABLE).await?;
    let pending = stand(&connection.list_applied_migrations(TABLE).await?)?.pending;
    for migration in &pending {
        let took = apply_one(connection, migration, &mut tell).await?;
        tell(Progress::Applied { migration, took });
    }
    let applied = connection.list_applied_migrations(TABLE).await?;
    connection.unlock().await?;
    stand(&applied)
}

/// Migrations give up early rather than hold up the app's sign-ups: then they are tried again.
async fn apply_one(
    connection: &mut PgConnection,
    migration: &Migration,
    tell: &mut impl FnMut(Progress<'_>),
) -> Result<Duration, Error> {
    let script = MIGRATOR.iter().find(|known| known.version == migration.version);
    let script = script.expect("a pending migration is one of ours");
    let Migration { version, name } = migration.clone();
    for _ in 1..TRIES {
        match connection.apply(TABLE, script).await {
            Ok(took) => return Ok(took),
            Err(error) if met_a_lock(&error) => tell(Progress::Locked { migration }),
            Err(source) => return Err(Error::Apply { version, name, source }),
        }
        tokio::time::sleep(PAUSE).await;
    }
    connection.apply(TABLE, script).await.map_err(|source| match met_a_lock(&source) {
        true => Error::LockedOut { version, name, source },
        false => Error::Apply { version, name, source },
    })
}

fn met_a_lock(error: &MigrateError) -> bool {
    let (MigrateError::ExecuteMigration(error, _) | MigrateError::Execute(error)) = error else { return false };
    // lock_not_available, deadlock_detected
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03" || code == "40P01")
}

fn stand(applied: &[AppliedMigration]) -> Result<Standing, Error> {
    let mut entries: HashMap<_, _> = applied.iter().map(|entry| (entry.version, &entry.checksum)).collect();
    let mut standing = Standing { applied: Vec::new(), pending: Vec::new(), unknown: Vec::new() };
    for known in MIGRATOR.iter() {
        let migration = Migration { version: known.version, name: known.description.to_string() };
        match entries.remove(&known.version) {
            None => standing.pending.push(migration),
            Some(checksum) if *checksum == known.checksum => standing.applied.push(migration),
            Some(_) => return Err(Error::Changed { version: migration.version, name: migration.name }),
        }
    }
    standing.unknown.extend(entries.into_keys());
    standing.unknown.sort_unstable();
    Ok(standing)
}
