//! Notices that Redis is not what it was, and makes everything that it held due again.

use crate::{
    ledger::postgres::Postgres,
    queue::{self, Queue, Round, loss::Epoch},
};

/// One round. Whether steps became due.
pub async fn watch_once(ledger: &Postgres, queue: &Queue) -> anyhow::Result<bool> {
    match queue::watch_once(queue, ledger, Epoch::new(rand::random())).await? {
        Round::Intact => Ok(false),
        Round::Handled(loss) => {
            tracing::warn!(%loss, "every dispatched step is due again");
            Ok(true)
        }
        Round::Overtaken(loss) => {
            tracing::info!(%loss, "another relay was faster");
            Ok(false)
        }
    }
}
