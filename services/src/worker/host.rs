//! The API hosts that the steps of this process call. Each that has a probe is watched: its gate is
//! told what attempts heard of it, and a failure that is the host's own is not counted as the
//! run's.

use std::sync::Arc;

use tokio::time::Instant;
use workflows::{
    breaker::{Rules, Signal, Word},
    definition::{Registry, Step},
    outcome::{Class, HostSignal, Outcome},
    workflow::Catalog,
};

use super::{
    Dice,
    batch::Batch,
    blame::{Blame, blame},
    signals::{Signals, Watch},
};
use crate::ledger::{Claim, WorkerLedger};

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
            let (ledger, signals, dice) = (ledger.clone(), Signals::default(), dice.clone());
            Some(Arc::new(Watch { host, ledger, probe, signals, rules, dice }))
        };
        let hosts = registry.hosts().into_iter().filter_map(watch).map(Host::new).collect();
        Self { hosts }
    }

    pub(super) fn watches(&self) -> Vec<Arc<Watch<L>>> {
        self.hosts.iter().map(|host| host.watch.clone()).collect()
    }

    /// Notes what an attempt heard of its step's host.
    pub(super) fn hear(&self, step: &Step, claim: &Claim, outcome: &Outcome) {
        let failure = outcome.failure();
        let heard = failure.map_or(HostSignal::Healthy, |failure| failure.host);
        if let Some(host) = self.of(step) {
            let names = [claim.input.resource.as_str(), claim.input.subject.as_str()];
            host.watch
                .signals
                .hear(Signal::of(claim.key.run, heard), failure.and_then(|failure| Word::of(failure, names)));
        }
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
    fn new(watch: Arc<Watch<L>>) -> Self {
        let asked = watch.clone();
        let blames = Batch::new(move |began: Vec<Instant>| {
            let watch = asked.clone();
            async move { Ok(blame(&watch, &began).await) }
        });
        Self { watch, blames }
    }
}
