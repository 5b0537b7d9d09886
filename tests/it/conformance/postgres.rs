//! The ledger in Postgres as the suite sees it: a fresh database with the app's tables and ours,
//! the ledger working as the services' own role. Time goes by in that every moment in the ledger's
//! tables moves back.

use std::{sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice::{
    database::{self, Pooling},
    ledger::postgres::Postgres,
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tests::servers::{self, Database, fresh_database_from, until};
use workflows::{
    definition::Registry,
    ids::{ResourceName, RunId},
    state::{RunState, Spent},
    whatsapp::names::UserId,
};

use super::{
    bench::{Bench, LEASE, registry},
    world::{AttemptSeen, Budget, LetterSeen, Moment, ResourceSeen, RowSeen, StepSeen, World},
};
use crate::{app::App, pooler};

pub struct InPostgres {
    ledger: Postgres,
    /// As the superuser, for what the services may not do.
    pool: PgPool,
    services: database::Database,
    url: String,
    /// What a test made of the schema, by statements.
    changes: Vec<String>,
    _database: Option<Database>,
}

pub async fn bench() -> Bench<InPostgres> {
    let database = database().await;
    let services = services(database.url(), 4);
    bench_with(database, services).await
}

/// Each transaction on another backend than the one before.
pub async fn bench_through_a_pooler() -> Bench<InPostgres> {
    let database = database().await;
    let options = pooler::options_of(database.name()).await;
    let services = database::Database::open(options, Pooling::Transaction, 4);
    // The pooler takes in turns what it has, so it must have two.
    for both in [services.begin().await.unwrap(), services.begin().await.unwrap()] {
        both.commit().await.unwrap();
    }
    bench_with(database, services).await
}

async fn database() -> Database {
    let prepare = async |url: &str| {
        let app = App::at(url.parse()?);
        app.become_supabase().await;
        app.migrate().await;
        Ok(())
    };
    fresh_database_from("conformance", prepare).await
}

fn services(url: &str, connections: u32) -> database::Database {
    services_by(Pooling::Session, url, connections)
}

fn services_by(pooling: Pooling, url: &str, connections: u32) -> database::Database {
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.application_name("services").options([("role", "sluice_runtime")]);
    database::Database::open(options, pooling, connections)
}

async fn bench_with(database: Database, services: database::Database) -> Bench<InPostgres> {
    let world = InPostgres::at(database.url(), services).await;
    wait_until_leases_may_end(&world.pool).await;
    Bench::new(InPostgres { _database: Some(database), ..world })
}

impl InPostgres {
    async fn at(url: &str, services: database::Database) -> Self {
        let pool = PgPoolOptions::new().max_connections(2).connect(url).await.unwrap();
        let ledger = Postgres::over(services.clone(), Arc::new(registry()));
        ledger.register().await.unwrap();
        Self { ledger, pool, services, url: url.to_owned(), changes: Vec::new(), _database: None }
    }

    /// Changes the schema, also where the suite goes from here.
    #[cfg(feature = "mutants")]
    pub async fn change(&mut self, statement: String) -> sqlx::Result<()> {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.clone())).execute(&self.pool).await?;
        self.changes.push(statement);
        Ok(())
    }

    /// The same suite on a server of the caller's own, which must outlive it.
    pub async fn on(&self, server: &servers::Postgres) -> Bench<Self> {
        let url = server.create_named_database("conformance").await.unwrap();
        let app = App::at(url.parse().unwrap());
        app.become_supabase().await;
        app.migrate().await;
        let world = Self::at(&url, services(&url, 4)).await;
        for statement in &self.changes {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement.clone())).execute(&world.pool).await.unwrap();
        }
        Bench::new(world)
    }

    /// Claims of events are so much older.
    pub async fn advance_events(&self, by: Duration) {
        let update = "update sluice.event set claimed_until = claimed_until - make_interval(secs => $1)";
        sqlx::query(update).bind(by.as_secs_f64()).execute(&self.pool).await.unwrap();
    }

    /// As the superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same ledger over more connections of its own.
    pub fn widely(&self, connections: u32) -> Postgres {
        Postgres::over(services(&self.url, connections), Arc::new(registry()))
    }

    /// The same ledger over a connection that is used as this pooling allows.
    pub fn pooled(&self, pooling: Pooling) -> Postgres {
        Postgres::over(services_by(pooling, &self.url, 1), Arc::new(registry()))
    }

    /// As the superuser.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// No lease ends before Postgres has been up for one lease.
