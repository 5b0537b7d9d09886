//! The connection as one apalis worker sees it: bounded in time, and watched, so that the poll
//! strategy knows whether a fetch is under way and the supervisor notices a worker that has fallen
//! silent.

use std::{
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use apalis_core::backend::ext::poll_strategy::{PollSnapshot, PollStrategy};
use futures::{FutureExt, StreamExt, stream::BoxStream};
use parking_lot::Mutex;
use redis::{Arg, Cmd, Pipeline, RedisFuture, RedisResult, Script, Value, aio::ConnectionLike};
use tokio::time::{Interval, MissedTickBehavior};

use crate::queue::{Bell, Queue, config::RESPONSE_TIMEOUT, keys::Keys, link::Link};

static REGISTER: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/register.lua")));

/// How late a hint may start when its wake was lost.
const TICK: Duration = Duration::from_millis(250);

/// What one worker has going on with Redis.
pub(super) struct Traffic {
    under_way: AtomicUsize,
    answered: Mutex<Instant>,
}

impl Traffic {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { under_way: AtomicUsize::new(0), answered: Mutex::new(Instant::now()) })
    }

    /// How long ago Redis last answered this worker.
    pub(super) fn silent_for(&self) -> Duration {
        self.answered.lock().elapsed()
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

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The shared connection, watched on behalf of one worker.
#[derive(Clone)]
pub(super) struct Watched {
    link: Arc<Link>,
    keys: Keys,
    traffic: Arc<Traffic>,
}

impl Watched {
    pub(super) fn new(queue: &Queue, keys: Keys, traffic: Arc<Traffic>) -> Self {
        Self { link: queue.shared.link.clone(), keys, traffic }
    }

    /// Also bounds the wait for a connection, which the client's own response timeout does not
    /// cover.
    async fn watch<T>(&self, call: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        let _under_way = self.traffic.begin();
        let answer = self.link.judged(tokio::time::timeout(RESPONSE_TIMEOUT, call).map(Result::ok)).await;
        let answer = answer.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))??;
        *self.traffic.answered.lock() = Instant::now();
        Ok(answer)
    }

    /// The worker's name and metadata, where this is the script of apalis-redis that registers a
    /// worker.
    fn registration(&self, cmd: &Cmd) -> Option<Vec<Vec<u8>>> {
        let words: Vec<_> =
            cmd.args_iter().filter_map(|arg| if let Arg::Simple(word) = arg { Some(word) } else { None }).collect();
        let metadata = self.keys.key("workers:metadata:");
        let registers =
            words.len() > 5 && words[0] == b"EVALSHA" && words[2] == b"2" && words[4].starts_with(metadata.as_bytes());
        registers.then(|| words[3..].iter().map(|word| word.to_vec()).collect())
    }
}

impl ConnectionLike for Watched {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let mut connection = self.link.connection();
        async move {
            match self.registration(cmd) {
                Some(words) => {
                    let mut call = REGISTER.key(&words[..2]);
                    call.arg(&words[2..]);
                    self.watch(call.invoke_async(&mut connection)).await
                }
                None => self.watch(connection.send_packed_command(cmd)).await,
            }
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let mut connection = self.link.connection();
        async move { self.watch(connection.send_packed_commands(cmd, offset, count)).await }.boxed()
    }

    fn get_db(&self) -> i64 {
        self.link.connection().get_db()
    }
}

/// When a worker looks for hints: at each wake, and at a slow tick behind it. apalis polls the
/// backend whenever this wakes it; a wake that comes while a fetch is under way may be younger than
/// what that fetch sees, so it is kept until a fetch can begin after it.
pub(super) struct WakePolling {
    rings: BoxStream<'static, ()>,
    tick: Interval,
    traffic: Arc<Traffic>,
    rung: bool,
    waker: Option<Waker>,
}

impl WakePolling {
    pub(super) fn new(bell: Bell, traffic: Arc<Traffic>) -> Self {
        let rings = futures::stream::unfold(bell, async |mut bell| {
            bell.rung().await;
            Some(((), bell))
        });
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { rings: rings.boxed(), tick, traffic, rung: false, waker: None }
    }
}

impl PollStrategy for WakePolling {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        // Drained until pending: apalis' built-in strategies stop early, lose their waker and stall
        // for 30 s.
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

    use tokio::sync::watch;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A poll strategy that has been rung once, polled once, and how often it woke its worker
    /// since.
    fn rung(traffic: &Arc<Traffic>) -> (WakePolling, Arc<Wakes>, PollSnapshot, watch::Sender<()>) {
        let (ringing, rings) = watch::channel(());
        ringing.send_replace(());
        let (mut polling, wakes) = (WakePolling::new(Bell { rings }, traffic.clone()), Arc::new(Wakes::default()));
        let (waker, snapshot) = (Waker::from(wakes.clone()), PollSnapshot::new());
        assert!(polling.poll_drive(&mut Context::from_waker(&waker), &snapshot).is_pending());
        wakes.0.store(0, Ordering::SeqCst);
        (polling, wakes, snapshot, ringing)
    }

    #[tokio::test]
    async fn a_wake_during_a_fetch_is_kept_until_a_fetch_can_follow() {
        let traffic = Traffic::new();
        let fetch = traffic.begin();
        let (mut polling, wakes, snapshot, _ringing) = rung(&traffic);

        polling.on_poll(&snapshot);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0, "the fetch is still under way");
        drop(fetch);
        polling.on_poll(&snapshot);

        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_wake_before_a_fetch_is_spent_on_it() {
        let traffic = Traffic::new();
        let (mut polling, wakes, snapshot, _ringing) = rung(&traffic);

        polling.on_poll(&snapshot);

        assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
    }
}
