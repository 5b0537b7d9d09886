//! The user's app as the tests see it: a Supabase-like database, with or without the replaced
//! set-up in it, and connections as the roles that use it. `app_postgres` is what Supabase calls
//! `postgres`: no superuser.

use std::path::Path;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tests::servers;
use uuid::Uuid;

const SUPABASE: &str = tests::fleet::SUPABASE;
const EXISTING: &str = include_str!("sql/existing.sql");

/// Whether a relay sleeps, and is woken by a sign-up.
pub const RELAY_LISTENS: &str = "select exists (
    select from pg_locks
    join pg_database on pg_database.oid = pg_locks.database
    where locktype = 'advisory' and (classid, objid) = (7318, 1) and granted and datname = current_database()
  )";

pub struct App {
    options: PgConnectOptions,
    _database: Option<servers::Database>,
}

impl App {
    /// A database without anything of the app's or ours in it.
    pub async fn bare() -> Self {
        Self::of(servers::fresh_database().await)
    }

    /// A new Supabase project.
    pub async fn new() -> Self {
        let prepare = async |app: &App| app.become_supabase().await;
        Self::copy_of("supabase", prepare).await
    }

    /// A project that the replaced set-up has worked in for some weeks (see `sql/existing.sql`).
    pub async fn existing() -> Self {
        let prepare = async |app: &App| {
            app.become_supabase().await;
            app.become_existing().await;
        };
        Self::copy_of("existing", prepare).await
    }

    /// A new project with Sluice in it.
    pub async fn migrated() -> Self {
        let app = Self::new().await;
        app.migrate().await;
        app
    }

    /// An existing project with Sluice in it.
    pub async fn adopted() -> Self {
        let app = Self::existing().await;
        app.migrate().await;
        app
    }

    /// On a server and database of the caller's own, which must outlive this.
    pub fn at(options: PgConnectOptions) -> Self {
        Self { options, _database: None }
    }

    async fn copy_of(template: &str, prepare: impl AsyncFnOnce(&App)) -> Self {
        let prepare = async |url: &str| {
            prepare(&Self::at(url.parse()?)).await;
            Ok(())
        };
        let app = Self::of(servers::fresh_database_from(template, prepare).await);
        // A copy belongs to whoever copied it.
        let mut superuser = app.superuser().await;
        let name: String = superuser.one("select current_database()::text").await;
        superuser.run(&format!("alter database {name} owner to app_postgres")).await;
        app
    }

    fn of(database: servers::Database) -> Self {
        Self { options: database.url().parse().unwrap(), _database: Some(database) }
    }

    pub async fn become_supabase(&self) {
        self.superuser().await.run(SUPABASE).await;
    }

    pub async fn become_existing(&self) {
        self.owner().await.run(EXISTING).await;
    }

    /// Applies every migration in order, each in its own transaction, as the role that Supabase's
    /// CLI has.
    pub async fn migrate(&self) {
        self.try_migrate().await.unwrap();
    }

    pub async fn try_migrate(&self) -> Result<(), sqlx::Error> {
        let mut owner = self.owner().await;
        for sql in migrations() {
            let mut transaction = owner.0.begin().await?;
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    pub async fn superuser(&self) -> Session {
        Session(self.options.connect().await.unwrap())
    }

    pub async fn owner(&self) -> Session {
        self.login("app_postgres").await
    }

    /// A session that Postgres takes for one of `role`'s own.
    pub async fn login(&self, role: &str) -> Session {
        let mut session = self.superuser().await;
        session.run(&format!("set session authorization {role}")).await;
        session
    }

    /// As PostgREST works for a signed-in user.
    pub async fn user(&self, user: Uuid) -> Session {
        let mut session = self.login("authenticated").await;
        session.run(&format!(r#"set request.jwt.claims = '{{"sub":"{user}","role":"authenticated"}}'"#)).await;
        session
    }

    /// As the auth service does it: a row in `auth.users`, whose trigger makes the profile.
    pub async fn sign_up(&self, user: Uuid) -> Result<(), sqlx::Error> {
        self.login("supabase_auth_admin").await.sign_up(user, "{}").await
    }

    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }
}

pub struct Session(pub PgConnection);

impl Session {
    /// Any number of statements, none of which may fail.
    pub async fn run(&mut self, sql: &str) -> u64 {
        match self.attempt(sql).await {
            Ok(rows) => rows,
            Err(error) => panic!("{error}\nin: {sql}"),
        }
    }

    pub async fn attempt(&mut self, sql: &str) -> Result<u64, sqlx::Error> {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.0).await?;
        Ok(done.rows_affected())
    }

    /// The SQLSTATE that the statement fails with.
    pub async fn refusal(&mut self, sql: &str) -> String {
        let error = self.attempt(sql).await.expect_err("the statement is refused");
        error.as_database_error().and_then(|error| error.code()).expect("the database refuses it").into_owned()
    }

    pub async fn one<T>(&mut self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut self.0).await.unwrap()
    }

    pub async fn all<T>(&mut self, sql: &str) -> Vec<T>
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&mut self.0).await.unwrap()
    }

    pub async fn sign_up(&mut self, user: Uuid, metadata: &str) -> Result<(), sqlx::Error> {
        sqlx::query("insert into auth.users (id, email, raw_user_meta_data) values ($1, $2, $3::jsonb)")
            .bind(user)
            .bind(format!("{user}@example.org"))
            .bind(metadata)
            .execute(&mut self.0)
            .await?;
        Ok(())
    }
}

/// A run of a workflow of the app's own for this user, and what it works on.
pub fn another_workflows(user: Uuid) -> String {
    format!(
        "insert into sluice.run (id, workflow, version, subject, resource, deadline_at)
         values (gen_random_uuid(), 'welcome', 1, '{user}', 'welcome:{user}', now() + interval '1 day');
         insert into sluice.resource (name, subject, workflow, secret, created_at)
         values ('welcome:{user}', '{user}', 'welcome', 'a-secret', now() - interval '1 day')"
    )
}

/// The users of `sql/existing.sql`, by number.
pub fn existing_user(number: u8) -> Uuid {
    format!("00000000-0000-4000-8000-0000000000{number:02}").parse().unwrap()
}

/// Every migration, in order.
pub fn migrations() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    assert!(!files.is_empty(), "there are no migrations to test");
    files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
}
