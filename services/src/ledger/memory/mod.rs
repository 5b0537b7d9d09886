//! The ledger in memory: the same protocol as `postgres`, for the simulator and for tests. Deterministic: the time comes
//! in as a clock, run ids and instance tokens with `Setup`. One lock stands for the database; every verb holds it once, from start to end, so
//! that a verb is as atomic as a transaction. It is never held across an await, and never kept beyond a process.

mod breaker;
mod claim;
mod closure;
mod command;
mod dispatch;
mod doubt;
mod end;
mod gate;
mod intake;
mod invariants;
mod redis_mark;
mod rows;
mod safeguard;
mod settle;
mod start;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use workflows::{
    breaker::{Probed, Rules, Signal},
    definition::Registry,
    ids::{RunId, StepName, Token, UserId},
    policy::Retry,
    state::{Effect, Event, StepState, transition},
};

pub use self::redis_mark::{RedisMark, WatchError};
pub use self::rows::{
    Attempt, DeadLetter, Event as EventRow, Gate, Instance, QueueRow, QueueStatus, Resolution, Resource, Run, Scope,
    Step, Tables,
};
pub use self::safeguard::Safeguard;
use super::{
    By, Changed, Claimed, Dispatched, Draw, Expired, HostGate, Intake, Key, Lease, Ledger, NewRun, Probe, Result,
    Settled, Settlement, Setup, Started, Worker,
};

/// The time since a moment of the caller's choice. It never goes back.
pub type Clock = Draw<Duration>;

/// The ledger that the simulator runs on. Clones share their rows.
#[derive(Clone)]
pub struct Memory {
    setup: Setup,
    clock: Clock,
    tables: Arc<Mutex<Tables>>,
    removed: Option<Safeguard>,
}

impl Memory {
    pub fn new(setup: Setup, clock: Clock) -> Self {
        Self { setup, clock, tables: Arc::default(), removed: None }
    }

    /// The same rows under other definitions: what a process of another build sees.
    pub fn with_setup(&self, setup: Setup) -> Self {
        Self { setup, ..self.clone() }
    }

    /// Every row as it is now.
    pub fn tables(&self) -> Tables {
        self.transact(|tx| tx.tables.clone())
    }

    pub fn run(&self, run: RunId) -> Option<Run> {
        self.transact(|tx| tx.tables.runs.get(&run).cloned())
    }

    pub fn step(&self, run: RunId, position: i16) -> Option<Step> {
        self.transact(|tx| tx.tables.steps.get(&(run, position)).cloned())
    }

    /// The user's row in the public queue.
    pub fn queue_row(&self, user: UserId) -> Option<QueueRow> {
        self.transact(|tx| tx.tables.queue.get(&user).cloned())
    }

    /// Whether no run is active, no queue row pending and no instance doubted.
    pub fn is_idle(&self) -> bool {
        self.transact(|tx| tx.is_idle())
    }

    /// What is broken among I2, I5 and I6, a line each; empty where all is well.
    pub fn check_invariants(&self) -> Vec<String> {
        self.transact(|tx| invariants::check(tx.tables, tx.setup))
    }

    fn transact<T>(&self, change: impl FnOnce(&mut Tx<'_>) -> T) -> T {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.clock)();
        change(&mut Tx { tables: &mut tables, setup: &self.setup, now, removed: self.removed })
    }
}

/// One verb at work: the rows, and the one moment that counts as now.
struct Tx<'a> {
    tables: &'a mut Tables,
    setup: &'a Setup,
    now: Duration,
    removed: Option<Safeguard>,
}

impl Tx<'_> {
    /// Move a step as the state machine says; `None` where it has no such move, and then nothing changed.
    fn meet(&mut self, run: RunId, position: i16, event: Event) -> Option<Vec<Effect>> {
        let step = self.tables.steps.get_mut(&(run, position))?;
        let held = workflows::state::Step { state: step.state, spent: step.spent };
        let (next, effects) = transition(held, event, &Retry::default().limits).ok()?;
        step.enter(next.state);
        step.spent = next.spent;
        Some(effects)
    }

    /// The step that `key` names, where it is in `state` under that token.
    fn held(&mut self, key: &Key, state: StepState) -> Option<&mut Step> {
        let fenced = self.guards(Safeguard::Fencing);
        let step = self.tables.steps.get_mut(&(key.run, key.position))?;
        (step.state == state && (step.token == Some(key.token) || !fenced)).then_some(step)
    }

    /// Whether this guard stands.
    fn guards(&self, safeguard: Safeguard) -> bool {
        self.removed != Some(safeguard)
    }
}

impl Ledger for Memory {
    async fn start(&self, runs: &[NewRun]) -> Result<Vec<Started>> {
        Ok(self.transact(|tx| runs.iter().map(|run| tx.start(run)).collect()))
    }

