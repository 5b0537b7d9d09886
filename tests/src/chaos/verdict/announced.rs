//! I7: every event has arrived at a consumer, under one id, those of a run in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result};
use sqlx::PgConnection;

use crate::{
    consumer::{Consumer, Received},
    servers::until,
};

/// How long the last events may take to be published, with a broker that has just come back, and
/// then to arrive.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(90);
const ARRIVE_WITHIN: Duration = Duration::from_secs(15);

pub(super) async fn violations(session: &mut PgConnection, consumer: &Consumer) -> Result<Vec<String>> {
    let written: Vec<String> = sqlx::query_scalar("select id::text from sluice.event")
        .fetch_all(&mut *session)
        .await
        .context("read the events")?;
    let written: BTreeSet<String> = written.into_iter().collect();
    let missing = |received: &[Received]| {
        let arrived: BTreeSet<&str> = received.iter().map(|message| message.id.as_str()).collect();
        written.iter().filter(|id| !arrived.contains(id.as_str())).count()
    };
    let select = "select count(*) from sluice.event where published_at is null";
    until(PUBLISHED_WITHIN, async || {
        let waiting: i64 = sqlx::query_scalar(select).fetch_one(&mut *session).await.ok()?;
        (waiting == 0).then_some(())
    })
    .await;
    until(ARRIVE_WITHIN, async || (missing(&consumer.received()) == 0).then_some(())).await;

    let received = consumer.received();
    let mut found = Vec::new();
    match missing(&received) {
        0 => {}
        missing => found.push(format!("{missing} of {} events have not arrived", written.len())),
    }
    found.extend(out_of_order(&received));
    Ok(found)
}

/// Of what arrived twice, the first time counts.
fn out_of_order(received: &[Received]) -> impl Iterator<Item = String> {
    let mut seen = BTreeSet::new();
    let mut streams: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for message in received.iter().filter(|message| seen.insert(message.id.clone())) {
        let gate = || message.event["subject"].as_str().unwrap_or_default();
        let stream = if message.run().is_empty() { gate() } else { message.run() };
        streams.entry(stream.to_owned()).or_default().push(message.sequence());
    }
    let disordered = |(stream, order): (String, Vec<u32>)| {
        (!order.is_sorted()).then(|| format!("the events of {stream} arrived as {order:?}"))
    };
    streams.into_iter().filter_map(disordered)
}
