//! One process' connection to the ledger: the real verbs over the rows in memory, behind latency and outages. An answer may be
//! lost after its commit. `watch` checks each verb at its moment, `marks` is the half of the watch over the queue.

mod marks;
mod watch;

use std::{sync::Arc, time::Duration};

use sluice::ledger::{
    By, Changed, Claimed, Dispatched, Error, Expired, HostGate, Intake, Key, Lease, Ledger, NewRun, Probe, Result,
    Scope, Settled, Settlement, Started, Worker,
};
use tokio::time;
use workflows::{
    breaker::{Probed, Rules, Signal},
    definition::Registry,
    ids::{RunId, StepName, Token},
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
}

fn away() -> Error {
    Error::Unreadable("nothing: the simulated database is away".to_owned())
}

impl Ledger for Connection {
    async fn start(&self, runs: &[NewRun]) -> Result<Vec<Started>> {
        self.send().await?;
        let started = self.stage.memory.start(runs).await?;
        self.receive(started).await
    }

    async fn intake(&self, limit: usize) -> Result<Intake> {
        self.send().await?;
        let intake = self.stage.memory.intake(limit).await?;
        self.receive(intake).await
    }

    fn registry(&self) -> &Registry {
        &self.stage.registry
    }

    async fn due(&self) -> Result<Vec<StepName>> {
        self.send().await?;
        let due = self.stage.memory.due().await?;
        self.receive(due).await
    }

    async fn dispatch(&self, queue: &StepName, host: Option<&str>, tokens: &[Token]) -> Result<Vec<Dispatched>> {
        self.send().await?;
        let dispatched = self.stage.memory.dispatch(queue, host, tokens).await?;
        for Dispatched { key, .. } in &dispatched {
            self.stage
                .log
                .note(|| format!("{} dispatches {} {} {}", self.process.name, key.run, key.position, key.token));
        }
        self.receive(dispatched).await
    }

    async fn begin_traces(&self, contexts: &[(RunId, String)]) -> Result<Vec<bool>> {
        self.send().await?;
        let begun = self.stage.memory.begin_traces(contexts).await?;
        self.receive(begun).await
    }

    async fn put_back(&self, keys: &[Key]) -> Result<usize> {
        self.send().await?;
        let count = self.stage.memory.put_back(keys).await?;
        self.receive(count).await
    }

    async fn lose(&self) -> Result<usize> {
        self.send().await?;
        let count = self.stage.memory.lose().await?;
        self.receive(count).await
    }

    async fn unclaimed(&self, after: Duration, limit: usize) -> Result<Vec<(StepName, Key)>> {
        self.send().await?;
        let unclaimed = self.stage.memory.unclaimed(after, limit).await?;
        self.receive(unclaimed).await
    }

    async fn claim(&self, worker: &Worker, keys: &[Key]) -> Result<Vec<Claimed>> {
        self.send().await?;
        let claimed = self.stage.memory.claim(worker, keys).await?;
        for (key, claimed) in keys.iter().zip(&claimed) {
            self.watch_claim(key, claimed);
        }
        self.receive(claimed).await
    }

    async fn renew(&self, worker: &Worker, leases: &[Lease]) -> Result<Vec<bool>> {
        self.send().await?;
        let kept = self.stage.memory.renew(worker, leases).await?;
        if kept.contains(&false) {
            self.stage.log.hit("renew.refused");
        }
        self.receive(kept).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        self.send().await?;
        let mut answers = Vec::with_capacity(settlements.len());
        // One by one, so that each is seen with the rows right before and after it.
        for settlement in settlements {
            let before = self.stage.memory.step(settlement.key.run, settlement.key.position);
            let settled = self.stage.memory.settle(std::slice::from_ref(settlement)).await?;
            for settled in settled {
                self.watch_settle(settlement, before.as_ref(), &settled);
                answers.push(settled);
            }
        }
        self.receive(answers).await
    }

