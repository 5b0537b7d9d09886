//! Sign-ups into runs.

use anyhow::Context;

use crate::ledger::{Intake, Ledger};

/// Takes up to `batch` pending queue rows.
pub async fn intake_once(ledger: &impl Ledger, batch: usize) -> anyhow::Result<Intake> {
    let intake = ledger.intake(batch).await.context("take in queue rows")?;
    if intake != Intake::default() {
        let Intake { started, revived, joined, failed } = intake;
        tracing::debug!(started, revived, joined, failed, "taken in");
        if failed > 0 {
            tracing::warn!(failed, "sign-ups that cannot become runs: their queue rows say why");
        }
    }
    Ok(intake)
}
