//! Users' instances, as the API reports them.

use serde_json::Value;
use workflows::whatsapp::evolution::report::Report;

use crate::ledger::{Result, postgres::Postgres};

/// Take in what the API reports: memory and row of each instance that it changes. Those that cannot
/// be written now, and why: nothing of them was taken. Reports may come twice and in any order,
/// from any number of callers.
pub async fn hear(ledger: &Postgres, reports: &[Report]) -> Result<Vec<(String, String)>> {
    let reports: Value = reports.iter().map(Report::to_json).collect();
    let ask = ledger.database().ask("select instance, error from sluice.hear($1)", |ask| ask.bind(reports));
    ledger.within(async { Ok(ask.await?) }).await
}
