//! What a person does to runs and gates. Each change of a gate is one guarded statement on its row,
//! which is made where there is none, and leaves a row that says who and why. When a gate was
//! closed is noted by a trigger.

use serde_json::{Value, json};
use workflows::ids::RunId;

use super::{Postgres, label};
use crate::{
    database::{Statement, Tx},
    ledger::{By, Changed, OperatorLedger, Result, Scope},
};

impl OperatorLedger for Postgres {
    async fn revive(&self, run: RunId, by: &By) -> Result<Changed> {
        let By { actor, note } = by.clone();
        let sql = "select sluice.revive($1, $2, $3)";
        let revive = self.ask_one(sql, |revive| revive.bind(run.uuid()).bind(actor).bind(note));
        let (before,): (Option<String>,) = revive.await?;
        Ok(match before.as_deref() {
            None => Changed::Missing,
            Some("dead") => Changed::Yes,
            Some(state) => Changed::No(label(state)?),
        })
    }

    async fn cancel(&self, run: RunId, by: &By) -> Result<Changed> {
        self.end(run, by, false).await
    }

    async fn pause(&self, scope: Scope, name: &str, by: &By) -> Result<bool> {
        let sql = "update sluice.gate
            set paused_at = now(), paused_by = $3
            where scope = $1
              and name = $2
              and paused_at is null";
        self.change((scope, name), "pause", by, json!({}), sql, |pause| pause.bind(by.actor.clone())).await
    }

    /// What waited is let go slowly at first: `reopened_at`.
    async fn resume(&self, scope: Scope, name: &str, by: &By) -> Result<bool> {
        let sql = "update sluice.gate
            set paused_at = null, paused_by = null, hold_until = null, hold_reason = null, reopened_at = now()
            where scope = $1
              and name = $2
              and (paused_at is not null or hold_until > now())";
        self.change((scope, name), "resume", by, json!({}), sql, |resume| resume).await
    }

    /// The store starts empty: a new rate is kept from its first second on.
    async fn set_rate(&self, scope: Scope, name: &str, rate: Option<f64>, by: &By) -> Result<bool> {
        if scope == Scope::Workflow || rate.is_some_and(|rate| rate <= 0.0 || !rate.is_finite()) {
            return Ok(false);
        }
        let sql = "update sluice.gate
            set rate = $3, allowance = 0, refilled_at = now()
            where scope = $1
              and name = $2";
        self.change((scope, name), "rate", by, json!({ "rate": rate }), sql, |set| set.bind(rate)).await
    }

    async fn set_concurrency(&self, scope: Scope, name: &str, limit: Option<u32>, by: &By) -> Result<bool> {
        if scope == Scope::Workflow || limit == Some(0) {
            return Ok(false);
        }
        let sql = "update sluice.gate
            set concurrency = $3
            where scope = $1
              and name = $2";
        let most = limit.map(|limit| i32::try_from(limit).unwrap_or(i32::MAX));
        let detail = json!({ "concurrency": limit });
        self.change((scope, name), "concurrency", by, detail, sql, |set| set.bind(most)).await
    }
}

impl Postgres {
    /// End a dead run for good. `No`: it is not dead, so that a run which somebody revived
    /// meanwhile goes on.
    pub async fn discard(&self, run: RunId, by: &By) -> Result<Changed> {
        self.end(run, by, true).await
    }

    async fn end(&self, run: RunId, by: &By, only_dead: bool) -> Result<Changed> {
        let By { actor, note } = by.clone();
        let sql = "select sluice.cancel($1, $2, $3, $4)";
        let end = self.ask_one(sql, |end| end.bind(run.uuid()).bind(actor).bind(note).bind(only_dead));
        let (answer,): (Option<String>,) = end.await?;
        Ok(match answer.as_deref() {
            None => Changed::Missing,
            Some("yes") => Changed::Yes,
            Some("at_settle") => Changed::AtSettle,
            Some(state) => Changed::No(label(state)?),
        })
    }

    /// Makes the change, whose first two arguments name the gate. Where something changed, keeps
    /// who did it, and commits.
    async fn change(
        &self,
        (scope, name): (Scope, &str),
        action: &'static str,
        by: &By,
        mut detail: Value,
        sql: &'static str,
        bind: impl FnOnce(Statement) -> Statement,
    ) -> Result<bool> {
        self.within(async {
            let mut tx = self.database.begin().await?;
            ensure(&mut tx, scope, name).await?;
            let change = bind(tx.query(sql).bind(scope.as_str()).bind(name.to_owned()));
            if change.execute(tx.connection()).await?.rows_affected() == 0 {
                return Ok(false);
            }
            (detail["scope"], detail["name"], detail["note"]) = (json!(scope.as_str()), json!(name), json!(by.note));
            let keep = tx.query("insert into sluice.audit (actor, action, detail) values ($1, 'gate.' || $2, $3)");
            keep.bind(by.actor.clone()).bind(action).bind(detail).execute(tx.connection()).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }
}

/// Make the gate's row where there is none. Safe with any number of callers.
pub(super) async fn ensure(tx: &mut Tx, scope: Scope, name: &str) -> Result<()> {
    let make = tx.query("insert into sluice.gate (scope, name) values ($1, $2) on conflict do nothing");
    make.bind(scope.as_str()).bind(name.to_owned()).execute(tx.connection()).await?;
    Ok(())
}
