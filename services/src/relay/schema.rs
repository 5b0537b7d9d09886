//! What `sluice migrate` made and somebody took away since, a trigger or a grant: it is said, with
//! what is lost by it and the mend. The relay changes nothing about it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};

use super::{Next, Relay};
use crate::{
    database::PATIENCE,
    ledger::migrations::{self, Missing},
};

const TICK: Duration = Duration::from_secs(60);

pub(super) async fn run(relay: Relay) {
    let said = Mutex::default();
    let look = async || {
        let missing = relay.ledger.database().over(async |connection| migrations::missing(connection).await);
        let missing = timeout(PATIENCE, missing).await.context("look at the schema")?;
        tell(&said, &missing.context("look at the schema")?);
        Ok(Next::AtTick)
    };
    relay.repeat("look at the schema", TICK, &Notify::new(), look).await;
}

/// Each once, and again after it was mended and is gone once more.
fn tell(said: &Mutex<BTreeSet<String>>, missing: &[Missing]) {
    let mut said = said.lock();
    for Missing { item, without, mend } in missing.iter().filter(|missing| !said.contains(&missing.item)) {
        tracing::warn!(item, mend, "missing in the database: {without}");
    }
    *said = missing.iter().map(|missing| missing.item.clone()).collect();
}
