//! The relay: moves what is pending into runs, what is due into Redis, and what nobody holds any more back to due.
//!
//! Each duty is a file with one function that does it once, and a loop here that calls it: `intake`, `dispatch`, `rescue`,
//! `stray`, `doubt`, `loss`, `finder`. Any number of relays run side by side; none is special, and none holds anything in memory that another
//! would miss.

mod dispatch;
mod doubt;
mod duty;
mod finder;
mod gauges;
mod intake;
mod listen;
mod loss;
mod rescue;
mod stray;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use sqlx::PgPool;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use workflows::{definition::LEASE, ids::Token};

use self::duty::repeat;
pub use self::{
    dispatch::dispatch_once,
    doubt::look_again_once,
    duty::Next,
    finder::{find_once, report_older},
    intake::intake_once,
    loss::watch_once,
    rescue::{Rescued, rescue_once},
    stray::recover_once,
};
use crate::{
    ledger::{Draw, Error, Ledger, postgres::Postgres},
    queue::{Queue, loss::Epoch},
    telemetry::{Vitals, health::Pulse},
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
    /// How long runs that ended well are kept.
    pub retention: Duration,
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
    /// Where it leaves what it counts, and its loops' pulses.
    pub vitals: Vitals,
}

const GATES_AGAIN: Duration = Duration::from_secs(1);
/// How often due steps are looked for without a wake: what became due by the clock waits no longer than this.
const DISPATCH_TICK: Duration = Duration::from_millis(250);
const RESCUE_TICK: Duration = Duration::from_millis(500);
const LOSS_TICK: Duration = Duration::from_millis(500);
const STRAY_TICK: Duration = Duration::from_secs(1);
const LOOK_TICK: Duration = Duration::from_secs(2);
const FINDER_TICK: Duration = Duration::from_secs(30);
const FINDER_FULL_TICK: Duration = Duration::from_secs(3600);
const PRUNE_TICK: Duration = Duration::from_secs(600);
/// The most rows of a kind that one transaction deletes.
const PRUNE_BATCH: usize = 500;

/// Runs until `shutdown`, then ends each duty after the round it is in: there is nothing to hand back. A duty that panics
/// ends the relay.
pub async fn run(settings: Settings, deps: Deps, shutdown: CancellationToken) -> anyhow::Result<()> {
    if !make_gates(&deps.ledger, settings.host.as_deref(), &shutdown).await? {
        return Ok(());
    }
    report_older(&deps.ledger).await;
    let relay = Relay {
        settings: Arc::new(settings),
        ledger: deps.ledger,
        queue: deps.queue,
        signed_up: Arc::default(),
        due: Arc::default(),
        vitals: deps.vitals,
        shutdown,
    };
    relay.vitals.metrics.expect_rescues();
    let host = relay.settings.host.clone();
    gauges::show(&relay.vitals.metrics, relay.ledger.clone(), relay.queue.clone(), host);
    let mut duties = JoinSet::new();
    duties.spawn(relay.clone().until_shutdown(listen::forward(
        deps.listen,
        relay.signed_up.clone(),
        relay.pulse("listen"),
    )));
    let wakes = forward_wakes(relay.queue.clone(), relay.due.clone(), relay.pulse("hear wakes"));
    duties.spawn(relay.clone().until_shutdown(wakes));
    duties.spawn(relay.clone().take_in());
    duties.spawn(relay.clone().dispatch());
    duties.spawn(relay.clone().rescue());
    duties.spawn(relay.clone().recover_strays());
    duties.spawn(relay.clone().look_again());
    duties.spawn(relay.clone().watch_redis());
    duties.spawn(relay.clone().find(FINDER_TICK, finder::RECENT));
    duties.spawn(relay.clone().find(FINDER_FULL_TICK, finder::ALL));
    duties.spawn(relay.prune());
    tracing::info!("ready");
    while let Some(ended) = duties.join_next().await {
        ended.context("a duty of the relay ended")?;
    }
    Ok(())
}

/// Waits for a Postgres that does not answer, as the start does. `false`: shutdown came first.
async fn make_gates(ledger: &Postgres, host: Option<&str>, shutdown: &CancellationToken) -> anyhow::Result<bool> {
    loop {
        match ledger.ensure_gates(ledger.registry(), host).await {
            Ok(()) => return Ok(true),
            Err(error) if is_refused(&error) => return Err(error).context("make the gates"),
            Err(error) => tracing::warn!(%error, "cannot make the gates; trying again"),
        }
        if shutdown.run_until_cancelled(sleep(GATES_AGAIN)).await.is_none() {
            return Ok(false);
        }
    }
}

/// 42: what is there, or what we may do, is not as it must be; no waiting mends that.
fn is_refused(error: &Error) -> bool {
    let Error::Database(sqlx::Error::Database(said)) = error else { return false };
    said.code().is_some_and(|code| code.starts_with("42"))
}

async fn forward_wakes(queue: Queue, due: Arc<Notify>, pulse: Pulse) {
    let mut bell = queue.relay_bell();
    loop {
        pulse.waiting(bell.rung()).await;
        due.notify_one();
    }
}

