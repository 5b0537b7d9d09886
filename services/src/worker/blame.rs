//! Whose failure a failure is: the run's, or the host's. Attempts that ask at the same moment share
//! one answer.

use std::time::Duration;

use tokio::time::Instant;
use workflows::breaker::{Probed, State};

use super::signals::Watch;
use crate::ledger::{HostGate, WorkerLedger};

/// The longest that a failed attempt waits for the answer: its lease is still held.
const LONGEST: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    Run,
    Host,
}

/// The host is to blame where its breaker was not closed at some moment of the attempt, or where it
/// fails the probe too. `began` says when each attempt did: a call that an outage swallowed is
/// given up only after its timeout, and the outage may be over by then.
pub(super) async fn blame<L: WorkerLedger>(watch: &Watch<L>, began: &[Instant]) -> Vec<Blame> {
    // Told before it is asked: where others failed at the same moment, this is what opens the
    // breaker.
    let gate = watch.tell().await.unwrap_or_else(|error| {
        tracing::debug!(host = watch.host, %error, "cannot ask the gate of the API's host");
        HostGate::default()
    });
    let now = Instant::now();
    let took = began.iter().map(|began| now.saturating_duration_since(*began));
    let mut blames: Vec<Blame> = took.map(|took| by_the_gate(&gate, took)).collect();
    if blames.contains(&Blame::Run) {
        let patience = watch.rules.patience.min(LONGEST);
        if watch.ask(patience).await.found != Probed::Answered {
            blames.fill(Blame::Host);
        }
    }
    blames
}

fn by_the_gate(gate: &HostGate, took: Duration) -> Blame {
    let closed_all_along = gate.breaker == State::Closed && gate.closed_for.is_none_or(|closed_for| closed_for > took);
    if closed_all_along { Blame::Run } else { Blame::Host }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_secs(15);

    fn gate(breaker: State, closed_for: Option<u64>) -> HostGate {
        HostGate { breaker, closed_for: closed_for.map(Duration::from_secs), ..HostGate::default() }
    }

    #[test]
    fn an_attempt_that_an_outage_swallowed_is_the_hosts_failure_though_the_outage_is_over_when_it_times_out() {
        assert_eq!(by_the_gate(&gate(State::Open, None), TOOK), Blame::Host);
        assert_eq!(by_the_gate(&gate(State::HalfOpen, Some(900)), TOOK), Blame::Host);
        assert_eq!(by_the_gate(&gate(State::Closed, Some(3)), TOOK), Blame::Host);
    }

    #[test]
    fn an_attempt_that_saw_the_breaker_closed_all_along_is_its_runs_own_failure() {
        assert_eq!(by_the_gate(&gate(State::Closed, None), TOOK), Blame::Run);
        assert_eq!(by_the_gate(&gate(State::Closed, Some(16)), TOOK), Blame::Run);
    }
}