async fn wait_until_leases_may_end(pool: &PgPool) {
    let up = async || {
        let select = "select now() > pg_postmaster_start_time() + make_interval(secs => $1)";
        let up: bool = sqlx::query_scalar(select).bind(LEASE.as_secs_f64()).fetch_one(pool).await.unwrap();
        up.then_some(())
    };
    until(Duration::from_secs(30), up).await.expect("Postgres is up for one lease");
}

impl World for InPostgres {
    type Ledger = Postgres;

    fn ledger(&self) -> &Postgres {
        &self.ledger
    }

    async fn build(&self, registry: Registry) -> Postgres {
        let ledger = Postgres::over(self.services.clone(), Arc::new(registry));
        ledger.register().await.unwrap();
        ledger
    }

    async fn run(&self, run: RunId) -> RunState {
        let select = "select state from sluice.run where id = $1";
        let state: String = sqlx::query_scalar(select).bind(run.uuid()).fetch_one(&self.pool).await.unwrap();
        labelled(state)
    }

    async fn step(&self, run: RunId, position: i16) -> Option<StepSeen> {
        type Row = (String, i32, i32, i32, i32, i32, Option<bool>, Option<Value>);
        let select = "select state, generation, failures, crashes, send_backs, defers,
               case when state = 'due' then due_at <= clock_timestamp() end, output
             from sluice.step
             where run_id = $1
               and position = $2";
        let row: Option<Row> =
            sqlx::query_as(select).bind(run.uuid()).bind(position).fetch_optional(&self.pool).await.unwrap();
        let (state, generation, failures, crashes, send_backs, defers, due, output) = row?;
        let count = |number: i32| u32::try_from(number).unwrap();
        let moment = match due {
            None => Moment::Waits,
            Some(true) => Moment::Now,
            Some(false) => Moment::Later,
        };
        let spent = Spent {
            failures: count(failures),
            crashes: count(crashes),
            send_backs: count(send_backs),
            defers: count(defers),
        };
        Some(StepSeen { state: labelled(state), generation, spent, moment, output })
    }

    async fn attempts(&self, run: RunId) -> Vec<AttemptSeen> {
        let select = "select position, outcome, error from sluice.attempt where run_id = $1 order by id";
        let rows: Vec<(i16, String, Option<String>)> =
            sqlx::query_as(select).bind(run.uuid()).fetch_all(&self.pool).await.unwrap();
        rows.into_iter().map(|(position, outcome, error)| AttemptSeen { position, outcome, error }).collect()
    }

    async fn dead_letters(&self, run: RunId) -> Vec<LetterSeen> {
        let select = "select position, reason, class, error, resolution
             from sluice.dead_letter
             where run_id = $1
             order by id";
        type Row = (i16, String, Option<String>, Option<String>, Option<String>);
        let rows: Vec<Row> = sqlx::query_as(select).bind(run.uuid()).fetch_all(&self.pool).await.unwrap();
        rows.into_iter()
            .map(|(position, reason, class, error, resolution)| {
                let (reason, class) = (labelled(reason), class.map(labelled));
                LetterSeen { position, reason, class, error, resolution }
            })
            .collect()
    }

    async fn events(&self, run: RunId) -> Vec<String> {
        let select = "select event.routing_key
            from sluice.event
            join sluice.run on run.id = event.run_id
            where event.run_id = $1
              -- The workflow's own are not the engine's.
              and event.routing_key like run.workflow || '.%'
            order by event.sequence";
        sqlx::query_scalar(select).bind(run.uuid()).fetch_all(&self.pool).await.unwrap()
    }

