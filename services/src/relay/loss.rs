//! Notices that Redis is not what it was, and makes everything that it held due again.

use crate::queue::{self, Marks, Round, Stamps, loss::Epoch};

/// One round. `fresh` is random and used once. Whether steps became due.
pub async fn watch_once<M, Q>(ledger: &M, queue: &Q, fresh: Epoch) -> anyhow::Result<bool>
where
    M: Marks<Error: Into<anyhow::Error>>,
    Q: Stamps,
{
    match queue::watch_once(queue, ledger, fresh).await.map_err(Into::into)? {
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
