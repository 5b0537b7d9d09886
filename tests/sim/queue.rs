//! Redis as the simulator has it: hints wait, are fetched and acknowledged, and on the way they are lost, doubled, delayed and
//! mixed up. It can be wiped, restored from a snapshot, restarted, and away. It never says which of these happened.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sluice::ledger::memory::RedisMark;
use sluice::queue::{
    Error, Hint, Inlet, PushReport, Stamps,
    loss::{Epoch, Seen},
};
use tokio::{sync::Notify, time};
use workflows::ids::StepName;

use crate::{chance::Chance, process::Process, stage::Stage};

#[derive(Clone, Default)]
struct Held {
    waiting: BTreeMap<StepName, VecDeque<Hint>>,
    /// Fetched and not acknowledged, by process.
    fetched: BTreeMap<String, Vec<(StepName, Hint)>>,
    epoch: Option<Epoch>,
    beat: i64,
}

struct Server {
    held: Held,
    snapshot: Option<Held>,
    run_id: u32,
}

pub struct Redis {
    server: Mutex<Server>,
    bells: BTreeMap<StepName, Notify>,
    /// Whether Redis tells its run id: a managed one may not.
    tells_run_id: bool,
}

impl Redis {
    pub fn new(steps: &[StepName], tells_run_id: bool) -> Self {
        let server = Server { held: Held::default(), snapshot: None, run_id: 1 };
        let bells = steps.iter().map(|step| (step.clone(), Notify::new())).collect();
        Self { server: Mutex::new(server), bells, tells_run_id }
    }

    fn lock(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a push, or for a little while.
    pub async fn wait(&self, step: &StepName, at_most: Duration) {
        if let Some(bell) = self.bells.get(step) {
            let _ = time::timeout(at_most, bell.notified()).await;
        }
    }

    pub fn fetch(&self, process: &Process, step: &StepName) -> Option<Hint> {
        let mut server = self.lock();
        let hint = server.held.waiting.get_mut(step)?.pop_front()?;
        server.held.fetched.entry(process.name.clone()).or_default().push((step.clone(), hint.clone()));
        Some(hint)
    }

    pub fn acknowledge(&self, process: &Process, hint: &Hint) {
        if let Some(fetched) = self.lock().held.fetched.get_mut(&process.name) {
            fetched.retain(|(_, held)| held != hint);
        }
    }

    /// What a silent process had fetched goes to others.
    pub fn hand_back(&self, process: &Process) {
        let fetched = self.lock().held.fetched.remove(&process.name).unwrap_or_default();
        for (step, hint) in fetched {
            self.enqueue(&step, hint);
        }
    }

    fn enqueue(&self, step: &StepName, hint: Hint) {
        self.lock().held.waiting.entry(step.clone()).or_default().push_back(hint);
        if let Some(bell) = self.bells.get(step) {
            bell.notify_one();
        }
    }

    fn depth(&self, step: &StepName) -> u64 {
        let server = self.lock();
        let waiting = server.held.waiting.get(step).map_or(0, VecDeque::len);
        let fetched = server.held.fetched.values().flatten().filter(|(fetched, _)| fetched == step).count();
        (waiting + fetched) as u64
    }

    fn holds(&self, hint: &Hint) -> bool {
        let server = self.lock();
        let mut waiting = server.held.waiting.values().flatten();
        let mut fetched = server.held.fetched.values().flatten();
        waiting.any(|held| held.key() == hint.key()) || fetched.any(|(_, held)| held.key() == hint.key())
    }

    /// FLUSHALL.
    pub fn wipe(&self) {
        self.lock().held = Held::default();
    }

    pub fn snapshot(&self) {
        let mut server = self.lock();
        server.snapshot = Some(server.held.clone());
    }

    /// It comes back with what the last snapshot held, or empty. Consumers that lost their connection come back under new
    /// names, and what stands there as fetched goes to others.
    ///
    /// Whether anybody can tell: without a run id the snapshot looks like the original where the `mark` of the ledger is not
    /// ahead of it.
    pub fn restore(&self, mark: &RedisMark) -> bool {
        let mut server = self.lock();
        server.held = server.snapshot.clone().unwrap_or_default();
        server.run_id += 1;
        let fetched = std::mem::take(&mut server.held.fetched);
        drop(server);
        for (step, hint) in fetched.into_values().flatten() {
            self.enqueue(&step, hint);
        }
        let held = &self.lock().held;
        self.tells_run_id || held.epoch.map(Epoch::bits) != mark.epoch || held.beat < mark.beat
    }

    /// Another order, for all that waits.
    pub fn shuffle(&self, chance: &Chance) {
        for waiting in self.lock().held.waiting.values_mut() {
            for at in (1..waiting.len()).rev() {
                waiting.swap(at, chance.between(0, at as u64) as usize);
            }
        }
    }
}

/// One process' connection to Redis.
pub struct Line {
    stage: Arc<Stage>,
    process: Arc<Process>,
    chance: Chance,
}

impl Line {
    pub fn new(stage: Arc<Stage>, process: Arc<Process>) -> Self {
        let chance = stage.chance(&format!("{} queue", process.name));
        Self { stage, process, chance }
    }

