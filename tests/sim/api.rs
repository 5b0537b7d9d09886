//! The simulated API in virtual time: calls go in, answers come out when the world gives them. It
//! watches over I3: who sends a call that creates or deletes while another one for that name is at
//! work.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tests::evolution::{Answer, Config, Key, Request, Ticket, World};
use tokio::{
    sync::{Notify, oneshot},
    time,
};
use workflows::{definition::EXCLUSIVE_CALL, whatsapp::names::InstanceName};

use crate::{
    log::Log,
    plan::Plan,
    process::{Process, State},
    stage::KEY,
};

pub struct Api {
    inner: Mutex<Inner>,
    bell: Notify,
    /// Rung when every connection breaks.
    pub broken: Notify,
    log: Arc<Log>,
}

struct Inner {
    world: World,
    waiting: BTreeMap<Ticket, oneshot::Sender<Answer>>,
    exclusive: BTreeMap<Ticket, Exclusive>,
    calls_per_second: BTreeMap<u64, u32>,
}

/// A call that creates or deletes, sent by one of ours.
struct Exclusive {
    at: Duration,
    sent: Sent,
    process: Arc<Process>,
    client_is_gone: bool,
    name: InstanceName,
    /// When the server was done with it.
    landed_at: Option<Duration>,
}

impl Exclusive {
    /// Whether the server worked on it for longer than a call has to end in, while nobody held the
    /// name for it any more.
    fn is_slow(&self, now: Duration) -> bool {
        let gone = self.client_is_gone || self.process.state() != State::Running;
        gone && self.landed_at.unwrap_or(now) - self.at > EXCLUSIVE_CALL
    }
}

/// How a call that creates or deletes came to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    InTime,
    /// Its process froze between the check of its lease and the call.
    AfterAFreeze,
}

/// What a call for a name met there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    Nobody,
    /// Another call at work; one of the two was sent after a freeze.
    AfterAFreeze,
    /// Another call that the server has worked on for longer than a call has to end in, and whose
    /// client is gone.
    SlowServer,
    /// Another call at work, and no excuse.
    Collision,
}

/// A call that waits for its answer. Dropping it is the client going away.
pub struct Pending {
    api: Arc<Api>,
    ticket: Ticket,
    answer: oneshot::Receiver<Answer>,
}

impl Api {
    pub fn new(plan: &Plan, log: Arc<Log>) -> Arc<Self> {
        let save_instances = plan.save_instances;
        let config = Config { key: Key::new(KEY), log_limit: 256, save_instances, ..Config::default() };
        let world = World::new(config, plan.seed);
        let inner =
            Inner { world, waiting: BTreeMap::new(), exclusive: BTreeMap::new(), calls_per_second: BTreeMap::new() };
        Arc::new(Self { inner: Mutex::new(inner), bell: Notify::new(), broken: Notify::new(), log })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a test do something to the server at this moment.
    pub fn world<T>(&self, act: impl FnOnce(&mut World, Duration) -> T) -> T {
        let done = act(&mut self.lock().world, self.log.now());
        self.bell.notify_one();
        done
    }

    pub fn begin(self: &Arc<Self>, request: Request) -> Pending {
        let now = self.log.now();
        let (sender, answer) = oneshot::channel();
        let mut inner = self.lock();
        let ticket = inner.world.begin(now, request);
        *inner.calls_per_second.entry(now.as_secs()).or_default() += 1;
        inner.waiting.insert(ticket, sender);
        drop(inner);
        self.bell.notify_one();
        Pending { api: self.clone(), ticket, answer }
    }

    /// As `begin`, for a call that creates or deletes the instance of this name.
    pub fn begin_exclusive(
        self: &Arc<Self>,
        request: Request,
        name: &InstanceName,
        process: &Arc<Process>,
        sent: Sent,
    ) -> (Pending, Meeting) {
        let at = self.log.now();
        let meeting = self.lock().meeting(name, sent, at);
        let pending = self.begin(request);
        let exclusive = Exclusive {
            at,
            sent,
            process: process.clone(),
            client_is_gone: false,
            name: name.clone(),
            landed_at: None,
        };
        self.lock().exclusive.insert(pending.ticket, exclusive);
        (pending, meeting)
    }

    /// How many calls reached it in each second since the start.
    pub fn calls_per_second(&self) -> BTreeMap<u64, u32> {
        self.lock().calls_per_second.clone()
    }

    /// Hands out answers as they come.
    pub async fn drive(self: Arc<Self>) {
        loop {
            let next = self.hand_out();
            let rung = self.bell.notified();
            match next {
                Some(next) => {
                    let left = next.saturating_sub(self.log.now());
                    let _ = time::timeout(left, rung).await;
                }
                None => rung.await,
            }
        }
    }

    fn hand_out(&self) -> Option<Duration> {
        let mut inner = self.lock();
        let answers = inner.world.advance(self.log.now());
        for (ticket, answer) in answers {
            if let Some(waiting) = inner.waiting.remove(&ticket) {
                let _ = waiting.send(answer);
            }
        }
        inner.note_landings(self.log.now());
        inner.world.next_wakeup()
    }

    /// Whether a call that creates or deletes this instance outlasted the time in which others are
    /// kept away.
    pub fn had_a_slow_call(&self, name: &InstanceName) -> bool {
        let now = self.log.now();
        self.lock().exclusive.values().any(|call| call.name == *name && call.is_slow(now))
    }
}

impl Inner {
    fn note_landings(&mut self, now: Duration) {
        for (ticket, call) in self.exclusive.iter_mut().filter(|(_, call)| call.landed_at.is_none()) {
            if !self.world.at_work(call.name.as_str()).contains(ticket) {
                call.landed_at = Some(now);
            }
        }
    }

    fn meeting(&mut self, name: &InstanceName, sent: Sent, now: Duration) -> Meeting {
        let world = &mut self.world;
        let answers = world.advance(now);
        for (ticket, answer) in answers {
            if let Some(waiting) = self.waiting.remove(&ticket) {
                let _ = waiting.send(answer);
            }
        }
        let at_work: Vec<&Exclusive> =
            self.world.at_work(name.as_str()).into_iter().filter_map(|ticket| self.exclusive.get(&ticket)).collect();
        let frozen = |call: &&Exclusive| call.sent == Sent::AfterAFreeze;
        let slow = |call: &&Exclusive| call.is_slow(now);
        match () {
            () if at_work.is_empty() => Meeting::Nobody,
            () if sent == Sent::AfterAFreeze || at_work.iter().any(frozen) => Meeting::AfterAFreeze,
            () if at_work.iter().all(slow) => Meeting::SlowServer,
            () => Meeting::Collision,
        }
    }
}

impl Future for Pending {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Answer::Dropped))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut inner = self.api.lock();
        if inner.waiting.remove(&self.ticket).is_some() {
            let ticket = self.ticket;
            inner.world.cancel(ticket);
            if let Some(call) = inner.exclusive.get_mut(&ticket) {
                call.client_is_gone = true;
            }
        }
    }
}