    async fn doubt(&self, run: RunId) -> Result<()> {
        self.send().await?;
        self.stage.memory.doubt(run).await?;
        self.stage.log.hit("call.doubted");
        self.receive(()).await
    }

    async fn look_again(&self, limit: usize) -> Result<usize> {
        self.send().await?;
        let started = self.stage.memory.look_again(limit).await?;
        if started > 0 {
            self.stage.log.hit("instance.looked_at_again");
        }
        self.receive(started).await
    }

    async fn expired(&self, limit: usize) -> Result<Vec<Expired>> {
        self.send().await?;
        let expired = self.stage.memory.expired(limit).await?;
        self.receive(expired).await
    }

    async fn exceed(&self, host: Option<&str>, limit: usize) -> Result<usize> {
        self.send().await?;
        let count = self.stage.memory.exceed(host, limit).await?;
        self.receive(count).await
    }

    async fn project_pending(&self, limit: usize) -> Result<usize> {
        self.stage.memory.project_pending(limit).await
    }

    async fn revive(&self, run: RunId, by: &By) -> Result<Changed> {
        self.send().await?;
        let changed = self.stage.memory.revive(run, by).await?;
        self.receive(changed).await
    }

    async fn cancel(&self, run: RunId, by: &By) -> Result<Changed> {
        self.send().await?;
        let changed = self.stage.memory.cancel(run, by).await?;
        self.receive(changed).await
    }

    async fn pause(&self, scope: Scope, name: &str, by: &By) -> Result<bool> {
        self.send().await?;
        let paused = self.stage.memory.pause(scope, name, by).await?;
        self.receive(paused).await
    }

    async fn resume(&self, scope: Scope, name: &str, by: &By) -> Result<bool> {
        self.send().await?;
        let resumed = self.stage.memory.resume(scope, name, by).await?;
        self.receive(resumed).await
    }

    async fn hold(&self, scope: Scope, name: &str, duration: Duration, by: &By) -> Result<bool> {
        self.send().await?;
        let held = self.stage.memory.hold(scope, name, duration, by).await?;
        self.receive(held).await
    }

    async fn set_rate(&self, scope: Scope, name: &str, rate: Option<f64>, by: &By) -> Result<bool> {
        self.send().await?;
        let set = self.stage.memory.set_rate(scope, name, rate, by).await?;
        self.receive(set).await
    }

    async fn set_concurrency(&self, scope: Scope, name: &str, limit: Option<u32>, by: &By) -> Result<bool> {
        self.send().await?;
        let set = self.stage.memory.set_concurrency(scope, name, limit, by).await?;
        self.receive(set).await
    }

    async fn report(&self, host: &str, signals: &[Signal], rules: &Rules, jitter: f64) -> Result<HostGate> {
        self.send().await?;
        let before = self.stage.memory.host_gate(host).await?.breaker;
        let gate = self.stage.memory.report(host, signals, rules, jitter).await?;
        self.stage.saw(before, gate.breaker);
        self.receive(gate).await
    }

    async fn host_gate(&self, host: &str) -> Result<HostGate> {
        self.send().await?;
        let gate = self.stage.memory.host_gate(host).await?;
        self.receive(gate).await
    }

    async fn probe(&self, host: &str, lease: Duration) -> Result<Option<Probe>> {
        self.send().await?;
        let probe = self.stage.memory.probe(host, lease).await?;
        if probe.is_some() {
            self.stage.log.hit("breaker.probed");
        }
        self.receive(probe).await
    }

    async fn probed(&self, host: &str, probe: Probe, found: Probed, rules: &Rules, jitter: f64) -> Result<HostGate> {
        self.send().await?;
        let before = self.stage.memory.host_gate(host).await?.breaker;
        let gate = self.stage.memory.probed(host, probe, found, rules, jitter).await?;
        self.stage.saw(before, gate.breaker);
        self.receive(gate).await
    }

    async fn explain(&self, host: &str, limit: usize) -> Result<usize> {
        self.send().await?;
        let count = self.stage.memory.explain(host, limit).await?;
        self.receive(count).await
    }
}
