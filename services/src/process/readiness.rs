//! Whether a process can do what it is for: it has begun, does not drain, and all that it cannot do
//! without answers. Asked with a short limit, and not again for a second, however many ask. It says
//! what is missing and never why: an error may hold an address.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// How long each of them may take to answer. Below the second that a probe of Kubernetes waits by
/// default.
const LIMIT: Duration = Duration::from_millis(800);
/// How long an answer holds.
const FRESH: Duration = Duration::from_secs(1);

pub(super) struct Readiness {
    /// How many roles have not begun yet.
    awaited: AtomicUsize,
    /// What those wait for.
    waits_for: Mutex<&'static str>,
    draining: CancellationToken,
    needs: Mutex<Vec<Need>>,
    last: tokio::sync::Mutex<Option<(Instant, Vec<&'static str>)>>,
}

/// What the process cannot do without, and whether that answers.
type Need = (&'static str, Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>);

impl Readiness {
    /// Of a process that plays one role.
    pub(super) fn new(draining: CancellationToken) -> Self {
        Self {
            awaited: AtomicUsize::new(1),
            waits_for: Mutex::new("starting"),
            draining,
            needs: Mutex::default(),
            last: Default::default(),
        }
    }

    /// The process cannot do without this. Of several under one name the first is asked.
    pub(super) fn need<T, Fut>(&self, name: &'static str, what: &T, answers: impl Fn(T) -> Fut + Send + Sync + 'static)
    where
        T: Clone + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        let (what, mut needs) = (what.clone(), self.needs.lock());
        if needs.iter().all(|(known, _)| *known != name) {
            needs.push((name, Arc::new(move || Box::pin(answers(what.clone())))));
        }
    }

    /// The process plays so many roles.
    pub(super) fn await_roles(&self, roles: usize) {
        self.awaited.store(roles, Ordering::Release);
    }

    /// The roles cannot begin without this, which is not there yet.
    pub(super) fn wait_for(&self, what: &'static str) {
        *self.waits_for.lock() = what;
    }

    /// A role runs.
    pub(super) fn begin(&self) {
        self.awaited.fetch_sub(1, Ordering::AcqRel);
    }

    /// Why the process is not ready; nothing where it is.
    pub(super) async fn missing(&self) -> Vec<&'static str> {
        if self.draining.is_cancelled() {
            return vec!["draining"];
        }
        let mut last = self.last.lock().await;
        if last.as_ref().is_none_or(|(asked, _)| asked.elapsed() >= FRESH) {
            let missing = self.ask().await;
            *last = Some((Instant::now(), missing));
        }
        let missing = last.as_ref().map(|(_, missing)| missing.clone()).unwrap_or_default();
        if missing.is_empty() && self.awaited.load(Ordering::Acquire) > 0 {
            return vec![*self.waits_for.lock()];
        }
        missing
    }

    async fn ask(&self) -> Vec<&'static str> {
        let needs = self.needs.lock().clone();
        let asked = needs.into_iter().map(async |(name, answers)| {
            let answered = timeout(LIMIT, answers()).await;
            (!answered.unwrap_or(false)).then_some(name)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_is_ready_once_it_has_begun_and_not_while_it_drains() {
        let shutdown = CancellationToken::new();
        let readiness = Readiness::new(shutdown.clone());

        assert_eq!(readiness.missing().await, ["starting"]);
        readiness.wait_for("the schema");
        assert_eq!(readiness.missing().await, ["the schema"]);
        readiness.await_roles(2);
        readiness.begin();
        assert_eq!(readiness.missing().await, ["the schema"]);
        readiness.begin();
        assert!(readiness.missing().await.is_empty());
        shutdown.cancel();

        assert_eq!(readiness.missing().await, ["draining"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_and_what_hangs_is_named_within_a_second() {
        let readiness = Readiness::new(CancellationToken::new());
        readiness.begin();
        readiness.need("Postgres", &(), |()| std::future::pending());
        readiness.need("Redis", &(), async |()| false);
        readiness.need("the rest", &(), async |()| true);
        let asked = Instant::now();

        let missing = readiness.missing().await;

        assert_eq!(missing, ["Postgres", "Redis"]);
        assert!(asked.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn many_probes_ask_once_a_second() {
        let readiness = Readiness::new(CancellationToken::new());
        let asked = Arc::new(AtomicUsize::new(0));
        readiness.need("Postgres", &asked, async |asked| {
            asked.fetch_add(1, Ordering::Relaxed);
            true
        });

        for _ in 0..100 {
            readiness.missing().await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        tokio::time::advance(FRESH).await;
        readiness.missing().await;

        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
}
