//! The relay: moves what is pending into runs, what is due into Redis, and what nobody holds any more back to due.
//!
//! Each duty is a file with one function that does it once, and a loop here that calls it: `intake`, `dispatch`, `rescue`,
//! `loss`, `finder`. Any number of relays run side by side; none is special, and none holds anything in memory that another
//! would miss.

mod dispatch;
mod finder;
mod intake;
mod listen;
mod loss;
mod rescue;

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::Context;
use sqlx::PgPool;
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use workflows::ids::Token;

pub use self::{
    dispatch::{Pushed, dispatch_once},
    finder::find_once,
    intake::intake_once,
    loss::watch_once,
    rescue::{Rescued, rescue_once},
};
use crate::{
    ledger::{Draw, Ledger, postgres::Postgres},
    queue::{Queue, loss::Epoch},
};

/// How a relay works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The most rows or steps that one round takes.
    pub batch: usize,
    /// The most hints that Redis holds per step; the rest stays in Postgres.
    pub high_water: u64,
    /// How long a sign-up waits at most where no notification comes.
    pub intake_poll: Duration,
    /// The API's host, whose gate the steps share.
    pub host: Option<String>,
}

/// What a relay works with.
#[derive(Clone)]
pub struct Deps {
    pub ledger: Postgres,
    pub queue: Queue,
    /// A pool on which LISTEN works, where there is one.
    pub listen: Option<PgPool>,
}

/// How often due steps are looked for without a wake: what became due by the clock waits no longer than this.
const DISPATCH_TICK: Duration = Duration::from_millis(250);
const RESCUE_TICK: Duration = Duration::from_millis(500);
const LOSS_TICK: Duration = Duration::from_millis(500);
const FINDER_TICK: Duration = Duration::from_secs(30);
const FINDER_FULL_TICK: Duration = Duration::from_secs(3600);
/// The longest pause of a duty that keeps failing.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Runs until `shutdown`. What a relay was doing is then either committed or undone: there is nothing to hand back.
pub async fn run(settings: Settings, deps: Deps, shutdown: CancellationToken) -> anyhow::Result<()> {
    deps.ledger.ensure_gates(deps.ledger.registry(), settings.host.as_deref()).await.context("make the gates")?;
    let settings = Arc::new(settings);
    let signed_up = Arc::new(Notify::new());
    let due = Arc::new(Notify::new());
    let duties = TaskTracker::new();
    let start = |duty| duties.spawn(shutdown.clone().run_until_cancelled_owned(duty));

    start(boxed(listen::forward(deps.listen.clone(), signed_up.clone())));
    start(boxed(forward_wakes(deps.queue.clone(), due.clone())));
    start(boxed(intake_loop(settings.clone(), deps.clone(), signed_up, due.clone())));
    start(boxed(dispatch_loop(settings, deps.clone(), due.clone())));
    start(boxed(every("rescue", RESCUE_TICK, {
        let (deps, due) = (deps.clone(), due.clone());
        move || rescue_and_wake(deps.clone(), due.clone())
    })));
    start(boxed(every("watch Redis", LOSS_TICK, {
        let (deps, due) = (deps.clone(), due);
        move || watch_and_wake(deps.clone(), due.clone())
    })));
    for (tick, since) in [(FINDER_TICK, finder::RECENT), (FINDER_FULL_TICK, finder::ALL)] {
        let ledger = deps.ledger.clone();
        start(boxed(every("find lost sign-ups", tick, move || {
            let ledger = ledger.clone();
            async move { find_once(&ledger, since).await.map(drop) }
        })));
    }
    tracing::info!("ready");
    duties.close();
    duties.wait().await;
    Ok(())
}

fn boxed(duty: impl Future<Output = ()> + Send + 'static) -> futures::future::BoxFuture<'static, ()> {
    Box::pin(duty)
}

async fn forward_wakes(queue: Queue, due: Arc<Notify>) {
    let mut bell = queue.relay_bell();
    loop {
        bell.rung().await;
        due.notify_one();
    }
}

/// Takes pending rows at each notification, and at least every `intake_poll`; goes on while there are more.
async fn intake_loop(settings: Arc<Settings>, deps: Deps, signed_up: Arc<Notify>, due: Arc<Notify>) {
    let mut pause = settings.intake_poll;
    loop {
        let _ = tokio::time::timeout(pause, signed_up.notified()).await;
        pause = match intake_once(&deps.ledger, settings.batch).await {
            Ok(intake) => {
                if intake.total() > 0 {
                    due.notify_one();
                }
                if intake.total() >= settings.batch { Duration::ZERO } else { settings.intake_poll }
            }
            Err(error) => failed("take in sign-ups", &error, pause),
        };
    }
}

/// Dispatches at each wake and at each tick; goes on while there are more.
async fn dispatch_loop(settings: Arc<Settings>, deps: Deps, due: Arc<Notify>) {
    let mut pause = DISPATCH_TICK;
    let draw: Draw<Token> = Arc::new(|| Token::new(rand::random()));
    loop {
        let _ = tokio::time::timeout(pause, due.notified()).await;
        pause = match dispatch_once(&settings, &deps.ledger, &deps.queue, &draw).await {
            Ok(Pushed::All) => DISPATCH_TICK,
            Ok(Pushed::MoreIsDue) => Duration::ZERO,
            Err(error) => failed("dispatch", &error, pause),
        };
    }
}

async fn rescue_and_wake(deps: Deps, due: Arc<Notify>) -> anyhow::Result<()> {
    if rescue_once(&deps.ledger, &rand::random::<f64>).await?.due_again() > 0 {
        due.notify_one();
    }
    Ok(())
}

async fn watch_and_wake(deps: Deps, due: Arc<Notify>) -> anyhow::Result<()> {
    if watch_once(&deps.ledger, &deps.queue, Epoch::new(rand::random())).await? {
        due.notify_one();
    }
    Ok(())
}

/// Calls a duty at every tick, whatever becomes of it.
async fn every<F, Fut>(what: &'static str, tick: Duration, duty: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let mut ticks = interval(tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pause = Duration::from_millis(100);
    loop {
        ticks.tick().await;
        match duty().await {
            Ok(()) => pause = Duration::from_millis(100),
            Err(error) => {
                pause = failed(what, &error, pause);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Says that a duty failed, and how long to leave it alone.
fn failed(what: &'static str, error: &anyhow::Error, pause: Duration) -> Duration {
    tracing::warn!(error = format!("{error:#}"), "cannot {what}; trying again");
    (pause * 2).clamp(Duration::from_millis(100), LONGEST_PAUSE)
}

/// Whether any queue may hold more than was taken.
impl Pushed {
    fn and(self, other: Self) -> Self {
        if self == Self::MoreIsDue || other == Self::MoreIsDue { Self::MoreIsDue } else { Self::All }
    }
}
