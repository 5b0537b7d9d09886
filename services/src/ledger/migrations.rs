//! The migrations, embedded, and how they are brought to a database: all that is pending in one
//! transaction, together with its entries in `sluice._sqlx_migrations` (never in `public`, which
//! many projects expose to their users), so that a refusal leaves nothing behind. At the end of
//! each call what depends on the database's state is brought to what it should be, and what takes
//! long on a large table is done outside that transaction. The same files may have been applied by
//! another tool before: they are safe to run again.
//!
//! The only engine SQL outside `postgres`. Needs a session of its own: never a transaction pooler.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, FromRow, PgConnection, Row,
    migrate::{AppliedMigration, Migrate, MigrateError, Migrator},
};

use crate::database::{is_held_up, said};

/// sqlx reads these two only from a file at compile time (`sqlx.toml`) or from the migrator itself,
/// as here.
const TABLE: &str = "sluice._sqlx_migrations";
const SCHEMA: &str = "sluice";

static MIGRATOR: Migrator = Migrator { table_name: Cow::Borrowed(TABLE), ..sqlx::migrate!("../migrations") };

/// How often a migration that met a lock is tried again before it is given up.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(1);
/// How long another migration may keep this one waiting.
const TURN: Duration = Duration::from_secs(300);
/// Held by the session that migrates, until its slow changes are done. (7318, 1) and (7318, 2) are
/// the relays'.
const TAKE_TURN: &str = "select pg_catalog.pg_advisory_lock(7318, 3)";
/// Rounds of slow changes: each fills some hundred rows of one table, if there is nothing else to
/// do.
const ROUNDS: u32 = 100_000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this database cannot be built on, and nothing was changed:\n{0}")]
    Unfit(String),
    #[error("migration {version} {name}: the database answered: {said}; nothing was changed")]
    Apply { version: i64, name: String, said: String },
    #[error(
        "met a lock {TRIES} times ({said}): a long transaction holds a table that a migration changes; end it \
         (select * from pg_stat_activity order by xact_start), then migrate again: nothing was changed"
    )]
    LockedOut { said: String },
    #[error(
        "migration {version} {name} was applied with another content: this program and the one that applied it \
         differ in a file that must never change; build from a clean checkout"
    )]
    Changed { version: i64, name: String },
    #[error("another migration has been running for {TURN:?}: wait for it, or end it")]
    Busy,
    #[error("the database answered: {}", said(.0))]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<MigrateError> for Error {
    fn from(error: MigrateError) -> Self {
        Self::Database(cause(error))
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
    /// What is not as it should be in the database.
    pub missing: Vec<Missing>,
}

/// Something that is not as it should be, what is lost by it, and what a person does about it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, FromRow)]
pub struct Missing {
    pub item: String,
    pub without: String,
    pub mend: String,
}

/// What an owner decides with `sluice migrate`, and where it is kept: `sluice.setting`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub name: &'static str,
    pub value: String,
}

/// What happens while migrations are applied.
#[derive(Debug, Clone)]
pub enum Progress<'a> {
    Applied {
        migration: &'a Migration,
        took: Duration,
    },
    /// This was not as it should be, and is now.
    Brought {
        item: &'a str,
    },
    /// They met a lock, were undone, and are tried again.
    Locked,
}

/// Reads how the database stands; changes nothing.
pub async fn standing(connection: &mut PgConnection) -> Result<Standing, Error> {
    let kept: bool =
        sqlx::query_scalar("select to_regclass($1) is not null").bind(TABLE).fetch_one(&mut *connection).await?;
    let applied = if kept { connection.list_applied_migrations(TABLE).await? } else { Vec::new() };
    let missing = missing(connection).await?;
    stand(&applied, missing)
}

/// Whether somebody migrates now.
pub async fn under_way(connection: &mut PgConnection) -> Result<bool, Error> {
    let held = "select exists (
        select from pg_catalog.pg_locks as lock
        join pg_catalog.pg_database as database on database.oid = lock.database
        where locktype = 'advisory' and (classid, objid) = (7318, 3) and granted and datname = current_database()
      )";
    Ok(sqlx::query_scalar(held).fetch_one(connection).await?)
}

/// How far the schema is for this program, as far as the login may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schema {
    /// All that this program needs, or more, whoever brought it.
    Ready,
    /// There is none.
    Missing,
    /// The newest migration that has been applied; none where not even that can be told.
    Behind { newest: Option<String> },
    /// The login has no rights in it.
    Closed { login: String },
}

