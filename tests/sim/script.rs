//! A recorded run, played again: each attempt that is claimed meets what the attempt of that number
//! met.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sluice::ledger::scenario::Met;
use tests::evolution::{Fault, RetryAfter, Rule, Stage as At, When};
use tokio::time;
use workflows::{
    ids::{ResourceName, StepName},
    outcome::Class,
};

use crate::{plan::Plan, process::Process, stage::Stage, weather::Trouble};

#[derive(Default)]
pub struct Script {
    left: Mutex<VecDeque<Met>>,
    refusals: AtomicU32,
}

impl Script {
    pub fn new(plan: &Plan) -> Self {
        Self { left: Mutex::new(plan.script.iter().cloned().collect()), refusals: AtomicU32::new(0) }
    }

    /// The next attempt, where it is one of this step.
    fn take(&self, step: &StepName) -> Option<Met> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.pop_front_if(|met| met.step == *step)
    }

    /// Whether the API refuses this connection.
    pub fn refuses(&self) -> bool {
        let taken = self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.is_ok()
    }
}

impl Stage {
    /// An attempt begins: whatever it met goes wrong now.
    pub fn play(self: &Arc<Self>, process: &Arc<Process>, step: &StepName, resource: &ResourceName) {
        let Some(met) = self.script.take(step) else { return };
        let name = resource.as_str().to_owned();
        let took = Duration::from_millis(met.took_ms);
        let status = met.http_status.unwrap_or(500);
        match (met.outcome.as_str(), met.class) {
            ("succeeded", _) | (_, None) => {}
            ("crashed", _) => kill_in_the_call(self, process),
            (_, Some(Class::WorkerLost)) => drop(process.freeze(took)),
            (_, Some(Class::LeaseTooShort)) => self.lose_the_ledger(took.max(Duration::from_secs(5))),
            (_, Some(Class::Unreachable)) => drop(self.script.refusals.fetch_add(1, Ordering::Relaxed)),
            (_, Some(Class::Loading)) => self.api.world(|world, now| world.restart(now, Duration::ZERO)),
            (_, Some(Class::EffectGone)) => drop(self.api.world(|world, now| world.remove(now, &name))),
            (_, Some(Class::TimedOut)) => self.meet(&name, 10, Fault::Hang { stage: At::BeforeWork }),
            (_, Some(Class::NoAnswer)) if took >= Duration::from_secs(10) => {
                self.meet(&name, 1, Fault::Hang { stage: At::BeforeWork });
            }
            (_, Some(Class::NoAnswer)) => self.meet(&name, 1, Fault::Drop { stage: At::BeforeWork }),
            (_, Some(Class::RateLimited)) => {
                self.meet(&name, 1, Fault::Limited { status, retry_after: RetryAfter::Seconds(2) });
            }
            (_, Some(class)) => {
                let page = serde_json::Value::String(format!("a recorded {}", class.as_str()));
                self.meet(&name, 1, Fault::Error { status, body: Some(page), stage: At::BeforeWork });
            }
        }
    }

    /// The next calls for this name meet the fault.
    fn meet(&self, name: &str, calls: u32, fault: Fault) {
        let rule = Rule { route: None, name_prefix: Some(name.to_owned()), when: When::Next(calls), fault };
        self.api.world(|world, _| world.faults_mut().rules = vec![rule]);
    }

    fn lose_the_ledger(self: &Arc<Self>, how_long: Duration) {
        let stage = self.clone();
        self.spawn("a ledger that is away", async move {
            // The answer to the claim still comes.
            time::sleep(Duration::from_millis(1)).await;
            stage.weather.begin(Trouble::LedgerAway, stage.log.now());
            time::sleep(how_long).await;
            stage.weather.end(Trouble::LedgerAway, stage.log.now());
        });
    }
}

fn kill_in_the_call(stage: &Arc<Stage>, process: &Arc<Process>) {
    let process = process.clone();
    stage.spawn("a worker that dies", async move {
        time::sleep(Duration::from_millis(10)).await;
        process.kill();
    });
}
