//! Where a task leaves apalis: its hint goes to the handler on a task of our own, so that a worker that ends (any
//! error of Redis ends it, and drops what it runs) cancels nothing. apalis acknowledges once the step is claimed, not
//! once it has ended: what a dead worker had in flight is exactly what it had fetched and not claimed.

use std::{
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

use super::{Hint, Status};

/// A hint as the handler gets it.
#[derive(Debug)]
pub struct Delivery {
    pub hint: Hint,
    /// The apalis worker that fetched it. A rebuilt worker has another name.
    pub worker: Arc<str>,
    claimed: Option<oneshot::Sender<()>>,
}

impl Delivery {
    /// Tells Redis that this hint has done its work: call it when the claim is answered, whatever the answer. Until
    /// then the hint is handed to another worker if this process dies. Dropping the delivery does the same.
    pub fn acknowledge(&mut self) {
        if let Some(claimed) = self.claimed.take() {
            // Nobody listens where the worker ended meanwhile; then the hint comes again and its claim fails.
            let _ = claimed.send(());
        }
    }
}

/// What all incarnations of one consumer's worker share.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) permits: Arc<Semaphore>,
    pub(super) running: TaskTracker,
    /// Cancelled when the grace period of a drain is over.
    pub(super) abandon: CancellationToken,
    pub(super) status: watch::Sender<Status>,
}

/// The service that an apalis worker calls for each task. It is ready only where a handler could start at once: what
/// is fetched is started, nothing waits in memory.
pub(super) struct Handover<H> {
    handler: H,
    worker: Arc<str>,
    desk: Desk,
    permits: PollSemaphore,
    permit: Option<OwnedSemaphorePermit>,
}

impl<H> Handover<H> {
    pub(super) fn new(handler: H, worker: Arc<str>, desk: Desk) -> Self {
        Self { handler, worker, permits: PollSemaphore::new(desk.permits.clone()), desk, permit: None }
    }
}

impl<H, Fut> Service<Task<()>> for Handover<H>
where
    H: FnMut(Delivery) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
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
        let hint = match Hint::parse(&id, task.metadata().get("traceparent")) {
            Ok(hint) => hint,
            Err(error) => {
                tracing::warn!(%error, "dropped a task that is not ours: does something else write to our Redis keys?");
                self.desk.status.send_modify(|status| status.garbled += 1);
                return futures::future::ok(()).boxed();
            }
        };
        let (claimed, answered) = oneshot::channel();
        let handling = (self.handler)(Delivery { hint, worker: self.worker.clone(), claimed: Some(claimed) });
        self.desk.running.spawn(handle(handling, permit, self.desk.clone()));
        // A task that ends in an error would be scheduled again by apalis: the ledger alone decides about that.
        answered.map(|_| Ok(())).boxed()
    }
}

async fn handle(handling: impl Future<Output = ()>, permit: Option<OwnedSemaphorePermit>, desk: Desk) {
    let handling = AssertUnwindSafe(handling).catch_unwind();
    tokio::select! {
        ended = handling => if ended.is_err() {
            tracing::error!("a handler panicked: its lease will expire and count as a crash");
            desk.status.send_modify(|status| status.panics += 1);
        },
        () = desk.abandon.cancelled() => desk.status.send_modify(|status| status.abandoned += 1),
    }
    drop(permit);
}
