//! The API hosts that the steps of this process call. Each that has a probe is watched: its gate is
//! told what attempts heard of it, and a failure that is the host's own is not counted as the
//! run's. Attempts that ask whose it is at the same moment share one answer.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use workflows::{
    breaker::{Probed, Rules, Signal, State, Word},
    definition::{Registry, Step},
    outcome::{Class, HostSignal, Outcome},
    workflow::Catalog,
};

use super::{Dice, batch::Batch, signals::Watch};
use crate::ledger::{Claim, HostGate, WorkerLedger};

/// The longest that a failed attempt waits for the answer whose failure it is: its lease is still
/// held.
const LONGEST: Duration = Duration::from_secs(2);

/// Whose failure a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    Run,
    Host,
}

/// Every host that is watched.
pub(super) struct Hosts<L> {
    hosts: Vec<Host<L>>,
}

struct Host<L> {
    watch: Arc<Watch<L>>,
    /// Asked with the moment at which the attempt began.
    blames: Batch<Instant, Blame>,
}

impl<L: WorkerLedger> Hosts<L> {
    pub(super) fn new(catalog: &Catalog, registry: &Registry, ledger: &L, rules: &Rules, dice: &Dice) -> Self {
        let watch = |host: String| {
            let Some(probe) = catalog.probe(&host).cloned() else {
                tracing::warn!(
                    host,
                    "no probe of this API host is registered (Catalog::probing): it has no breaker, and its outages \
                     count against runs"
                );
                return None;
            };
            let rules = Rules { key_advice: probe.key_advice(), ..*rules };
            let (ledger, dice) = (ledger.clone(), dice.clone());
            Some(Watch { host, ledger, probe, rules, dice, heard: Default::default(), said: Default::default() })
        };
        let hosts = registry.hosts().into_iter().filter_map(watch).map(Host::new).collect();
        Self { hosts }
    }

    pub(super) fn watches(&self) -> Vec<Arc<Watch<L>>> {
        self.hosts.iter().map(|host| host.watch.clone()).collect()
    }

    /// Notes what an attempt heard of its step's host.
    pub(super) fn hear(&self, step: &Step, claim: &Claim, outcome: &Outcome) {
        let Some(host) = self.of(step) else { return };
        let (failure, names) = (outcome.failure(), [claim.input.resource.as_str(), claim.input.subject.as_str()]);
        let heard = failure.map_or(HostSignal::Healthy, |failure| failure.host);
        let word = failure.and_then(|failure| Word::of(failure, names));
        host.watch.hear(Signal::of(claim.key.run, heard), word);
    }

    /// A failure that the host is to blame for is not counted. The host is asked at every such
    /// failure, not only after some: an outage of an hour costs even a lone run nothing, which no
    /// breaker protects, and a run that fails on its own still dies.
    pub(super) async fn excuse(&self, step: &Step, outcome: Outcome, began: Instant) -> Outcome {
        let Outcome::Retry(mut failure) = outcome else { return outcome };
        // A server's own trouble may come under any status: the class knows it too.
        let suspect = failure.host == HostSignal::Failing || failure.class == Class::ServerError;
        let Some(host) = self.of(step).filter(|_| suspect) else { return Outcome::Retry(failure) };
        if !matches!(host.blames.ask(began).await, Ok(Blame::Host)) {
            return Outcome::Retry(failure);
        }
        failure = failure.and("not counted: the API as a whole does not work");
        Outcome::Defer { failure, after: None }
    }

    fn of(&self, step: &Step) -> Option<&Host<L>> {
        let name = step.host.as_deref()?;
        self.hosts.iter().find(|host| host.watch.host == name)
    }
}

impl<L: WorkerLedger> Host<L> {
    fn new(watch: Watch<L>) -> Self {
        let watch = Arc::new(watch);
        let asked = watch.clone();
        let blames = Batch::new(move |began: Vec<Instant>| {
            let watch = asked.clone();
            async move { Ok(blame(&watch, &began).await) }
        });
        Self { watch, blames }
    }
}

/// The host is to blame where its breaker was not closed at some moment of the attempt, or where it
/// fails the probe too. `began` says when each attempt did: a call that an outage swallowed is
/// given up only after its timeout, and the outage may be over by then.
async fn blame<L: WorkerLedger>(watch: &Watch<L>, began: &[Instant]) -> Vec<Blame> {
    // Told before it is asked: where others failed at the same moment, this is what opens the
    // breaker.
    let gate = watch.tell().await.unwrap_or_else(|error| {
        tracing::debug!(host = watch.host, %error, "cannot ask the gate of the API's host");
        HostGate::default()
    });
    let now = Instant::now();
    let took = began.iter().map(|began| now.saturating_duration_since(*began));
    let mut blames: Vec<Blame> = took.map(|took| by_the_gate(&gate, took)).collect();
    let patience = watch.rules.patience.min(LONGEST);
    if blames.contains(&Blame::Run) && watch.ask(patience).await.found != Probed::Answered {
        blames.fill(Blame::Host);
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

    #[test]
    fn a_failure_is_the_runs_own_only_where_the_breaker_was_closed_all_along() {
        for (what, breaker, closed_for, blame) in [
            ("open", State::Open, None, Blame::Host),
            ("half-open, closed long ago", State::HalfOpen, Some(900), Blame::Host),
            ("closed while the attempt ran: an outage swallowed it", State::Closed, Some(3), Blame::Host),
            ("never open", State::Closed, None, Blame::Run),
            ("closed before the attempt", State::Closed, Some(16), Blame::Run),
        ] {
            let gate = HostGate { breaker, closed_for: closed_for.map(Duration::from_secs), ..HostGate::default() };
            assert_eq!(by_the_gate(&gate, Duration::from_secs(15)), blame, "{what}");
        }
    }
}
