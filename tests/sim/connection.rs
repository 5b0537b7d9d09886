//! One process' connection to the ledger: the real verbs over the rows in memory, behind latency and outages. An answer may be
//! lost after its commit. It watches over I9, and over the gates, at the moment of each verb.

use std::{sync::Arc, time::Duration};

use sluice::{
    ledger::{
        By, Changed, Claimed, Dispatched, Error, Expired, HostGate, Intake, Key, Lease, Ledger, NewRun, Probe, PutBack,
        Result, Scope, Settled, Settlement, Started, Worker, memory, settlement,
    },
    queue::{
        self, Marks,
        loss::{Epoch, Mark},
    },
};
use tokio::time;
use workflows::{
    breaker::{self, Probed, Rules, Signal},
    definition::{Reach, Registry},
    ids::{RunId, StepName, Token},
    state::StepState,
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

    fn watch_claim(&self, key: &Key, claimed: &Claimed) {
        let log = &self.stage.log;
        log.note(|| {
            format!("{} claims {} {} {}: {}", self.process.name, key.run, key.position, key.token, said(claimed))
        });
        match claimed {
            Claimed::Yes(claim) => {
                self.stage.play(&self.process, claim);
                let mut facts = self.stage.facts();
                if facts.paused.contains_key(&claim.step) {
                    log.broken(format!("a claim of {} went through a closed gate", claim.step));
                }
                let workflow = self.stage.registry.find(&claim.workflow, claim.version);
                let step = workflow.and_then(|workflow| workflow.step(key.position));
                if step.is_some_and(|step| step.reach == Reach::Exclusive) {
                    *facts.exclusive_claims.entry(claim.given.instance.clone()).or_default() += 1;
                }
            }
            Claimed::PutBack(PutBack::GateClosed) => log.hit("claim.gate_closed"),
            Claimed::PutBack(PutBack::ResourceBusy) => log.hit("claim.resource_busy"),
            Claimed::PutBack(PutBack::UnknownDefinition) => log.broken("a step is of no known definition".to_owned()),
            Claimed::Stale => log.hit("claim.stale"),
        }
    }

    /// I9: who does not hold the step changes nothing.
    fn watch_settle(&self, settlement: &Settlement, before: Option<&memory::Step>, settled: &Settled) {
        let (key, log) = (settlement.key, &self.stage.log);
        log.note(|| {
            let (outcome, error) =
                (settlement.attempt.outcome, settlement.attempt.error.as_deref().unwrap_or_default());
            let text = format!("settles {} {} {} as {outcome}: {settled:?}", key.run, key.position, key.token);
            format!("{} {text} {error}", self.process.name)
        });
        let held = before.is_some_and(|step| {
            let over = step.lease_until.is_some_and(|until| until <= log.now());
            let guard = settlement.guard == settlement::Guard::Token || over;
            step.state == StepState::Running && step.token == Some(key.token) && guard
        });
        match settled {
            Settled::Done(_) if !held => {
                log.broken(format!("I9: {} at {} was settled by one who did not hold it", key.run, key.position));
            }
            Settled::Stale => {
                log.hit("settle.stale");
                if before != self.stage.memory.step(key.run, key.position).as_ref() {
                    log.broken(format!("I9: a stale settle changed {} at {}", key.run, key.position));
                }
            }
            Settled::Done(_) => log.hit(settlement_name(settlement.attempt.outcome)),
            Settled::Refused(reason) => log.broken(format!("the ledger refuses a result: {reason}")),
        }
    }
}

fn away() -> Error {
    Error::Unreadable("nothing: the simulated database is away".to_owned())
}

fn said(claimed: &Claimed) -> String {
    match claimed {
        Claimed::Yes(claim) => format!("yes, attempt {} of {}", claim.attempt, claim.given.instance),
        Claimed::PutBack(why) => format!("put back, {why:?}"),
        Claimed::Stale => "stale".to_owned(),
    }
}

fn settlement_name(outcome: &str) -> &'static str {
    match outcome {
        "succeeded" => "settle.succeeded",
        "failed" => "settle.failed",
        "deferred" => "settle.deferred",
        "crashed" => "settle.crashed",
        "sent_back" => "settle.sent_back",
        _ => "settle.refused",
    }
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

    async fn lose_older(&self, after: Duration) -> Result<usize> {
        self.send().await?;
        let count = self.stage.memory.lose_older(after).await?;
        if count > 0 {
            self.stage.log.hit("step.forgotten");
        }
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

impl Stage {
    fn saw(&self, before: breaker::State, after: breaker::State) {
        if before != after {
            self.log.note(|| format!("the breaker is {after:?}"));
            self.log.hit(match after {
                breaker::State::Closed => "breaker.closed",
                breaker::State::Open => "breaker.opened",
                breaker::State::HalfOpen => "breaker.half_opened",
            });
        }
    }
}

/// A round of the watch ends at the ledger or at the queue.
#[derive(Debug)]
pub struct RoundFailed(anyhow::Error);

impl From<queue::Error> for RoundFailed {
    fn from(error: queue::Error) -> Self {
        Self(error.into())
    }
}

impl From<Error> for RoundFailed {
    fn from(error: Error) -> Self {
        Self(error.into())
    }
}

impl From<memory::WatchError> for RoundFailed {
    fn from(error: memory::WatchError) -> Self {
        Self(error.into())
    }
}

impl From<RoundFailed> for anyhow::Error {
    fn from(failed: RoundFailed) -> Self {
        failed.0
    }
}

impl Marks for Connection {
    type Error = RoundFailed;

    async fn read(&self) -> std::result::Result<Mark, RoundFailed> {
        self.send().await?;
        let mark = self.stage.memory.read().await?;
        Ok(self.receive(mark).await?)
    }

    async fn record_beat(&self, epoch: Epoch, beat: i64, server: Option<&str>) -> std::result::Result<(), RoundFailed> {
        self.send().await?;
        self.stage.memory.record_beat(epoch, beat, server).await?;
        Ok(self.receive(()).await?)
    }

    async fn take_epoch(
        &self,
        was: Option<Epoch>,
        now: Epoch,
        server: Option<&str>,
    ) -> std::result::Result<bool, RoundFailed> {
        self.send().await?;
        let taken = self.stage.memory.take_epoch(was, now, server).await?;
        Ok(self.receive(taken).await?)
    }
}
