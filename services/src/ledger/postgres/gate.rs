//! Gates as a person sets them. Each change is one guarded statement on the gate's row, which is
//! made where there is none, and leaves a row that says who and why. When a gate was closed is
//! noted by a trigger.

use std::time::Duration;

use serde_json::{Value, json};

use super::{By, Postgres, Result, Scope, seconds};
use crate::database::{Statement, Tx};

pub(super) async fn pause(ledger: &Postgres, scope: Scope, name: &str, by: &By) -> Result<bool> {
    let mut tx = ledger.database.begin().await?;
    ensure(&mut tx, scope, name).await?;
    let sql = "update sluice.gate
        set paused_at = now(), paused_by = $3
        where scope = $1
          and name = $2
          and paused_at is null";
    let pause = tx.query(sql).bind(scope.as_str()).bind(name.to_owned()).bind(by.actor.clone());
    finish(tx, pause, "pause", by, json!({ "scope": scope.as_str(), "name": name })).await
}

/// What waited is let go slowly at first: `reopened_at`.
pub(super) async fn resume(ledger: &Postgres, scope: Scope, name: &str, by: &By) -> Result<bool> {
    let tx = ledger.database.begin().await?;
    let sql = "update sluice.gate
        set paused_at = null, paused_by = null, hold_until = null, hold_reason = null, reopened_at = now()
        where scope = $1
          and name = $2
          and (paused_at is not null or hold_until > now())";
    let resume = tx.query(sql).bind(scope.as_str()).bind(name.to_owned());
    finish(tx, resume, "resume", by, json!({ "scope": scope.as_str(), "name": name })).await
}

/// Closes the gate for so long, unless it is held for longer already.
pub(super) fn hold_in(tx: &Tx, scope: Scope, name: &str, duration: Duration, reason: &str) -> Statement {
    let sql = "update sluice.gate
        set hold_until = now() + make_interval(secs => $3), hold_reason = $4
        where scope = $1
          and name = $2
          and coalesce(hold_until, '-infinity') < now() + make_interval(secs => $3)";
    tx.query(sql).bind(scope.as_str()).bind(name.to_owned()).bind(seconds(duration)).bind(reason.to_owned())
}

/// The store starts empty: a new rate is kept from its first second on.
pub(super) async fn set_rate(ledger: &Postgres, scope: Scope, name: &str, rate: Option<f64>, by: &By) -> Result<bool> {
    if scope == Scope::Workflow || rate.is_some_and(|rate| rate <= 0.0 || !rate.is_finite()) {
        return Ok(false);
    }
    let mut tx = ledger.database.begin().await?;
    ensure(&mut tx, scope, name).await?;
    let sql = "update sluice.gate
        set rate = $3, allowance = 0, refilled_at = now()
        where scope = $1
          and name = $2";
    let set = tx.query(sql).bind(scope.as_str()).bind(name.to_owned()).bind(rate);
    finish(tx, set, "rate", by, json!({ "scope": scope.as_str(), "name": name, "rate": rate })).await
}

pub(super) async fn set_concurrency(
    ledger: &Postgres,
    scope: Scope,
    name: &str,
    limit: Option<u32>,
    by: &By,
) -> Result<bool> {
    if scope == Scope::Workflow || limit == Some(0) {
        return Ok(false);
    }
    let mut tx = ledger.database.begin().await?;
    ensure(&mut tx, scope, name).await?;
    let sql = "update sluice.gate
        set concurrency = $3
        where scope = $1
          and name = $2";
    let most = limit.map(|limit| i32::try_from(limit).unwrap_or(i32::MAX));
    let set = tx.query(sql).bind(scope.as_str()).bind(name.to_owned()).bind(most);
    finish(tx, set, "concurrency", by, json!({ "scope": scope.as_str(), "name": name, "concurrency": limit })).await
}

/// Make the gate's row where there is none. Safe with any number of callers.
pub(super) async fn ensure(tx: &mut Tx, scope: Scope, name: &str) -> Result<()> {
    let make = tx.query("insert into sluice.gate (scope, name) values ($1, $2) on conflict do nothing");
    make.bind(scope.as_str()).bind(name.to_owned()).execute(tx.connection()).await?;
    Ok(())
}

/// Makes the change. Where something changed, keeps who did it, and commits.
async fn finish(mut tx: Tx, change: Statement, action: &'static str, by: &By, mut detail: Value) -> Result<bool> {
    if change.execute(tx.connection()).await?.rows_affected() == 0 {
        return Ok(false);
    }
    detail["note"] = json!(by.note);
    let keep = tx.query("insert into sluice.audit (actor, action, detail) values ($1, 'gate.' || $2, $3)");
    keep.bind(by.actor.clone()).bind(action).bind(detail).execute(tx.connection()).await?;
    tx.commit().await?;
    Ok(true)
}
