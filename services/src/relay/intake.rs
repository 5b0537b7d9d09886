//! Sign-ups into runs.

use anyhow::Context;

use crate::ledger::{Intake, Ledger};

/// Takes up to `batch` pending queue rows.
pub async fn intake_once(ledger: &impl Ledger, batch: usize) -> anyhow::Result<Intake> {
    let intake = ledger.intake(batch).await.context("take in queue rows")?;
    if intake != Intake::default() {
        let Intake { started, revived, joined, failed } = intake;
        tracing::info!(started, revived, joined, failed, "taken in");
    }
    Ok(intake)
}
