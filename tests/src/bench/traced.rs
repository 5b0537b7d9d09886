//! What tracing costs: bursts with every trace sampled and taken by a collector, in turns with
//! bursts without tracing. A figure counts only where no span was lost: every attempt of the ledger
//! and every parent must be among what arrived.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{
    app::App,
    burst::{Burst, Contender, Runs, contest},
    site::Database,
    stage::{Roles, Setup, Stage},
};
use crate::collector::Collector;

#[derive(Clone, Debug, Serialize)]
pub struct Traced {
    pub off: Burst,
    pub on: Burst,
    pub ratio: f64,
    /// Spans that arrived: all of them.
    pub spans: usize,
}

pub async fn cost(stage: &mut Stage, roles: Roles, users: usize, rounds: usize) -> Result<Traced> {
    let collector = Collector::start().await?;
    let (dark, lit) = (stage.new_database().await?, stage.new_database().await?);
    let contenders = [
        Contender { name: "tracing off".to_owned(), runs: Runs::Sluice(Setup::new(roles, &dark)) },
        Contender {
            name: "tracing on".to_owned(),
            runs: Runs::Sluice(Setup::new(roles, &lit).set("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())),
        },
    ];
    let mut bursts = contest(stage, &contenders, users, rounds).await?.into_iter();
    let (off, on) = (bursts.next().context("no burst")?, bursts.next().context("no burst")?);
    let spans = assert_all_arrived(&collector, &lit, users * rounds).await?;
    Ok(Traced { ratio: on.per_second / off.per_second, off, on, spans })
}

async fn assert_all_arrived(collector: &Collector, database: &Database, users: usize) -> Result<usize> {
    let spans = collector.spans();
    let ids: HashSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    let mut app = App::connect(database, 1).await?;
    let attempts: Vec<String> = sqlx::query_scalar("select span_id from sluice.attempt where span_id is not null")
        .fetch_all(app.look())
        .await
        .context("read the attempts' spans")?;
    app.close().await?;
    ensure!(attempts.len() >= users * 3, "{} attempts were traced, of {users} sign-ups", attempts.len());
    let missing = attempts.iter().filter(|id| !ids.contains(id.as_str())).count();
    ensure!(missing == 0, "{missing} of {} attempts' spans did not arrive", attempts.len());
    let orphans = spans.iter().filter(|span| !span.parent.is_empty() && !ids.contains(span.parent.as_str())).count();
    ensure!(orphans == 0, "the parents of {orphans} of {} spans did not arrive", spans.len());
    Ok(spans.len())
}
