//! Which invariants held, from the ledger's rows and the journal of the simulated API, and from
//! nothing that the engine says about itself. I8 has tests of its own.

mod announced;
mod excuse;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use self::excuse::{Excuses, Sorted};
use super::stage::Stage;
use crate::evolution::Destroyed;

/// What each invariant says of the rows; a row that comes back is a violation, in words.
const CHECKS: &[(&str, &str)] = &[
    ("I1", include_str!("verdict/i1_every_sign_up_ends.sql")),
    ("I1", include_str!("verdict/i1_public_rows_follow.sql")),
    ("I2", include_str!("verdict/i2_one_run.sql")),
    ("I5", include_str!("verdict/i5_within_limits.sql")),
    ("I6", include_str!("verdict/i6_every_end_has_a_row.sql")),
    ("I9", include_str!("verdict/i9_one_attempt_at_a_time.sql")),
];

pub(super) const INVARIANTS: [&str; 8] = ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I9"];

/// What came of everything.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    /// By invariant: what broke it.
    pub violations: BTreeMap<&'static str, Vec<String>>,
    pub ready: usize,
    /// Dead letters by reason.
    pub dead: BTreeMap<String, i64>,
    /// Sign-ups that came to no end.
    pub lost: i64,
    /// Users with more than one 201 at the API.
    pub twice: usize,
    /// Calls that create a name which exists, but for those of the known hole.
    pub creates_of_existing: u64,
    /// The hole in I3 that no protocol closes: calls for a name whose create a frozen worker had in
    /// hand, that met another.
    pub overlaps_of_frozen: u64,
    pub leases_expired: i64,
    /// By outcome and class.
    pub attempts: BTreeMap<String, i64>,
    /// From the first sign-up to the last ready.
    pub seconds: f64,
    /// From the last fault to the last ready.
    pub recovered_after: Option<f64>,
}

impl Verdict {
    pub(in crate::chaos) async fn read(stage: &Stage) -> Result<Self> {
        let mut session = stage.fleet.connect().await?;
        let mut verdict = Self::default();
        for name in INVARIANTS {
            verdict.violations.insert(name, Vec::new());
        }
        for (invariant, sql) in CHECKS {
            let found: Vec<String> = sqlx::query_scalar(AssertSqlSafe(*sql))
                .fetch_all(&mut session)
                .await
                .with_context(|| format!("check {invariant}"))?;
            verdict.add(invariant, found);
        }
        if let Some(consumer) = &stage.consumer {
            verdict.add("I7", announced::violations(&mut session, consumer).await?);
        }
        verdict.read_counts(&mut session, stage).await?;
        let excuses = Excuses::read(&mut session, &stage.record.freezes()).await?;
        let calls = stage.fleet.api.with(|world, _| excuses.sort(world.journal().clashes()));
        verdict.compare_with_api(&mut session, stage).await?;
        verdict.read_journal(stage, &calls);
        Ok(verdict)
    }

    fn add(&mut self, invariant: &'static str, found: Vec<String>) {
        self.violations.entry(invariant).or_default().extend(found);
    }

    async fn read_counts(&mut self, session: &mut PgConnection, stage: &Stage) -> Result<()> {
        self.lost = one(session, include_str!("verdict/lost.sql")).await?;
        self.leases_expired = one(session, "select count(*) from sluice.attempt where class = 'worker_lost'").await?;
        let attempts: Vec<(String, i64)> = sqlx::query_as(
            "select outcome || coalesce(' (' || class || ')', '') as ended, count(*) from sluice.attempt group by ended",
        )
        .fetch_all(&mut *session)
        .await
        .context("count the attempts")?;
        self.attempts = attempts.into_iter().collect();
        let dead: Vec<(String, i64)> =
            sqlx::query_as("select reason, count(*) from sluice.dead_letter where resolved_at is null group by reason")
                .fetch_all(&mut *session)
                .await
                .context("count the dead letters")?;
        self.dead = dead.into_iter().collect();
        let (seconds, last): (Option<f64>, Option<f64>) = sqlx::query_as(
            "select extract(epoch from max(processed_at) - min(created_at))::float8,
               extract(epoch from max(processed_at))::float8
             from public.evolution_instance_creation_queue
             where status = 'completed'",
        )
        .fetch_one(session)
        .await
        .context("read when the last user became ready")?;
        self.seconds = seconds.unwrap_or_default();
        let fault = stage.record.last().and_then(|last| last.duration_since(UNIX_EPOCH).ok());
        self.recovered_after = fault.zip(last).map(|(fault, last)| (last - fault.as_secs_f64()).max(0.0));
        Ok(())
    }

