//! What only tests ask of a ledger: to start runs that nobody has requested, and to hold any gate.

use std::time::Duration;

use serde_json::Value;
use sluice::{
    database::Database,
    ledger::{Asked, OperatorLedger, RelayLedger, Result, Scope, WorkerLedger, postgres::Postgres},
};
use sqlx::error::DatabaseError;
use uuid::Uuid;
use workflows::{
    ids::{ResourceName, RunId, Subject, WorkflowName},
    state::RunState,
};

use super::ModelLedger;

/// A run to start.
#[derive(Debug, Clone)]
pub struct NewRun {
    pub workflow: WorkflowName,
    pub subject: Subject,
    pub resource: ResourceName,
    pub input: Value,
    pub traceparent: Option<String>,
    /// How long ago it was asked for.
    pub age: Duration,
}

/// What starting came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// A new run.
    New(RunId),
    /// The run that was there: starting again joins it, a dead one too.
    Joined(RunId, RunState),
    /// The resource belongs to another subject, or the workflow is not one of ours.
    Refused(String),
}

/// Every verb, and what tests do without one.
pub trait Ledger: RelayLedger + WorkerLedger + OperatorLedger {
    /// Start these runs, or join those that are there. One answer per run, in order.
    fn start(&self, runs: &[NewRun]) -> impl Asked<Vec<Started>>;

    /// Close the gate for so long. A longer hold that is there stays: `false`.
    fn hold(&self, scope: Scope, name: &str, duration: Duration) -> impl Asked<bool>;
}

impl Ledger for ModelLedger {
    async fn start(&self, runs: &[NewRun]) -> Result<Vec<Started>> {
        Ok(runs.iter().map(|run| self.transact(|tx| tx.start(run))).collect())
    }

    async fn hold(&self, scope: Scope, name: &str, duration: Duration) -> Result<bool> {
        Ok(self.transact(|tx| tx.hold(scope, name, duration)))
    }
}

impl Ledger for Postgres {
    /// One statement a run, so that a bad one harms only itself.
    async fn start(&self, runs: &[NewRun]) -> Result<Vec<Started>> {
        let mut started = Vec::with_capacity(runs.len());
        for run in runs {
            started.push(self.within(start(self.database(), run)).await?);
        }
        Ok(started)
    }

    async fn hold(&self, scope: Scope, name: &str, duration: Duration) -> Result<bool> {
        self.within(hold(self.database(), scope, name, duration)).await
    }
}

async fn start(database: &Database, run: &NewRun) -> Result<Started> {
    let sql = "with started as materialized (
          select taken.*
          from sluice.start_run($1, $2, $3, $4, $5, now() - make_interval(secs => $6)) as taken
        )
        select started.outcome, started.run_id
        from started, sluice.project(started.workflow, array[started.run_id])";
    let start = database.ask_one(sql, |start| {
        let start = start.bind(run.workflow.to_string()).bind(run.subject.to_string()).bind(run.resource.to_string());
        start.bind(run.input.clone()).bind(run.traceparent.clone()).bind(run.age.as_secs_f64())
    });
    let (outcome, id): (String, Uuid) = match start.await {
        Err(sqlx::Error::Database(said)) if is_row_fault(&*said) => {
            return Ok(Started::Refused(said.message().to_owned()));
        }
        answer => answer?,
    };
    let id = RunId::new(id);
    Ok(match outcome.as_str() {
        "started" => Started::New(id),
        "dead" => Started::Joined(id, RunState::Dead),
        _ => Started::Joined(id, RunState::Active),
    })
}

async fn hold(database: &Database, scope: Scope, name: &str, duration: Duration) -> Result<bool> {
    let mut tx = database.begin().await?;
    let make = tx.query("insert into sluice.gate (scope, name) values ($1, $2) on conflict do nothing");
    make.bind(scope.as_str()).bind(name.to_owned()).execute(tx.connection()).await?;
    let sql = "update sluice.gate
        set hold_until = now() + make_interval(secs => $3), hold_reason = 'held by a test'
        where scope = $1
          and name = $2
          and coalesce(hold_until, '-infinity') < now() + make_interval(secs => $3)";
    let hold = tx.query(sql).bind(scope.as_str()).bind(name.to_owned()).bind(duration.as_secs_f64());
    let held = hold.execute(tx.connection()).await?.rows_affected() > 0;
    tx.commit().await?;
    Ok(held)
}

/// Whether the database refused what the run's row would hold.
fn is_row_fault(error: &dyn DatabaseError) -> bool {
    // 22: data exception, 23: integrity constraint violation.
    error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}
