//! What workers ask: of attempts, and of the breaker of an API host, in its gate row. What follows
//! from a report or a probe is decided by `workflows::breaker`, under the row's lock; the write is
//! guarded by what was read. Every moment is the database's own.

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    breaker::{Answer, Breaker, Cause, Rules, Say, Signal, State, Word},
    ids::RunId,
};

use super::{Postgres, attempts, count, duration, label, operator::ensure, seconds};
use crate::{
    database::Tx,
    ledger::{Ask, Claimed, HostGate, Lease, Probe, Result, Scope, Settled, Settlement, Worker, WorkerLedger},
};

impl WorkerLedger for Postgres {
    async fn claim(&self, worker: &Worker, asked: &[Ask]) -> Result<Vec<Claimed>> {
        attempts::claim(self, worker, asked).await
    }

    async fn renew(&self, worker: &Worker, leases: &[Lease]) -> Result<Vec<Option<bool>>> {
        self.within(attempts::renew(self, worker, leases)).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        self.within(attempts::settle(self, settlements)).await
    }

    async fn doubt(&self, run: RunId) -> Result<()> {
        self.ask_one("select sluice.doubt($1)", |doubt| doubt.bind(run.uuid())).await
    }

    async fn report(
        &self,
        host: &str,
        signals: &[Signal],
        word: Option<&Word>,
        rules: &Rules,
        jitter: f64,
    ) -> Result<HostGate> {
        self.within(async {
            let mut tx = self.database.begin().await?;
            let (before, there) = lock(&mut tx, host).await?;
            let after = before.clone().hear(signals, rules);
            if after != before {
                let say = Say { host, advice: rules.key_advice, word };
                let reason = after.reason(before.cause, there, &say);
                write(&mut tx, host, &before, &after, rules.pause(&after, jitter), reason).await?;
            }
            if let Some(longest) = signals.iter().filter_map(Signal::hold).max() {
                hold(&mut tx, host, longest).await?;
            }
            finish(tx, host).await
        })
        .await
    }

    async fn host_gate(&self, host: &str) -> Result<HostGate> {
        seen(self.ask(READ, |read| read.bind(host.to_owned())).await?)
    }

    /// Whoever moves `probe_at` on has the right until then; `probes` fences it.
    async fn probe(&self, host: &str, lease: Duration) -> Result<Option<Probe>> {
        let sql = "update sluice.gate
            set probes = probes + 1, probe_at = now() + make_interval(secs => $2)
            where scope = 'host'
              and name = $1
              and breaker = 'open'
              and coalesce(probe_at, now()) <= now()
            returning probes";
        self.within(async {
            let mut tx = self.database.begin().await?;
            let take = tx.query_as(sql).bind(host.to_owned()).bind(seconds(lease));
            let row: Option<(i32,)> = take.fetch_optional(tx.connection()).await?;
            tx.commit().await?;
            Ok(row.map(|(number,)| Probe { number: count(number) }))
        })
        .await
    }

    async fn probed(&self, host: &str, probe: Probe, answer: &Answer, rules: &Rules, jitter: f64) -> Result<HostGate> {
        self.within(async {
            let mut tx = self.database.begin().await?;
            let (before, there) = lock(&mut tx, host).await?;
            if before.state == State::Open && before.probes == probe.number {
                let after = before.clone().probed(answer.found);
                let say = Say { host, advice: rules.key_advice, word: answer.word.as_ref() };
                let reason = after.reason(before.cause, there, &say);
                let pause = if after.state == State::HalfOpen { Duration::ZERO } else { rules.pause(&after, jitter) };
                write(&mut tx, host, &before, &after, pause, reason).await?;
            }
            finish(tx, host).await
        })
        .await
    }
}

#[derive(FromRow)]
struct BreakerRow {
    breaker: String,
    breaker_cause: Option<String>,
    breaker_reason: Option<String>,
    failing_runs: Vec<Uuid>,
    failing_for: f64,
    probes: i32,
    probe_run: Option<Uuid>,
}