    async fn send(&self, what: &'static str) -> Result<(), Error> {
        self.process.pass().await;
        if self.stage.weather.queue_is_away() {
            self.stage.log.hit("queue.away");
            let after = Duration::from_millis(500);
            time::sleep(after).await;
            self.process.pass().await;
            return Err(Error::Late { what, after });
        }
        time::sleep(self.chance.millis(1, 2)).await;
        Ok(())
    }

    fn deliver(&self, step: &StepName, hint: &Hint) {
        let lossy = self.stage.weather.queue_is_lossy();
        let (redis, log) = (&self.stage.redis, &self.stage.log);
        match self.chance.between(0, 99) {
            0..15 if lossy => log.hit("queue.lost"),
            15..30 if lossy => {
                log.hit("queue.doubled");
                redis.enqueue(step, hint.clone());
                redis.enqueue(step, hint.clone());
            }
            30..45 if lossy => {
                log.hit("queue.delayed");
                let (stage, step, hint) = (self.stage.clone(), step.clone(), hint.clone());
                let delay = self.chance.millis(100, 20_000);
                tokio::spawn(async move {
                    time::sleep(delay).await;
                    stage.redis.enqueue(&step, hint);
                });
            }
            _ => redis.enqueue(step, hint.clone()),
        }
        if lossy && self.chance.percent(20) {
            log.hit("queue.mixed_up");
            redis.shuffle(&self.chance);
        }
    }
}

impl Inlet for Line {
    async fn depth(&self, step: &StepName) -> Result<u64, Error> {
        self.send("read the depth").await?;
        Ok(self.stage.redis.depth(step))
    }

    async fn push(&self, step: &StepName, hints: &[Hint]) -> Result<PushReport, Error> {
        if self.stage.weather.takes_relay_before_push() {
            self.stage.log.hit("process.relay_killed_before_push");
            self.process.kill();
        }
        self.send("push hints").await?;
        for hint in hints {
            self.deliver(step, hint);
        }
        if self.stage.weather.queue_is_lossy() && self.chance.percent(10) {
            self.stage.log.hit("queue.answer_lost");
            return Err(Error::Late { what: "push hints", after: Duration::from_millis(500) });
        }
        Ok(PushReport { pushed: hints.len(), known: 0 })
    }

    async fn missing(&self, _: &StepName, hints: &[Hint]) -> Result<Vec<Hint>, Error> {
        self.send("look for hints").await?;
        Ok(hints.iter().filter(|hint| !self.stage.redis.holds(hint)).cloned().collect())
    }
}

impl Stamps for Line {
    async fn seen(&self) -> Result<Seen, Error> {
        self.send("read the epoch").await?;
        let server = self.stage.redis.lock();
        let run_id = self.stage.redis.tells_run_id.then(|| server.run_id.to_string());
        Ok(Seen { epoch: server.held.epoch, beat: server.held.beat, server: run_id })
    }

    async fn raise_beat(&self, seen: &Seen, beat: i64) -> Result<bool, Error> {
        self.send("raise the beat").await?;
        let held = &mut self.stage.redis.lock().held;
        if held.epoch != seen.epoch || held.beat != seen.beat {
            return Ok(false);
        }
        held.beat = beat;
        Ok(true)
    }

    async fn stamp(&self, seen: &Seen, fresh: Epoch) -> Result<bool, Error> {
        self.send("stamp the epoch").await?;
        let held = &mut self.stage.redis.lock().held;
        if held.epoch != seen.epoch {
            return Ok(false);
        }
        held.epoch = Some(fresh);
        held.beat = 0;
        Ok(true)
    }
}
