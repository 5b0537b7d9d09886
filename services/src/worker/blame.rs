//! Whose failure a failure is: the run's, or the host's. Attempts that ask at the same moment share one answer.

use std::time::Duration;

use workflows::{
    breaker::{Probed, State},
    evolution::Evolution,
};

use super::signals::ask;
use crate::ledger::Ledger;

/// The longest that a failed attempt waits for the answer: its lease is still held.
const LONGEST: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    Run,
    Host,
}

/// The host is to blame where its breaker is not closed, or where it does not answer `POST /verify-creds` either.
pub(super) async fn blame(api: &impl Evolution, ledger: &impl Ledger, host: Option<&str>, patience: Duration) -> Blame {
    if let Some(host) = host {
        match ledger.host_gate(host).await {
            Ok(gate) if gate.breaker != State::Closed => return Blame::Host,
            Ok(_) => {}
            Err(error) => tracing::debug!(host, %error, "cannot ask the gate of the API's host"),
        }
    }
    match ask(api, patience.min(LONGEST)).await {
        (Probed::Answered, _) => Blame::Run,
        (Probed::Failed | Probed::KeyRefused, _) => Blame::Host,
    }
}