/// What the duties share.
#[derive(Clone)]
struct Relay {
    settings: Arc<Settings>,
    ledger: Postgres,
    queue: Queue,
    /// A queue row may be pending.
    signed_up: Arc<Notify>,
    /// A step may be due.
    due: Arc<Notify>,
    vitals: Vitals,
    shutdown: CancellationToken,
}

impl Relay {
    fn pulse(&self, duty: &str) -> Pulse {
        self.vitals.health.pulse(format!("relay: {duty}"))
    }

    async fn until_shutdown(self, forever: impl Future<Output = ()>) {
        self.shutdown.run_until_cancelled(forever).await;
    }

    /// At each notification, and at least every `intake_poll`.
    async fn take_in(self) {
        let take = async || {
            let intake = intake_once(&self.ledger, self.settings.batch).await?;
            if intake.total() > 0 {
                self.due.notify_one();
            }
            Ok(if intake.total() >= self.settings.batch { Next::AtOnce } else { Next::AtTick })
        };
        let pulse = self.pulse("take in sign-ups");
        let (poll, shutdown) = (self.settings.intake_poll, self.shutdown.clone());
        repeat("take in sign-ups", poll, &self.signed_up, shutdown, pulse, take).await;
    }

    async fn dispatch(self) {
        let draw: Draw<Token> = Arc::new(|| Token::new(rand::random()));
        let dispatch = async || dispatch_once(&self.settings, &self.ledger, &self.queue, &draw).await;
        let pulse = self.pulse("dispatch");
        repeat("dispatch", DISPATCH_TICK, &self.due, self.shutdown.clone(), pulse, dispatch).await;
    }

    async fn rescue(self) {
        // Where the ledger was away, its workers were too: they get one lease's time to renew before they count as gone.
        let (in_touch, seen) = watch::channel(Instant::now());
        let rescue = async || {
            if seen.borrow().elapsed() > LEASE {
                self.ledger.due().await?;
                self.shutdown.run_until_cancelled(sleep(LEASE)).await;
            } else {
                let host = self.settings.host.as_deref();
                let rescued = rescue_once(&self.ledger, host, &rand::random::<f64>, &self.vitals.metrics).await?;
                self.wake_if(rescued.crashed > 0);
            }
            in_touch.send_replace(Instant::now());
            Ok(Next::AtTick)
        };
        let pulse = self.pulse("rescue");
        repeat("rescue", RESCUE_TICK, &Notify::new(), self.shutdown.clone(), pulse, rescue).await;
    }

    async fn recover_strays(self) {
        let recover = async || {
            let recovered = recover_once(&self.ledger, &self.queue).await?;
            self.vitals.metrics.rescued("stray", recovered);
            self.wake_if(recovered > 0);
            Ok(Next::AtTick)
        };
        let pulse = self.pulse("look for stray steps");
        repeat("look for stray steps", STRAY_TICK, &Notify::new(), self.shutdown.clone(), pulse, recover).await;
    }

    async fn look_again(self) {
        let look = async || {
            let started = look_again_once(&self.ledger).await?;
            self.vitals.metrics.rescued("doubted", started);
            self.wake_if(started > 0);
            Ok(Next::AtTick)
        };
        let pulse = self.pulse("look again");
        repeat("look again", LOOK_TICK, &Notify::new(), self.shutdown.clone(), pulse, look).await;
    }

    async fn watch_redis(self) {
        let watch = async || {
            let lost = watch_once(&self.ledger, &self.queue, Epoch::new(rand::random())).await?;
            if lost {
                self.vitals.metrics.redis_lost();
            }
            self.wake_if(lost);
            Ok(Next::AtTick)
        };
        let pulse = self.pulse("watch Redis");
        repeat("watch Redis", LOSS_TICK, &Notify::new(), self.shutdown.clone(), pulse, watch).await;
    }

    async fn find(self, tick: Duration, since: Duration) {
        let find = async || {
            let found = find_once(&self.ledger, since).await?;
            self.vitals.metrics.lost_sign_ups_found(found);
            if found > 0 {
                self.signed_up.notify_one();
            }
            Ok(if found >= finder::BATCH { Next::AtOnce } else { Next::AtTick })
        };
        let pulse = self.pulse("find lost sign-ups");
        repeat("find lost sign-ups", tick, &Notify::new(), self.shutdown.clone(), pulse, find).await;
    }

    async fn prune(self) {
        let prune = async || {
            let pruned = self.ledger.prune(self.settings.retention, PRUNE_BATCH).await?;
            Ok(if pruned >= PRUNE_BATCH as u64 { Next::AtOnce } else { Next::AtTick })
        };
        let pulse = self.pulse("prune");
        repeat("prune", PRUNE_TICK, &Notify::new(), self.shutdown.clone(), pulse, prune).await;
    }

    fn wake_if(&self, due: bool) {
        if due {
            self.due.notify_one();
        }
    }
}