    /// Who is ready by the ledger has one instance at the API, with the ledger's token and an
    /// enabled webhook.
    async fn compare_with_api(&mut self, session: &mut PgConnection, stage: &Stage) -> Result<()> {
        let succeeded: Vec<(String, String)> = sqlx::query_as(
            "select distinct resource.name, coalesce(resource.memory ->> 'token', resource.secret)
             from sluice.run
             join sluice.resource on resource.name = run.resource
             join public.evolution_instances as shown on shown.user_id::text = run.subject
             where run.state = 'succeeded'",
        )
        .fetch_all(session)
        .await
        .context("read who is ready")?;
        for (name, token) in succeeded {
            let wrong = stage.fleet.api.with(|world, _| match world.instance(&name) {
                None => Some("is not at the API"),
                Some(instance) if instance.token.reveal() != token => Some("has another token at the API"),
                Some(instance) if !instance.webhook.as_ref().is_some_and(|hook| hook.enabled) => Some("has no webhook"),
                Some(instance) if instance.leaving => Some("is being deleted"),
                Some(_) => None,
            });
            match wrong {
                Some(wrong) => self.add("I1", vec![format!("{name} is ready, and its instance {wrong}")]),
                None => self.ready += 1,
            }
        }
        Ok(())
    }

    fn read_journal(&mut self, stage: &Stage, calls: &Sorted) {
        let touched = calls.touched();
        let (made, gone) = stage.fleet.api.with(|world, _| {
            let journal = world.journal();
            let ok = journal.creates_ok().iter();
            self.twice = ok.filter(|(name, times)| **times > 1 && !touched.contains(name.as_str())).count();
            // A create that fails takes its own row away again: nobody had it.
            let nobodys = |name: &str| {
                let failed = |gone: &&Destroyed| gone.name == name && !gone.answered_201;
                journal.destroyed().filter(failed).count() as u32
            };
            let made = world.instances_made().iter();
            let twice = made.filter(|(name, times)| **times > 1 && !touched.contains(name.as_str()));
            let twice = twice.map(|(name, times)| (name, times.saturating_sub(nobodys(name))));
            let made: Vec<String> = twice
                .filter(|(_, times)| *times > 1)
                .map(|(name, times)| format!("{name} was made {times} times"))
                .collect();
            let gone = journal.destroyed().filter(|destroyed| destroyed.answered_201 && !calls.took(destroyed));
            let gone: Vec<String> = gone
                .map(|destroyed| {
                    format!("{} was destroyed by {:?} at {:?}", destroyed.name, destroyed.by, destroyed.at)
                })
                .collect();
            (made, gone)
        });
        self.creates_of_existing = calls.unexplained.iter().filter(|clash| clash.duplicates).count() as u64;
        self.overlaps_of_frozen = calls.explained.len() as u64;
        let overlaps = calls.unexplained.iter().filter(|clash| clash.overlaps);
        let overlaps = overlaps.map(|clash| format!("two calls for {} overlapped at {:?}", clash.name, clash.at));
        self.add("I3", overlaps.collect());
        self.add("I3", made);
        self.add("I4", gone);
    }
}

async fn one(session: &mut PgConnection, sql: &'static str) -> Result<i64> {
    sqlx::query_scalar(sql).fetch_one(session).await.with_context(|| format!("ask '{sql}'"))
}
