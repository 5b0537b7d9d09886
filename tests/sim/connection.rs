//! One process' connection to the ledger: the real verbs over the rows in memory, behind latency
//! and outages. An answer may be lost after its commit. `watch` checks each verb at its moment.

mod watch;

use std::{sync::Arc, time::Duration};

use sluice::ledger::{
    Ask, Claimed, Error, Event, EventLedger, Expired, HostGate, Intake, Lease, Probe, RelayLedger, Result, Settled,
    Settlement, Traced, Upkeep, Waiting, WholeRun, Worker, WorkerLedger,
};
use tokio::time;
use uuid::Uuid;
use workflows::{
    breaker::{Answer, Rules, Signal, Word},
    definition::Registry,
    ids::RunId,
};

use crate::{chance::Chance, process::Process, stage::Stage};

#[derive(Clone)]
pub struct Connection {
    stage: Arc<Stage>,
    process: Arc<Process>,
    chance: Chance,
}

impl Connection {
    pub fn new(stage: Arc<Stage>, process: Arc<Process>, what: &str) -> Self {
        let chance = stage.chance(&format!("{} {what}", process.name));
        Self { stage, process, chance }
    }

    async fn send(&self) -> Result<()> {
        self.process.pass().await;
        let weather = &self.stage.weather;
        if weather.ledger_is_away() {
            self.stage.log.hit("ledger.away");
            time::sleep(self.chance.millis(1, 3_000)).await;
            self.process.pass().await;
            return Err(away());
        }
        let latency = if weather.ledger_is_slow() && self.chance.percent(40) {
            self.stage.log.hit("ledger.slow");
            self.chance.millis(200, 3_500)
        } else {
            self.chance.millis(1, 4)
        };
        time::sleep(latency).await;
        Ok(())
    }

    async fn receive<T>(&self, answer: T) -> Result<T> {
        if self.stage.weather.ledger_is_forgetful() && self.chance.percent(25) {
            self.stage.log.hit("ledger.answer_lost");
            self.process.pass().await;
            return Err(away());
        }
        self.process.pass().await;
        Ok(answer)
    }

    /// Whether the ledger answers.
    pub async fn ping(&self) -> Result<()> {
        self.send().await?;
        self.receive(()).await
    }

    /// A message that its sender has given up may arrive all the same, after those that it sent
    /// since.
    fn renew_late(&self, worker: &Worker, leases: &[Lease]) {
        let (stage, worker, leases) = (self.stage.clone(), worker.clone(), leases.to_vec());
        let delay = self.chance.millis(1, 3_000);
        tokio::spawn(async move {
            time::sleep(delay).await;
            if stage.ledger.renew(&worker, &leases).await.is_ok() {
                stage.ledger.end_session(&worker.name);
                stage.log.hit("renew.late");
            }
        });
    }

    /// One by one, so that each is seen with the rows right before and after it.
    async fn settle_watched(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        self.send().await?;
        let mut answers = Vec::with_capacity(settlements.len());
        for settlement in settlements {
            let before = self.stage.ledger.step(settlement.key.run, settlement.key.position);
            let settled = RelayLedger::settle(&self.stage.ledger, std::slice::from_ref(settlement)).await?;
            for settled in settled {
                self.watch_settle(settlement, before.as_ref(), &settled);
                answers.push(settled);
            }
        }
        self.receive(answers).await
    }
}

fn away() -> Error {
    Error::Unreadable("nothing: the simulated database is away".to_owned())
}

impl RelayLedger for Connection {
    fn registry(&self) -> &Registry {
        &self.stage.registry
    }

    async fn intake(&self, limit: usize) -> Result<Intake> {
        self.send().await?;
        let intake = self.stage.ledger.intake(limit).await?;
        self.receive(intake).await
    }

    async fn waiting(&self, most: usize) -> Result<Vec<Waiting>> {
        self.send().await?;
        let waiting = self.stage.ledger.waiting(most).await?;
        self.receive(waiting).await
    }

    async fn keep_traces(&self, contexts: &[Traced]) -> Result<Vec<bool>> {
        self.send().await?;
        let kept = self.stage.ledger.keep_traces(contexts).await?;
        self.receive(kept).await
    }

    async fn upkeep(&self) -> Result<Upkeep> {
        self.send().await?;
        let upkeep = self.stage.ledger.upkeep().await?;
        self.receive(upkeep).await
    }

    async fn end_leases(&self) -> Result<usize> {
        self.send().await?;
        let ended = self.stage.ledger.end_leases().await?;
        if ended > 0 {
            self.stage.log.hit("lease.ended_with_its_session");
        }
        self.receive(ended).await
    }

