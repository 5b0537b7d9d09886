//! Redis as the simulator has it: it holds a hint at most once, until a worker has acknowledged it.
//! On the way hints are lost, doubled, delayed and mixed up. Redis can be wiped, restored from a
//! snapshot, and away. It never says which of these happened.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sluice::{
    ledger::DueKey,
    queue::{Error, Hint, HintSink, Pushed},
};
use tokio::{sync::Notify, time};
use workflows::ids::StepName;

use crate::{chance::Chance, process::Process, stage::Stage, weather::Pusher};

/// How long a worker may be silent before what it fetched is forgotten.
const SILENT: Duration = Duration::from_secs(5);

#[derive(Clone, Default)]
struct Held {
    waiting: BTreeMap<StepName, VecDeque<Hint>>,
    fetched: Vec<Fetched>,
}

/// A hint that a worker has fetched and not acknowledged.
#[derive(Clone)]
struct Fetched {
    by: Arc<Process>,
    step: StepName,
    hint: Hint,
}

#[derive(Default)]
struct Server {
    held: Held,
    snapshot: Option<Held>,
}

pub struct Redis {
    server: Mutex<Server>,
    bells: BTreeMap<StepName, Notify>,
    high_water: usize,
}

impl Redis {
    pub fn new(steps: &[StepName], high_water: usize) -> Self {
        let bells = steps.iter().map(|step| (step.clone(), Notify::new())).collect();
        Self { server: Mutex::default(), bells, high_water }
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

    pub fn fetch(&self, process: &Arc<Process>, step: &StepName) -> Option<Hint> {
        let mut server = self.lock();
        let hint = server.held.waiting.get_mut(step)?.pop_front()?;
        server.held.fetched.push(Fetched { by: process.clone(), step: step.clone(), hint: hint.clone() });
        Some(hint)
    }

    pub fn acknowledge(&self, process: &Arc<Process>, hint: &Hint) {
        self.lock().held.fetched.retain(|fetched| !Arc::ptr_eq(&fetched.by, process) || fetched.hint != *hint);
    }

    /// What silent workers had fetched is gone: whoever looks for what is due finds it.
    fn forget_the_silent(&self) {
        self.lock().held.fetched.retain(|fetched| fetched.by.silent_for() < SILENT);
    }

    /// Holds it, whatever else is held.
    fn enqueue(&self, step: &StepName, hint: Hint) {
        self.lock().held.waiting.entry(step.clone()).or_default().push_back(hint);
        if let Some(bell) = self.bells.get(step) {
            bell.notify_one();
        }
    }

    pub fn holds(&self, key: &DueKey) -> bool {
        self.lock().held.holds(key)
    }

    /// Whether there is room for another hint of the step.
    pub fn has_capacity(&self, step: &StepName, most: Option<usize>) -> bool {
        self.lock().held.depth(step) < most.unwrap_or(usize::MAX).min(self.high_water)
    }

    /// FLUSHALL.
    pub fn wipe(&self) {
        self.lock().held = Held::default();
    }

    pub fn snapshot(&self) {
        let mut server = self.lock();
        server.snapshot = Some(server.held.clone());
    }

    /// It comes back with what the last snapshot held, or empty. What stands there as fetched is of
    /// workers that have lost their connection: it is gone.
    pub fn restore(&self) {
        let mut server = self.lock();
        let waiting = server.snapshot.clone().unwrap_or_default().waiting;
        server.held = Held { waiting, fetched: Vec::new() };
        drop(server);
        self.bells.values().for_each(Notify::notify_one);
    }

    /// Another order, for all that waits.
    fn shuffle(&self, chance: &Chance) {
        for waiting in self.lock().held.waiting.values_mut() {
            for at in (1..waiting.len()).rev() {
                waiting.swap(at, chance.between(0, at as u64) as usize);
            }
        }
    }
}

impl Held {
    fn holds(&self, key: &DueKey) -> bool {
        let fetched = self.fetched.iter().map(|fetched| &fetched.hint);
        self.waiting.values().flatten().chain(fetched).any(|held| held.key == *key)
    }

    fn depth(&self, step: &StepName) -> usize {
        let fetched = self.fetched.iter().filter(|fetched| fetched.step == *step).count();
        self.waiting.get(step).map_or(0, VecDeque::len) + fetched
    }
}

/// Forgets what silent workers had fetched, for ever.
pub async fn sweep(stage: Arc<Stage>) {
    loop {
        time::sleep(Duration::from_secs(1)).await;
        stage.redis.forget_the_silent();
    }
}

/// One process' connection to Redis.
pub struct Line {
    pusher: Pusher,
    stage: Arc<Stage>,
    process: Arc<Process>,
    chance: Chance,
}

impl Line {
    pub fn new(pusher: Pusher, stage: Arc<Stage>, process: Arc<Process>, what: &str) -> Self {
        let chance = stage.chance(&format!("{} {what}", process.name));
        Self { pusher, stage, process, chance }
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

    fn deliver(&self, step: &StepName, hint: &Hint, most: Option<usize>) -> Pushed {
        let (redis, log) = (&self.stage.redis, &self.stage.log);
        if redis.holds(&hint.key) {
            log.hit("queue.known");
            return Pushed::Known;
        }
        if !redis.has_capacity(step, most) {
            log.hit("queue.full");
            return Pushed::Left;
        }
        match self.chance.between(0, 99) {
            _ if !self.stage.weather.queue_is_lossy() => redis.enqueue(step, hint.clone()),
            0..15 => log.hit("queue.lost"),
            15..30 => {
                log.hit("queue.doubled");
                redis.enqueue(step, hint.clone());
                redis.enqueue(step, hint.clone());
            }
            30..45 => self.delay(step, hint),
            _ => redis.enqueue(step, hint.clone()),
        }
        Pushed::New
    }

    fn delay(&self, step: &StepName, hint: &Hint) {
        self.stage.log.hit("queue.delayed");
        let (stage, step, hint) = (self.stage.clone(), step.clone(), hint.clone());
        let delay = self.chance.millis(100, 20_000);
        tokio::spawn(async move {
            time::sleep(delay).await;
            stage.redis.enqueue(&step, hint);
        });
    }
}

impl HintSink for Line {
    async fn push(&self, step: &StepName, hints: &[Hint], most: Option<usize>) -> Result<Vec<Pushed>, Error> {
        if self.stage.weather.takes_before_push(self.pusher) {
            self.stage.log.hit(match self.pusher {
                Pusher::Relay => "process.relay_killed_before_push",
                Pusher::Worker => "process.worker_killed_before_push",
            });
            self.process.kill();
        }
        self.send("push hints").await?;
        let pushed = hints.iter().map(|hint| self.deliver(step, hint, most)).collect();
        let lossy = self.stage.weather.queue_is_lossy();
        if lossy && self.chance.percent(20) {
            self.stage.log.hit("queue.mixed_up");
            self.stage.redis.shuffle(&self.chance);
        }
        if lossy && self.chance.percent(10) {
            self.stage.log.hit("queue.answer_lost");
            return Err(Error::Late { what: "push hints", after: Duration::from_millis(500) });
        }
        Ok(pushed)
    }
}
