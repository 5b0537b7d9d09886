//! The model ledger: the protocol of the ledger in Postgres, in memory. The simulator runs on it,
//! and the conformance suite holds both to the same behaviours.
//!
//! Deterministic: time, ids, secrets and tokens come in with `Setup` and `Clock`. One lock stands
//! for the database. Each verb holds it once, from start to end, so that a verb is as atomic as a
//! transaction. The lock is never held across an await.

mod breaker;
mod claim;
mod closed_time;
mod command;
mod direct;
mod end;
mod events;
mod gate;
mod intake;
mod invariants;
mod look_again;
mod rows;
mod safeguard;
mod settle;
mod start;
mod waiting;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sluice::ledger::{
    Ask, By, Changed, Claimed, Expired, HostGate, Intake, Lease, OperatorLedger, Probe, RelayLedger, Result, Settled,
    Settlement, Traced, Upkeep, Waiting, WholeRun, Worker, WorkerLedger,
};
use workflows::{
    breaker::{Answer, Rules, Signal, Word},
    definition::{Definition, Registry},
    ids::{RunId, Token, WorkflowName},
    secret::Secret,
    state::{Effect, Move, transition},
    whatsapp::names::UserId,
};

pub use self::{
    breaker::{BETWEEN_RUNS, PREFER_UNTRIED, slow_start},
    direct::{Ledger, NewRun, Started},
    rows::{
        Attempt, Behind, ClosedTime, DeadLetter, Event as EventRow, Gate, QueueRow, QueueStatus, Resolution, Resource,
        Run, Scope, Step, Tables,
    },
    safeguard::Safeguard,
};

/// Draws what must be random or fresh.
pub type Draw<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// The time since a moment of the caller's choice. It never goes back.
pub type Clock = Draw<Duration>;

/// What a ledger is set up with.
#[derive(Clone)]
pub struct Setup {
    /// The definitions that this build knows.
    pub registry: Arc<Registry>,
    /// Each id greater than the one before.
    pub draw_run: Draw<RunId>,
    /// A resource's own secret.
    pub draw_secret: Draw<Secret>,
    /// A claim's token.
    pub draw_token: Draw<Token>,
    /// The workflow that a sign-up starts.
    pub on_sign_up: WorkflowName,
}

/// The ledger in memory. Clones share their rows.
#[derive(Clone)]
pub struct ModelLedger {
    setup: Setup,
    clock: Clock,
    tables: Arc<Mutex<Tables>>,
    removed: Option<Safeguard>,
}

impl ModelLedger {
    pub fn new(setup: Setup, clock: Clock) -> Self {
        let ledger = Self { setup, clock, tables: Arc::default(), removed: None };
        ledger.transact(|tx| tx.register());
        ledger
    }

    /// The same rows under other definitions: what a process of another build sees, once it has
    /// registered these.
    pub fn with_setup(&self, setup: Setup) -> Self {
        let ledger = Self { setup, ..self.clone() };
        ledger.transact(|tx| tx.register());
        ledger
    }

    /// Every row as it is now.
    pub fn tables(&self) -> Tables {
        self.read(Tables::clone)
    }

