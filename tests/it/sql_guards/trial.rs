//! One behaviour on a ledger that lacks one guard, in a thread and a runtime of its own: what it
//! does there is up to it.

use std::{any::Any, panic, thread, time::Duration};

use tokio::{runtime, time::timeout};

use super::Guard;
use crate::conformance::{
    behave,
    postgres::{InPostgres, bench},
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
    /// Nothing was tried: the clause does not stand there exactly once.
    NotFound(String),
    /// Nothing was tried: Postgres does not take what is left.
    NoSql(String),
}

/// A behaviour that does not end breaks.
pub fn try_out(guard: Option<&'static Guard>, behaviour: &'static str) -> Verdict {
    let trial = thread::Builder::new().name(TRIAL.to_owned()).spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bench = bench().await;
            if let Some(guard) = guard {
                take_away(&mut bench.world, guard).await?;
            }
            let ended = timeout(DEADLINE, behave(behaviour, &bench)).await;
            Ok(ended.map_or_else(|_| Verdict::Breaks("does not end".to_owned()), |()| Verdict::Holds))
        })
    });
    match trial.unwrap().join() {
        Ok(tried) => tried.unwrap_or_else(|not_tried| not_tried),
        Err(panic) => judge(&message(&*panic)),
    }
}

/// Puts what has the guard in its place without it. A view of one table is read without that
/// table's name, which not every version of Postgres prints.
async fn take_away(world: &mut InPostgres, guard: &Guard) -> Result<(), Verdict> {
    let definitions: Vec<String> = sqlx::query_scalar(
        "select pg_get_functiondef(oid)
         from pg_proc
         where pronamespace = 'sluice'::regnamespace
           and proname = $1
         union all
         select format('create or replace view sluice.%I as %s', relname, replace(pg_get_viewdef(oid), 'gate.', ''))
         from pg_class
         where relnamespace = 'sluice'::regnamespace
           and relkind = 'v'
           and relname = $1",
    )
    .bind(guard.within)
    .fetch_all(world.pool())
    .await
    .unwrap();
    let [definition] = &definitions[..] else {
        return Err(Verdict::NotFound(format!("{} things are called {}", definitions.len(), guard.within)));
    };
    let times = definition.matches(guard.clause).count();
    if times != 1 {
        return Err(Verdict::NotFound(format!("it stands there {times} times")));
    }
    for sql in [definition.replace(guard.clause, guard.instead), guard.schema.to_owned()] {
        world.change(sql).await.map_err(|error| Verdict::NoSql(error.to_string()))?;
    }
    Ok(())
}

/// What the ledger or the behaviour said, on one line. 42: Postgres could not make sense of a
/// statement within.
fn judge(said: &str) -> Verdict {
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.contains("code: \"42") {
        return Verdict::NoSql(line);
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
