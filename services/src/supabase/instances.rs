//! Users' instances, as the API reports them.

use serde_json::Value;
use tokio::time::timeout;
use workflows::whatsapp::evolution::report::Report;

use crate::{
    database::{Database, PATIENCE},
    ledger::{Error, Result},
};

/// Take in what the API reports: memory and row of each instance that it changes. Those that cannot
/// be written now, and why: nothing of them was taken. Reports may come twice and in any order,
/// from any number of callers.
pub async fn hear(database: &Database, reports: &[Report]) -> Result<Vec<(String, String)>> {
    let reports: Value = reports.iter().map(Report::to_json).collect();
    let ask = database.ask("select instance, error from sluice.hear($1)", |ask| ask.bind(reports));
    Ok(timeout(PATIENCE, ask).await.map_err(|_| Error::Late(PATIENCE))??)
}
