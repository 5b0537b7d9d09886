//! The connection as one apalis worker sees it: bounded in time, and watched, so that the poll strategy knows whether
//! a fetch is under way and the supervisor notices a worker that has fallen silent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use apalis_core::backend::ext::poll_strategy::{PollSnapshot, PollStrategy};
use futures::{FutureExt, StreamExt, stream::BoxStream};
use redis::{
    Cmd, Pipeline, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, ConnectionManager},
};
use tokio::time::{Interval, MissedTickBehavior};

use super::Bell;

/// How late a hint may start when its wake was lost.
const TICK: Duration = Duration::from_millis(250);

/// What one worker has going on with Redis.
pub(super) struct Traffic {
    under_way: AtomicUsize,
    started: Instant,
    /// Milliseconds after `started`.
    answered: AtomicU64,
}

impl Traffic {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { under_way: AtomicUsize::new(0), started: Instant::now(), answered: AtomicU64::new(0) })
    }

    /// How long ago Redis last answered this worker.
    pub(super) fn silent_for(&self) -> Duration {
        let answered = Duration::from_millis(self.answered.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(answered)
    }

    fn is_quiet(&self) -> bool {
        self.under_way.load(Ordering::Acquire) == 0
    }

    fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(self.clone())
    }
}

struct UnderWay(Arc<Traffic>);

impl UnderWay {
    fn answered(&self) {
        let now = self.0.started.elapsed().as_millis() as u64;
        self.0.answered.store(now, Ordering::Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The shared connection, watched on behalf of one worker.
#[derive(Clone)]
pub(super) struct Watched {
    manager: ConnectionManager,
    traffic: Arc<Traffic>,
    timeout: Duration,
}

impl Watched {
    pub(super) fn new(manager: ConnectionManager, traffic: Arc<Traffic>, timeout: Duration) -> Self {
        Self { manager, traffic, timeout }
    }
}

/// Also bounds the wait for a connection, which the client's own response timeout does not cover.
async fn watch<T>(
    traffic: Arc<Traffic>,
    timeout: Duration,
    call: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    let under_way = traffic.begin();
    let Ok(answer) = tokio::time::timeout(timeout, call).await else {
        return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
    };
    if answer.is_ok() {
        under_way.answered();
    }
    answer
}

impl ConnectionLike for Watched {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let (traffic, timeout) = (self.traffic.clone(), self.timeout);
        watch(traffic, timeout, self.manager.send_packed_command(cmd)).boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let (traffic, timeout) = (self.traffic.clone(), self.timeout);
        watch(traffic, timeout, self.manager.send_packed_commands(cmd, offset, count)).boxed()
    }

    fn get_db(&self) -> i64 {
        self.manager.get_db()
    }
}

/// When a worker looks for hints: at each wake, and at a slow tick behind it. apalis polls the backend whenever this
/// wakes it; a wake that comes while a fetch is under way may be younger than what that fetch sees, so it is kept until
/// a fetch can begin after it.
pub(super) struct Lookout {
    rings: BoxStream<'static, ()>,
    tick: Interval,
    traffic: Arc<Traffic>,
    rung: bool,
    waker: Option<Waker>,
}

impl Lookout {
    pub(super) fn new(bell: Bell, traffic: Arc<Traffic>) -> Self {
        let rings = futures::stream::unfold(bell, async |mut bell| {
            bell.rung().await;
            Some(((), bell))
        });
        Self::on(rings.boxed(), traffic)
    }

    fn on(rings: BoxStream<'static, ()>, traffic: Arc<Traffic>) -> Self {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { rings, tick, traffic, rung: false, waker: None }
    }
}

impl PollStrategy for Lookout {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        // Drained until pending: apalis' built-in strategies stop early, lose their waker and stall for 30 s.
        while self.tick.poll_tick(cx).is_ready() {}
        while let Poll::Ready(Some(())) = self.rings.poll_next_unpin(cx) {
            self.rung = true;
        }
        if self.traffic.is_quiet() {
            self.rung = false;
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn on_poll(&mut self, _: &PollSnapshot) {
        if self.rung
            && self.traffic.is_quiet()
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use futures::stream;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A lookout that has been rung once, polled once, and how often it woke its worker since.
    fn rung(traffic: &Arc<Traffic>) -> (Lookout, Arc<Wakes>, PollSnapshot) {
        let rings = stream::once(async {}).chain(stream::pending()).boxed();
        let (mut lookout, wakes) = (Lookout::on(rings, traffic.clone()), Arc::new(Wakes::default()));
        let (waker, snapshot) = (Waker::from(wakes.clone()), PollSnapshot::new());
        assert!(lookout.poll_drive(&mut Context::from_waker(&waker), &snapshot).is_pending());
        wakes.0.store(0, Ordering::SeqCst);
        (lookout, wakes, snapshot)
    }

    #[tokio::test]
    async fn a_wake_during_a_fetch_is_kept_until_a_fetch_can_follow() {
        let traffic = Traffic::new();
        let fetch = traffic.begin();
        let (mut lookout, wakes, snapshot) = rung(&traffic);

        lookout.on_poll(&snapshot);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0, "the fetch is still under way");
        drop(fetch);
        lookout.on_poll(&snapshot);

        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_wake_before_a_fetch_is_spent_on_it() {
        let traffic = Traffic::new();
        let (mut lookout, wakes, snapshot) = rung(&traffic);

        lookout.on_poll(&snapshot);

        assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
    }
}