    async fn resource(&self, name: &ResourceName) -> ResourceSeen {
        let select = "select secret, memory from sluice.resource where name = $1";
        let (secret, memory) = sqlx::query_as(select).bind(name.as_str()).fetch_one(&self.pool).await.unwrap();
        ResourceSeen { secret, memory }
    }

    async fn rows(&self) -> String {
        // With the transaction that wrote each: a row that was written as it was is written all the
        // same.
        let tables =
            "select format('select %L || xmin || %L || row::text from %s as row', table_name || ' ', ' ', table_name)
             from (
               select format('%I.%I', table_schema, table_name) as table_name
               from information_schema.tables
               where table_type = 'BASE TABLE'
                 and (table_schema = 'sluice' and table_name <> 'heartbeat' or table_name like 'evolution%')
               order by table_name
             ) as ours";
        let selects: Vec<String> = sqlx::query_scalar(tables).fetch_all(&self.pool).await.unwrap();
        let mut rows = Vec::new();
        for select in selects {
            let mut of_table: Vec<String> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(select)).fetch_all(&self.pool).await.unwrap();
            of_table.sort();
            rows.append(&mut of_table);
        }
        rows.join("\n")
    }

    async fn is_busy(&self, resource: &ResourceName) -> bool {
        let select = "select coalesce(busy_until > clock_timestamp(), false) from sluice.resource where name = $1";
        sqlx::query_scalar(select).bind(resource.as_str()).fetch_one(&self.pool).await.unwrap()
    }

    async fn violations(&self) -> Vec<String> {
        sqlx::query_scalar(include_str!("violations.sql")).fetch_all(&self.pool).await.unwrap()
    }

    async fn advance(&self, by: Duration) {
        let shift = everything_is_older_by(by);
        sqlx::raw_sql(sqlx::AssertSqlSafe(shift)).execute(&self.pool).await.unwrap();
    }

    async fn sign_up(&self, user: UserId) {
        let insert = "insert into auth.users (id, email) values ($1, $2)";
        let email = format!("{user}@example.org");
        sqlx::query(insert).bind(user.uuid()).bind(email).execute(&self.pool).await.unwrap();
    }

    async fn leave(&self, user: UserId) {
        let delete = "delete from auth.users where id = $1";
        sqlx::query(delete).bind(user.uuid()).execute(&self.pool).await.unwrap();
    }

    async fn ask_again(&self, user: UserId, budget: Budget) {
        let update = match budget {
            Budget::Kept => {
                "update evolution_instance_creation_queue set status = 'pending', updated_at = now() where user_id = $1"
            }
            Budget::Fresh => {
                "update evolution_instance_creation_queue
                 set status = 'pending', retry_count = 0, error_message = null, updated_at = now()
                 where user_id = $1"
            }
        };
        assert_eq!(sqlx::query(update).bind(user.uuid()).execute(&self.pool).await.unwrap().rows_affected(), 1);
    }

    async fn queue_row(&self, user: UserId) -> RowSeen {
        let select = "select status, retry_count, error_message
             from evolution_instance_creation_queue
             where user_id = $1";
        let (status, retry_count, error): (String, i32, Option<String>) =
            sqlx::query_as(select).bind(user.uuid()).fetch_one(&self.pool).await.unwrap();
        RowSeen { status, retry_count: retry_count.try_into().unwrap(), error }
    }
}

/// One of the ledger's labels.
fn labelled<T: DeserializeOwned>(text: String) -> T {
    serde_json::from_value(Value::String(text)).unwrap()
}

/// The statement by which every moment in the ledger's tables moves back: time goes by.
pub fn everything_is_older_by(by: Duration) -> String {
    format!(
        "do $$
             declare
               shift record;
             begin
               for shift in
                 select format('update sluice.%I set %s', table_name,
                   string_agg(format('%1$I = %1$I - interval ''{} microseconds''', column_name), ', ')) as statement
                 from information_schema.columns
                 join information_schema.tables using (table_schema, table_name)
                 where table_schema = 'sluice'
                   and table_type = 'BASE TABLE'
                   and data_type = 'timestamp with time zone'
                 group by table_name
               loop
                 execute shift.statement;
               end loop;
             end
             $$",
        by.as_micros()
    )
}