/// The host's breaker and why it is not closed, its row locked.
async fn lock(tx: &mut Tx, host: &str) -> Result<(Breaker, Option<String>)> {
    ensure(tx, Scope::Host, host).await?;
    let sql = "select breaker, breaker_cause, breaker_reason, failing_runs,
          coalesce(extract(epoch from now() - failing_since), 0)::float8 as failing_for, probes, probe_run
        from sluice.gate
        where scope = 'host'
          and name = $1
        for no key update";
    let row: BreakerRow = tx.query_as(sql).bind(host.to_owned()).fetch_one(tx.connection()).await?;
    let breaker = Breaker {
        state: label(&row.breaker)?,
        cause: row.breaker_cause.as_deref().map(label).transpose()?,
        failing: row.failing_runs.into_iter().map(RunId::new).collect(),
        failing_for: duration(Some(row.failing_for)),
        probes: count(row.probes),
        probe_run: row.probe_run.map(RunId::new),
    };
    Ok((breaker, row.breaker_reason))
}

/// The one transition of a breaker, guarded by what it was.
async fn write(
    tx: &mut Tx,
    host: &str,
    before: &Breaker,
    after: &Breaker,
    pause: Duration,
    reason: Option<String>,
) -> Result<()> {
    let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let failing: Vec<Uuid> = after.failing.iter().map(|run| run.uuid()).collect();
    let sql = "update sluice.gate
        set breaker = $4, breaker_cause = $5, breaker_reason = $6, failing_runs = $7,
          failing_since = case when cardinality($7) > 0 then now() - make_interval(secs => $8) end,
          probes = $9, probe_run = $10,
          probe_at = case when $4 = 'closed' then null else now() + make_interval(secs => $11) end,
          breaker_at = case when breaker = $4 then breaker_at else now() end,
          reopened_at = case when $4 = 'closed' and breaker <> 'closed' then now() else reopened_at end
        where scope = 'host'
          and name = $1
          and breaker = $2
          and probes = $3";
    let guarded = tx.query(sql).bind(host.to_owned()).bind(before.state.as_str()).bind(number(before.probes));
    let changed = guarded.bind(after.state.as_str()).bind(after.cause.map(Cause::as_str)).bind(reason);
    let changed = changed.bind(failing).bind(seconds(after.failing_for)).bind(number(after.probes));
    changed.bind(after.probe_run.map(RunId::uuid)).bind(seconds(pause)).execute(tx.connection()).await?;
    Ok(())
}

/// Closes the gate for so long, unless it is held for longer already.
async fn hold(tx: &mut Tx, host: &str, longest: Duration) -> Result<()> {
    let sql = "update sluice.gate
        set hold_until = now() + make_interval(secs => $3), hold_reason = $4
        where scope = $1
          and name = $2
          and coalesce(hold_until, '-infinity') < now() + make_interval(secs => $3)";
    let hold = tx.query(sql).bind(Scope::Host.as_str()).bind(host.to_owned()).bind(seconds(longest));
    let reason = "the API asked to be left alone for so long (Retry-After)";
    hold.bind(reason).execute(tx.connection()).await?;
    Ok(())
}

#[derive(FromRow)]
struct GateRow {
    breaker: String,
    breaker_cause: Option<String>,
    failing: bool,
    probe_due: bool,
    closed_for: Option<f64>,
}

const READ: &str = "
    select breaker, breaker_cause, cardinality(failing_runs) > 0 as failing,
      breaker = 'open' and coalesce(probe_at, now()) <= now() as probe_due,
      extract(epoch from now() - reopened_at)::float8 as closed_for
    from sluice.gate
    where scope = 'host'
      and name = $1";

/// Commits, and says how the gate stands then.
async fn finish(mut tx: Tx, host: &str) -> Result<HostGate> {
    let rows = tx.query_as(READ).bind(host.to_owned()).fetch_all(tx.connection()).await?;
    let seen = seen(rows)?;
    tx.commit().await?;
    Ok(seen)
}

/// A host without a row has a gate that was never closed.
fn seen(rows: Vec<GateRow>) -> Result<HostGate> {
    let Some(row) = rows.into_iter().next() else { return Ok(HostGate::default()) };
    Ok(HostGate {
        breaker: label(&row.breaker)?,
        cause: row.breaker_cause.as_deref().map(label).transpose()?,
        failing: row.failing,
        probe_due: row.probe_due,
        closed_for: row.closed_for.map(|ago| duration(Some(ago))),
    })
}