    /// Reads the rows as they are now, without a copy.
    pub fn read<T>(&self, read: impl FnOnce(&Tables) -> T) -> T {
        read(&self.tables.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn run(&self, run: RunId) -> Option<Run> {
        self.read(|tables| tables.runs.get(&run).cloned())
    }

    pub fn step(&self, run: RunId, position: i16) -> Option<Step> {
        self.read(|tables| tables.steps.get(&(run, position)).cloned())
    }

    /// The user's row in the public queue.
    pub fn queue_row(&self, user: UserId) -> Option<QueueRow> {
        self.read(|tables| tables.queue.get(&user).cloned())
    }

    /// The worker's session ends, as a killed process' does and one whose connection is cut.
    pub fn end_session(&self, worker: &str) {
        self.transact(|tx| {
            if let Some(beat) = tx.tables.heartbeats.get_mut(worker) {
                beat.session_ended = true;
            }
        });
    }

    /// Whether no run is active, no queue row pending and no resource doubted.
    pub fn is_idle(&self) -> bool {
        self.read(intake::is_idle)
    }

    /// What is broken among I2, I5, I6 and I9, a line each; empty where all is well.
    pub fn check_invariants(&self) -> Vec<String> {
        self.read(invariants::check)
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
    /// Builds beside this one keep what they have registered.
    fn register(&mut self) {
        let ours = &self.setup.registry;
        let theirs = self.tables.registered.all().filter(|known| ours.find(&known.name, known.version).is_none());
        let all = theirs.chain(ours.all()).cloned().collect();
        self.tables.registered = Registry::new(all);
    }

    /// The run's own definition, where anybody has registered it.
    fn definition(&self, run: RunId) -> Option<&Definition> {
        let run = self.tables.runs.get(&run)?;
        self.tables.registered.find(&run.workflow, run.version)
    }

    /// Moves a step as the state machine says; `None` where it has no such move, and then nothing
    /// changed.
    fn make(&mut self, run: RunId, position: i16, wanted: Move) -> Option<Vec<Effect>> {
        let definition = self.definition(run).and_then(|definition| definition.step(position));
        let limits = definition.map(|step| step.retry).unwrap_or_default().limits;
        let step = self.tables.steps.get_mut(&(run, position))?;
        let held = workflows::state::Standing { state: step.state, spent: step.spent };
        let (next, effects) = transition(held, wanted, &limits).ok()?;
        step.enter(next.state);
        step.spent = next.spent;
        Some(effects)
    }

    /// Whether this guard stands.
    fn guards(&self, safeguard: Safeguard) -> bool {
        self.removed != Some(safeguard)
    }
}

impl RelayLedger for ModelLedger {
    fn registry(&self) -> &Registry {
        &self.setup.registry
    }

    async fn intake(&self, limit: usize) -> Result<Intake> {
        Ok(self.transact(|tx| tx.intake(limit)))
    }

    async fn waiting(&self, most: usize) -> Result<Vec<Waiting>> {
        Ok(self.transact(|tx| tx.waiting(most)))
    }

    async fn keep_traces(&self, contexts: &[Traced]) -> Result<Vec<bool>> {
        Ok(self.transact(|tx| contexts.iter().map(|traced| tx.keep_trace(traced)).collect()))
    }

    async fn upkeep(&self) -> Result<Upkeep> {
        Ok(self.transact(|tx| tx.upkeep()))
    }

    async fn end_leases(&self) -> Result<usize> {
        Ok(self.transact(|tx| tx.end_leases()))
    }

    async fn expired(&self, limit: usize) -> Result<Vec<Expired>> {
        Ok(self.transact(|tx| tx.expired(limit)))
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        Ok(self.transact(|tx| tx.settle_all(settlements)))
    }

    async fn exceed(&self, limit: usize) -> Result<Vec<WholeRun>> {
        Ok(self.transact(|tx| tx.exceed(limit)))
    }

    async fn spans_that_wait(&self, limit: usize) -> Result<Vec<WholeRun>> {
        Ok(self.transact(|tx| tx.spans_that_wait(limit)))
    }

    async fn project_pending(&self, _limit: usize) -> Result<usize> {
        // The public rows of this ledger never refuse a write.
        Ok(0)
    }

    async fn explain(&self, limit: usize) -> Result<usize> {
        Ok(self.transact(|tx| tx.explain(limit)))
    }

    async fn look_again(&self, limit: usize) -> Result<usize> {
        Ok(self.transact(|tx| tx.look_again(limit)))
    }
}

impl WorkerLedger for ModelLedger {
    async fn claim(&self, worker: &Worker, asked: &[Ask]) -> Result<Vec<Claimed>> {
        Ok(self.transact(|tx| tx.claim_all(worker, asked)))
    }

    async fn renew(&self, worker: &Worker, leases: &[Lease]) -> Result<Vec<Option<bool>>> {
        Ok(self.transact(|tx| tx.renew_all(worker, leases)))
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        RelayLedger::settle(self, settlements).await
    }

    async fn doubt(&self, run: RunId) -> Result<()> {
        self.transact(|tx| tx.doubt(run));
        Ok(())
    }

    async fn report(
        &self,
        host: &str,
        signals: &[Signal],
        word: Option<&Word>,
        rules: &Rules,
        jitter: f64,
    ) -> Result<HostGate> {
        Ok(self.transact(|tx| tx.report(host, signals, word, rules, jitter)))
    }

    async fn host_gate(&self, host: &str) -> Result<HostGate> {
        Ok(self.transact(|tx| tx.host_gate(host)))
    }

    async fn probe(&self, host: &str, lease: Duration) -> Result<Option<Probe>> {
        Ok(self.transact(|tx| tx.probe(host, lease)))
    }

    async fn probed(&self, host: &str, probe: Probe, answer: &Answer, rules: &Rules, jitter: f64) -> Result<HostGate> {
        Ok(self.transact(|tx| tx.probed(host, probe, answer, rules, jitter)))
    }
}

impl OperatorLedger for ModelLedger {
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

    async fn set_rate(&self, scope: Scope, name: &str, rate: Option<f64>, _by: &By) -> Result<bool> {
        Ok(self.transact(|tx| tx.set_rate(scope, name, rate)))
    }

    async fn set_concurrency(&self, scope: Scope, name: &str, limit: Option<u32>, _by: &By) -> Result<bool> {
        Ok(self.transact(|tx| tx.set_concurrency(scope, name, limit)))
    }
}
