//! Where a hint leaves apalis: it goes to the handler on a task of our own, so that a worker that
//! ends (any error of Redis ends it, and drops what it runs) cancels nothing. A hint is
//! acknowledged once its claim is answered, not once the step has ended: Redis is never asked to
//! remember a running step.

use std::{
    future::Ready,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll, ready},
};

use apalis_core::{error::BoxDynError, layers::Service, task::Task};
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_util::{
    sync::{CancellationToken, PollSemaphore},
    task::TaskTracker,
};

use super::{
    Hint, Status,
    lists::{Acknowledged, Fetched},
};

/// A hint as the handler gets it.
#[derive(Debug)]
pub struct Delivery {
    pub hint: Hint,
    /// The apalis worker that fetched it. A rebuilt worker has another name.
    pub worker: Arc<str>,
    unanswered: Option<Answer>,
    /// The handler's place among those that may run at once: free when the delivery is dropped.
    _place: Option<OwnedSemaphorePermit>,
}

/// Whom to tell that a hint's claim is answered.
#[derive(Debug)]
enum Answer {
    /// Many are told to Redis at once.
    Gathered(Arc<Acknowledged>, String),
    /// An apalis task is waiting.
    Awaited(oneshot::Sender<()>),
}

impl Delivery {
    /// Tells Redis that this hint has done its work: call it when the claim is answered, whatever
    /// the answer. Until then a push finds it held, for a second or two. Dropping the delivery does
    /// the same.
    pub fn acknowledge(&mut self) {
        match self.unanswered.take() {
            Some(Answer::Gathered(acknowledged, id)) => acknowledged.add(id),
            // Nobody listens where the worker ended meanwhile; then the hint comes again, and its
            // claim finds nothing to do.
            Some(Answer::Awaited(task)) => drop(task.send(())),
            None => {}
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.acknowledge();
    }
}

/// What all incarnations of one consumer's worker share.
#[derive(Clone)]
pub(super) struct ConsumerState {
    /// One for each handler that may start.
    pub(super) permits: Arc<Semaphore>,
    pub(super) running: TaskTracker,
    /// Cancelled when the grace period of a drain is over.
    pub(super) abandon: CancellationToken,
    pub(super) acknowledged: Arc<Acknowledged>,
    pub(super) status: watch::Sender<Status>,
}

impl ConsumerState {
    pub(super) fn new(concurrency: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(concurrency)),
            running: TaskTracker::new(),
            abandon: CancellationToken::new(),
            acknowledged: Arc::default(),
            status: watch::Sender::default(),
        }
    }

    /// Redis has answered this worker.
    pub(super) fn connected(&self, worker: &Arc<str>) {
        self.status.send_if_modified(|status| {
            let news = status.worker.is_none();
            if news {
                status.worker = Some(worker.clone());
            }
            news
        });
    }

    pub(super) fn garbled(&self, error: impl std::fmt::Display) {
        tracing::warn!(%error, "dropped a hint that is not ours: does something else write to our Redis keys?");
        self.status.send_modify(|status| status.garbled += 1);
    }
}

/// What is done with each hint.
pub(super) type Handler = Arc<dyn Fn(Delivery) -> BoxFuture<'static, ()> + Send + Sync>;

/// The service that an apalis worker calls for each task. What is fetched is started at once:
/// nothing waits in memory.
pub(super) struct HintService {
    handler: Handler,
    worker: Arc<str>,
    state: ConsumerState,
    permits: PollSemaphore,
    /// Taken before apalis-redis fetches.
    permit: Option<OwnedSemaphorePermit>,
}

impl HintService {
    pub(super) fn new(handler: Handler, worker: Arc<str>, state: ConsumerState) -> Self {
        Self { handler, worker, permits: PollSemaphore::new(state.permits.clone()), state, permit: None }
    }

    fn start(&mut self, hint: Hint, permit: Option<OwnedSemaphorePermit>, answer: Answer) {
        let worker = self.worker.clone();
        let handling = (self.handler)(Delivery { hint, worker, unanswered: Some(answer), _place: permit });
        self.state.running.spawn(handle(handling, self.state.clone()));
    }
}

/// A hint of our own transport, which comes with its permit. apalis is done with it at once.
impl Service<Task<Fetched>> for HintService {
    type Response = ();
    type Error = BoxDynError;
    type Future = Ready<Result<(), BoxDynError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Fetched>) -> Self::Future {
        let Fetched { hint, permit } = task.args;
        let answer = Answer::Gathered(self.state.acknowledged.clone(), hint.id());
        self.start(hint, Some(permit), answer);
        std::future::ready(Ok(()))
    }
}

/// A task of apalis-redis, which waits for the acknowledgement.
impl Service<Task<()>> for HintService {
    type Response = ();
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<(), BoxDynError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        if self.permit.is_none() {
            self.permit = ready!(self.permits.poll_acquire(cx));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<()>) -> Self::Future {
        let permit = self.permit.take();
        let id = task.task_id().map(ToString::to_string).unwrap_or_default();
        match Hint::parse(&id, task.metadata().get("traceparent")) {
            Ok(hint) => {
                let (awaited, answered) = oneshot::channel();
                self.start(hint, permit, Answer::Awaited(awaited));
                // A task that ends in an error would be scheduled again by apalis: the ledger alone
                // decides about that.
                answered.map(|_| Ok(())).boxed()
            }
            Err(error) => {
                self.state.garbled(error);
                futures::future::ok(()).boxed()
            }
        }
    }
}

async fn handle(handling: impl Future<Output = ()>, state: ConsumerState) {
    let handling = AssertUnwindSafe(handling).catch_unwind();
    tokio::select! {
        ended = handling => if ended.is_err() {
            tracing::error!("a handler panicked: its lease will expire and count as a crash");
            state.status.send_modify(|status| status.panics += 1);
        },
        () = state.abandon.cancelled() => state.status.send_modify(|status| status.abandoned += 1),
    }
}