/// The migration that this program was built with last.
pub fn needed() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// Reads how far the schema is. In the simple protocol, which every pooler can take.
pub async fn schema(connection: &mut PgConnection) -> sqlx::Result<Schema> {
    let asked = sqlx::raw_sql(
        "select schema is not null, coalesce(has_schema_privilege(schema::oid, 'usage'), false), current_user::text
         from (select to_regnamespace('sluice')) as known (schema)",
    );
    let row = asked.fetch_one(&mut *connection).await?;
    let (there, open, login): (bool, bool, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if !there {
        return Ok(Schema::Missing);
    }
    if !open {
        return Ok(Schema::Closed { login });
    }
    match newest_applied(connection).await {
        Ok(Some(newest)) if newest.parse().is_ok_and(|newest: i64| newest >= needed()) => Ok(Schema::Ready),
        Ok(newest) => Ok(Schema::Behind { newest }),
        Err(sqlx::Error::Database(said)) if said.code().as_deref() == Some(INSUFFICIENT_PRIVILEGE) => {
            Ok(Schema::Closed { login })
        }
        Err(error) => Err(error),
    }
}

pub const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// None as well where somebody has taken the ledger or its protocol away since.
async fn newest_applied(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
    let whole = sqlx::raw_sql(
        "select to_regclass('sluice.setting') is not null
           and to_regclass('sluice.run') is not null
           and to_regprocedure('sluice.missing()') is not null
           and to_regproc('sluice.claim') is not null
           and to_regproc('sluice.settle') is not null",
    );
    if !whole.fetch_one(&mut *connection).await?.try_get::<bool, _>(0)? {
        return Ok(None);
    }
    let newest = sqlx::raw_sql("select value from sluice.setting where name = 'schema'");
    newest.fetch_optional(connection).await?.map(|row| row.try_get(0)).transpose()
}

/// What is not as it should be; nothing in a database without the ledger. In the simple protocol,
/// which every pooler can take.
pub async fn missing(connection: &mut PgConnection) -> sqlx::Result<Vec<Missing>> {
    let known = sqlx::raw_sql("select to_regprocedure('sluice.missing()') is not null");
    if !known.fetch_one(&mut *connection).await?.try_get(0)? {
        return Ok(Vec::new());
    }
    let rows = sqlx::raw_sql("select item, without, mend from sluice.missing()").fetch_all(connection).await?;
    rows.iter().map(Missing::from_row).collect()
}

/// Applies what is pending, one caller at a time, brings the rest to what it should be, and returns
/// how the database stands then.
///
/// After an error the connection is to be closed: it may hold the lock that keeps others waiting.
pub async fn apply(
    connection: &mut PgConnection,
    choices: &[Choice],
    mut tell: impl FnMut(Progress<'_>),
) -> Result<Standing, Error> {
    let turn = sqlx::raw_sql(TAKE_TURN).execute(&mut *connection);
    tokio::time::timeout(TURN, turn).await.map_err(|_| Error::Busy)??;
    let mut missing = apply_patiently(connection, choices, &mut tell).await?;
    missing.extend(change_slowly(connection, &mut tell).await?);
    let applied = connection.list_applied_migrations(TABLE).await?;
    sqlx::raw_sql("select pg_catalog.pg_advisory_unlock(7318, 3)").execute(&mut *connection).await?;
    stand(&applied, missing)
}

/// Migrations give up early rather than hold up the app's sign-ups: then they are tried again.
async fn apply_patiently(
    connection: &mut PgConnection,
    choices: &[Choice],
    tell: &mut impl FnMut(Progress<'_>),
) -> Result<Vec<Missing>, Error> {
    for _ in 1..TRIES {
        match apply_once(connection, choices, tell).await {
            Err(Error::LockedOut { .. }) => tell(Progress::Locked),
            result => return result,
        }
        tokio::time::sleep(PAUSE).await;
    }
    apply_once(connection, choices, tell).await
}

/// One transaction: a refusal undoes it all.
async fn apply_once(
    connection: &mut PgConnection,
    choices: &[Choice],
    tell: &mut impl FnMut(Progress<'_>),
) -> Result<Vec<Missing>, Error> {
    let mut tx = connection.begin().await?;
    sqlx::raw_sql("set local sluice.migrating = 'on'").execute(&mut *tx).await?;
    tx.create_schema_if_not_exists(SCHEMA).await?;
    tx.ensure_migrations_table(TABLE).await?;
    let pending = stand(&tx.list_applied_migrations(TABLE).await?, Vec::new())?.pending;
    let mut applied = Vec::with_capacity(pending.len());
    for migration in &pending {
        let script = MIGRATOR.iter().find(|known| known.version == migration.version);
        let script = script.expect("a pending migration is one of ours");
        let took = tx.apply(TABLE, script).await.map_err(|error| refusal(cause(error), Some(migration)))?;
        applied.push((migration, took));
    }
    refuse_unfit(&mut tx).await?;
    for choice in choices {
        let decide = sqlx::query("select sluice.decide($1, $2)").bind(choice.name).bind(&choice.value);
        decide.execute(&mut *tx).await.map_err(|error| refusal(error, None))?;
    }
    let adapt = sqlx::query_as("select item, done, without, mend from sluice.adapt()").fetch_all(&mut *tx);
    let lines: Vec<(String, bool, Option<String>, Option<String>)> =
        adapt.await.map_err(|error| refusal(error, None))?;
    tx.commit().await?;

    applied.iter().for_each(|(migration, took)| tell(Progress::Applied { migration, took: *took }));
    let mut missing = Vec::new();
    for (item, done, without, mend) in lines {
        let (without, mend) = (without.unwrap_or_default(), mend.unwrap_or_default());
        match done {
            true => tell(Progress::Brought { item: &item }),
            false => missing.push(Missing { item, without, mend }),
        }
    }
    Ok(missing)
}

/// What the first migration refuses may have come up since.
async fn refuse_unfit(tx: &mut PgConnection) -> Result<(), Error> {
    let problems: Vec<String> =
        sqlx::query_scalar("select format('%s. To mend it: %s.', problem, mend) from sluice.unfit()")
            .fetch_all(tx)
            .await?;
    if problems.is_empty() { Ok(()) } else { Err(Error::Unfit(problems.join("\n"))) }
}

#[derive(FromRow)]
struct SlowChange {
    change: Option<String>,
    before: Option<String>,
    /// What is said where it cannot be done.
    #[sqlx(flatten)]
    missing: Missing,
}

/// A statement at a time, each for itself: what reads a large table holds no lock that a sign-up
/// waits for.
async fn change_slowly(
    connection: &mut PgConnection,
    tell: &mut impl FnMut(Progress<'_>),
) -> Result<Vec<Missing>, Error> {
    sqlx::raw_sql("set lock_timeout = '500ms'").execute(&mut *connection).await?;
    let mut failed: Vec<Missing> = Vec::new();
    let mut changed: Vec<String> = Vec::new();
    for _ in 0..ROUNDS {
        let wanted: Vec<SlowChange> =
            sqlx::query_as("select item, change, before, without, mend from sluice.slow_changes()")
                .fetch_all(&mut *connection)
                .await?;
        let next = wanted.into_iter().find(|wish| failed.iter().all(|failed| failed.item != wish.missing.item));
        let Some(SlowChange { change, before, mut missing }) = next else { break };
        let Some(change) = change else {
            failed.push(missing);
            continue;
        };
        match change_patiently(connection, before.as_deref(), &change).await {
            Ok(()) if changed.contains(&missing.item) => {}
            Ok(()) => changed.push(missing.item),
            Err(error @ sqlx::Error::Database(_)) => {
                missing.without = format!("{} ({})", missing.without, said(&error));
                failed.push(missing);
            }
            Err(error) => return Err(error.into()),
        }
    }
    sqlx::raw_sql("reset lock_timeout").execute(connection).await?;
    changed.retain(|item| failed.iter().all(|failed| failed.item != *item));
    changed.iter().for_each(|item| tell(Progress::Brought { item }));
    Ok(failed)
}

async fn change_patiently(connection: &mut PgConnection, before: Option<&str>, change: &str) -> sqlx::Result<()> {
    for left in (0..TRIES).rev() {
        let mut done = Ok(());
        // An index that was not finished is in the way of the next one.
        for statement in before.into_iter().chain([change]) {
            if done.is_ok() {
                done = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut *connection).await.map(drop);
            }
        }
        match done {
            Err(error) if left > 0 && is_held_up(&error) => tokio::time::sleep(PAUSE).await,
            done => return done,
        }
    }
    Ok(())
}

/// What file 02 refuses with: it lists all that cannot be built on.
const UNFIT: &str = "SL001";

fn refusal(error: sqlx::Error, migration: Option<&Migration>) -> Error {
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
    match migration {
        _ if code == UNFIT => Error::Unfit(said(&error)),
        _ if is_held_up(&error) => Error::LockedOut { said: said(&error) },
        Some(Migration { version, name }) => Error::Apply { version: *version, name: name.clone(), said: said(&error) },
        None => Error::Database(error),
    }
}

fn cause(error: MigrateError) -> sqlx::Error {
    match error {
        MigrateError::ExecuteMigration(error, _) | MigrateError::Execute(error) => error,
        other => sqlx::Error::Migrate(Box::new(other)),
    }
}

fn stand(applied: &[AppliedMigration], missing: Vec<Missing>) -> Result<Standing, Error> {
    let mut entries: HashMap<_, _> = applied.iter().map(|entry| (entry.version, &entry.checksum)).collect();
    let mut standing = Standing { applied: Vec::new(), pending: Vec::new(), unknown: Vec::new(), missing };
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
