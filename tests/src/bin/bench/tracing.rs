//! What tracing costs: bursts with every trace sampled and taken by a collector, in turns with bursts without tracing. A
//! figure counts only where no span was lost: every attempt of the ledger and every parent must be among what arrived.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, Result, ensure};
use sqlx::PgConnection;
use tests::{collector::Collector, fleet::Fleet};

use super::burst;

/// Sign-ups per second, over all rounds.
pub struct Cost {
    pub untraced_per_second: f64,
    pub traced_per_second: f64,
    /// Spans that arrived.
    pub spans: usize,
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Ends the fleet's roles and starts them anew for each burst.
pub async fn cost(fleet: &mut Fleet, database: &mut PgConnection, users: u32, rounds: u32) -> Result<Cost> {
    let collector = Collector::start().await?;
    let (mut untraced, mut traced) = (Duration::ZERO, Duration::ZERO);
    stop(fleet).await?;
    for round in 0..rounds {
        // Whoever goes first may find a colder machine.
        for on in [round % 2 == 0, round % 2 != 0] {
            // A variable that is empty counts as not set.
            fleet.set(ENDPOINT, if on { collector.url() } else { String::new() });
            fleet.start_roles().await?;
            burst(database, 20).await?;
            *(if on { &mut traced } else { &mut untraced }) += burst(database, users).await?;
            stop(fleet).await?;
        }
    }
    let spans = assert_all_arrived(&collector, database, u64::from(users * rounds)).await?;
    let rate = |duration: Duration| f64::from(users * rounds) / duration.as_secs_f64();
    Ok(Cost { untraced_per_second: rate(untraced), traced_per_second: rate(traced), spans })
}

/// In good order, so that the last spans are sent.
async fn stop(fleet: &mut Fleet) -> Result<()> {
    for name in fleet.names() {
        let process = fleet.process(&name)?;
        process.terminate()?;
        process.wait_for_exit(ENDS_WITHIN).await?;
        let log = process.log();
        ensure!(!log.contains("\"dropped\":"), "{name} lost spans:\n{}", process.log_tail());
    }
    Ok(())
}

async fn assert_all_arrived(collector: &Collector, database: &mut PgConnection, users: u64) -> Result<usize> {
    let spans = collector.spans();
    let ids: HashSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    let attempts: Vec<String> = sqlx::query_scalar("select span_id from sluice.attempt where span_id is not null")
        .fetch_all(database)
        .await
        .context("read the attempts' spans")?;
    ensure!(attempts.len() as u64 >= users * 3, "{} attempts were traced, of {users} sign-ups", attempts.len());
    let missing = attempts.iter().filter(|id| !ids.contains(id.as_str())).count();
    ensure!(missing == 0, "{missing} of {} attempts' spans did not arrive", attempts.len());
    let orphans = spans.iter().filter(|span| !span.parent.is_empty() && !ids.contains(span.parent.as_str())).count();
    ensure!(orphans == 0, "the parents of {orphans} of {} spans did not arrive", spans.len());
    Ok(spans.len())
}