    async fn expired(&self, limit: usize) -> Result<Vec<Expired>> {
        self.send().await?;
        let expired = self.stage.ledger.expired(limit).await?;
        self.receive(expired).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        self.settle_watched(settlements).await
    }

    async fn exceed(&self, limit: usize) -> Result<Vec<WholeRun>> {
        self.send().await?;
        let ended = self.stage.ledger.exceed(limit).await?;
        self.receive(ended).await
    }

    async fn spans_that_wait(&self, limit: usize) -> Result<Vec<WholeRun>> {
        self.send().await?;
        let ended = self.stage.ledger.spans_that_wait(limit).await?;
        self.receive(ended).await
    }

    async fn project_pending(&self, limit: usize) -> Result<usize> {
        self.stage.ledger.project_pending(limit).await
    }

    async fn explain(&self, limit: usize) -> Result<usize> {
        self.send().await?;
        let count = self.stage.ledger.explain(limit).await?;
        self.receive(count).await
    }

    async fn look_again(&self, limit: usize) -> Result<usize> {
        self.send().await?;
        let started = self.stage.ledger.look_again(limit).await?;
        if started > 0 {
            self.stage.log.hit("instance.looked_at_again");
        }
        self.receive(started).await
    }
}

impl EventLedger for Connection {
    async fn claim_events(&self, publisher: &str, lease: Duration, most: usize) -> Result<Vec<Event>> {
        self.send().await?;
        let events = self.stage.ledger.claim_events(publisher, lease, most).await?;
        self.receive(events).await
    }

    async fn publish_events(&self, publisher: &str, confirmed: &[Uuid], unconfirmed: &[Uuid]) -> Result<()> {
        self.send().await?;
        self.stage.ledger.publish_events(publisher, confirmed, unconfirmed).await?;
        self.receive(()).await
    }
}

impl WorkerLedger for Connection {
    async fn claim(&self, worker: &Worker, asked: &[Ask]) -> Result<Vec<Claimed>> {
        self.send().await?;
        let claimed = self.stage.ledger.claim(worker, asked).await?;
        for (ask, claimed) in asked.iter().zip(&claimed) {
            self.watch_claim(&ask.key, claimed);
        }
        self.receive(claimed).await
    }

    async fn renew(&self, worker: &Worker, leases: &[Lease]) -> Result<Vec<Option<bool>>> {
        let sent = self.send().await;
        if sent.is_err() || self.chance.percent(1) {
            self.stage.log.hit("session.cut");
            self.stage.ledger.end_session(&worker.name);
            self.renew_late(worker, leases);
            return sent.and(Err(away()));
        }
        let kept = self.stage.ledger.renew(worker, leases).await?;
        if kept.contains(&Some(false)) {
            self.stage.log.hit("renew.refused");
        }
        self.receive(kept).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        self.settle_watched(settlements).await
    }

    async fn doubt(&self, run: RunId) -> Result<()> {
        self.send().await?;
        self.stage.ledger.doubt(run).await?;
        self.stage.log.hit("call.doubted");
        self.receive(()).await
    }

    async fn report(
        &self,
        host: &str,
        signals: &[Signal],
        word: Option<&Word>,
        rules: &Rules,
        jitter: f64,
    ) -> Result<HostGate> {
        self.send().await?;
        let before = self.stage.ledger.host_gate(host).await?.breaker;
        let gate = self.stage.ledger.report(host, signals, word, rules, jitter).await?;
        self.stage.saw(before, gate.breaker);
        self.receive(gate).await
    }

    async fn host_gate(&self, host: &str) -> Result<HostGate> {
        self.send().await?;
        let gate = self.stage.ledger.host_gate(host).await?;
        self.receive(gate).await
    }

    async fn probe(&self, host: &str, lease: Duration) -> Result<Option<Probe>> {
        self.send().await?;
        let probe = self.stage.ledger.probe(host, lease).await?;
        if probe.is_some() {
            self.stage.log.hit("breaker.probed");
        }
        self.receive(probe).await
    }

    async fn probed(&self, host: &str, probe: Probe, answer: &Answer, rules: &Rules, jitter: f64) -> Result<HostGate> {
        self.send().await?;
        let before = self.stage.ledger.host_gate(host).await?.breaker;
        let gate = self.stage.ledger.probed(host, probe, answer, rules, jitter).await?;
        self.stage.saw(before, gate.breaker);
        self.receive(gate).await
    }
}
