//! One behaviour on a ledger that lacks one guard, in a thread and a runtime of its own: what it does there is up to it.

use std::{any::Any, panic, sync::Arc, thread, time::Duration};

use sluice::ledger::postgres::Removed;
use tokio::{runtime, time::timeout};

use super::Guard;
use crate::conformance::{
    behave,
    postgres::{Guarded, bench_of, by_all},
};

/// Longer than any behaviour takes, on a slow machine too.
const DEADLINE: Duration = Duration::from_secs(60);

const TRIAL: &str = "trial";

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Holds,
    /// As it must, and how.
    Breaks(String),
    /// Nothing was tried: no statement has the clause.
    NotFound,
    /// Nothing was tried: Postgres does not take the statement that is left.
    NoStatement(String),
}

/// A behaviour that does not end breaks.
pub fn try_out(guard: Option<&'static Guard>, behaviour: &'static str) -> Verdict {
    let removed = guard.map(|guard| Removed::new(guard.statement, guard.clause, guard.instead));
    let guarded: Guarded = match removed.clone() {
        Some(removed) => Arc::new(move |ledger| ledger.without(removed.clone())),
        None => by_all(),
    };
    let schema = guard.map_or("", |guard| guard.schema);
    let trial = thread::Builder::new().name(TRIAL.to_owned()).spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let behaves = async {
            let bench = bench_of(guarded).await;
            sqlx::raw_sql(schema).execute(bench.world.pool()).await.unwrap();
            behave(behaviour, &bench).await;
        };
        runtime.block_on(async { timeout(DEADLINE, behaves).await })
    });
    let ended = trial.unwrap().join();
    if removed.is_some_and(|removed| !removed.was_found()) {
        return Verdict::NotFound;
    }
    match ended {
        Ok(Ok(())) => Verdict::Holds,
        Ok(Err(_)) => Verdict::Breaks("does not end".to_owned()),
        Err(panic) => judge(&message(&*panic)),
    }
}

/// What the ledger or the behaviour said, on one line. 42: Postgres could not make sense of the statement.
fn judge(said: &str) -> Verdict {
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.contains("code: \"42") {
        return Verdict::NoStatement(line);
    }
    let database = line.split_once("message: \"").and_then(|(_, rest)| rest.split_once("\", "));
    Verdict::Breaks(database.map_or(line.as_str(), |(message, _)| message).to_owned())
}

/// What a trial panics with is in the table.
pub fn let_trials_be_quiet() {
    let loud = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if thread::current().name() != Some(TRIAL) {
            loud(info);
        }
    }));
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