    async fn intake(&self, limit: usize) -> Result<Intake> {
        Ok(self.transact(|tx| tx.intake(limit)))
    }

    fn registry(&self) -> &Registry {
        &self.setup.registry
    }

    async fn due(&self) -> Result<Vec<StepName>> {
        Ok(self.transact(|tx| tx.due_queues()))
    }

    async fn dispatch(&self, queue: &StepName, host: Option<&str>, tokens: &[Token]) -> Result<Vec<Dispatched>> {
        Ok(self.transact(|tx| tx.dispatch(queue, host, tokens)))
    }

    async fn begin_traces(&self, contexts: &[(RunId, String)]) -> Result<Vec<bool>> {
        Ok(self.transact(|tx| contexts.iter().map(|(run, context)| tx.begin_trace(*run, context)).collect()))
    }

    async fn put_back(&self, keys: &[Key]) -> Result<usize> {
        Ok(self.transact(|tx| keys.iter().filter(|key| tx.put_back(key)).count()))
    }

    async fn lose(&self) -> Result<usize> {
        Ok(self.transact(|tx| tx.lose()))
    }

    async fn unclaimed(&self, after: Duration, limit: usize) -> Result<Vec<(StepName, Key)>> {
        Ok(self.transact(|tx| tx.unclaimed(after, limit)))
    }

    async fn claim(&self, worker: &Worker, keys: &[Key]) -> Result<Vec<Claimed>> {
        Ok(self.transact(|tx| keys.iter().map(|key| tx.claim(worker, key)).collect()))
    }

    async fn renew(&self, worker: &Worker, leases: &[Lease]) -> Result<Vec<bool>> {
        Ok(self.transact(|tx| {
            tx.tables.heartbeats.insert(worker.name.clone(), tx.now);
            leases.iter().map(|lease| tx.renew(lease)).collect()
        }))
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        Ok(self.transact(|tx| settlements.iter().map(|settlement| tx.settle(settlement)).collect()))
    }

    async fn doubt(&self, run: RunId) -> Result<()> {
        self.transact(|tx| tx.doubt(run));
        Ok(())
    }

    async fn look_again(&self, limit: usize) -> Result<usize> {
        Ok(self.transact(|tx| tx.look_again(limit)))
    }

    async fn expired(&self, limit: usize) -> Result<Vec<Expired>> {
        Ok(self.transact(|tx| tx.expired(limit)))
    }

    async fn exceed(&self, host: Option<&str>, limit: usize) -> Result<usize> {
        Ok(self.transact(|tx| tx.exceed(host, limit)))
    }

    async fn project_pending(&self, _limit: usize) -> Result<usize> {
        // The public rows of this ledger never refuse a write.
        Ok(0)
    }

    async fn revive(&self, run: RunId, by: &By) -> Result<Changed> {
        Ok(self.transact(|tx| tx.revive(run, by)))
    }

    async fn cancel(&self, run: RunId, by: &By) -> Result<Changed> {
        Ok(self.transact(|tx| tx.cancel(run, by)))
    }

    async fn pause(&self, scope: Scope, name: &str, _by: &By) -> Result<bool> {
        Ok(self.transact(|tx| tx.pause(scope, name)))
    }

    async fn resume(&self, scope: Scope, name: &str, _by: &By) -> Result<bool> {
        Ok(self.transact(|tx| tx.resume(scope, name)))
    }

    async fn hold(&self, scope: Scope, name: &str, duration: Duration, _by: &By) -> Result<bool> {
        Ok(self.transact(|tx| tx.hold(scope, name, duration)))
    }

    async fn set_rate(&self, scope: Scope, name: &str, rate: Option<f64>, _by: &By) -> Result<bool> {
        Ok(self.transact(|tx| tx.set_rate(scope, name, rate)))
    }

    async fn set_concurrency(&self, scope: Scope, name: &str, limit: Option<u32>, _by: &By) -> Result<bool> {
        Ok(self.transact(|tx| tx.set_concurrency(scope, name, limit)))
    }

    async fn report(&self, host: &str, signals: &[Signal], rules: &Rules, jitter: f64) -> Result<HostGate> {
        Ok(self.transact(|tx| tx.report(host, signals, rules, jitter)))
    }

    async fn host_gate(&self, host: &str) -> Result<HostGate> {
        Ok(self.transact(|tx| tx.host_gate(host)))
    }

    async fn probe(&self, host: &str, lease: Duration) -> Result<Option<Probe>> {
        Ok(self.transact(|tx| tx.probe(host, lease)))
    }

    async fn probed(&self, host: &str, probe: Probe, found: Probed, rules: &Rules, jitter: f64) -> Result<HostGate> {
        Ok(self.transact(|tx| tx.probed(host, probe, found, rules, jitter)))
    }

    async fn explain(&self, host: &str, limit: usize) -> Result<usize> {
        Ok(self.transact(|tx| tx.explain(host, limit)))
    }
}
