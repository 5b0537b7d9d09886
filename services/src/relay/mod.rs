//! The relay: moves requests into runs, what is due into Redis, and what nobody holds any more back
//! to due.
//!
//! Each duty is a file with a function that does it once, its tick, and the loop that repeats it:
//! `intake`, `dispatch`, `rescue`, `schema`, `prune`; a product brings its own (`duty`). `listen`
//! hears the rings that `doorbell` asks for. Any number of relays run side by side; none is
//! special, and none holds anything in memory that another would miss.

mod dispatch;
mod doorbell;
mod duty;
mod gauges;
mod intake;
mod listen;
mod prune;
mod rescue;
mod schema;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use sqlx::postgres::PgConnectOptions;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::doorbell::Doorbell;
pub use self::{
    dispatch::{dispatch_once, push_due},
    duty::{Duty, Next},
    intake::intake_once,
    rescue::{Ration, Rescued, rescue_once},
};
use crate::{
    ledger::{Due, postgres::Postgres},
    queue::Queue,
    telemetry::{Vitals, health::Pulse},
};

/// How a relay works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The most rows or steps that one round takes.
    pub batch: usize,
    /// How long a request waits at most where no ring comes.
    pub intake_poll: Duration,
    /// How long runs that ended well are kept.
    pub retention: Duration,
}

/// What a relay works with.
pub struct Deps {
    /// It has registered its definitions.
    pub ledger: Postgres,
    pub queue: Queue,
    /// Where LISTEN works, if anywhere: one connection is opened there.
    pub listen: Option<PgConnectOptions>,
    /// What products have it do beside its own.
    pub duties: Vec<Box<dyn Duty>>,
    /// Where it leaves what it counts, and its loops' pulses.
    pub vitals: Vitals,
}

/// Runs until `shutdown`, then ends each duty after the round it is in: there is nothing to hand
/// back. A duty that panics ends the relay.
pub async fn run(settings: Settings, deps: Deps, shutdown: CancellationToken) -> anyhow::Result<()> {
    let relay = Relay {
        settings: Arc::new(settings),
        ledger: deps.ledger,
        queue: deps.queue,
        doorbell: Arc::default(),
        due: Arc::default(),
        vitals: deps.vitals,
        shutdown,
    };
    relay.vitals.metrics.expect_rescues();
    gauges::show(&relay.vitals.metrics, relay.ledger.clone(), relay.queue.clone());
    let mut duties = JoinSet::new();
    duties.spawn(listen::run(relay.clone(), deps.listen));
    duties.spawn(intake::run(relay.clone()));
    duties.spawn(dispatch::hear_wakes(relay.clone()));
    duties.spawn(dispatch::run(relay.clone()));
    duties.spawn(rescue::run(relay.clone()));
    for duty in deps.duties {
        duties.spawn(of_a_product(relay.clone(), duty));
    }
    duties.spawn(schema::run(relay.clone()));
    duties.spawn(prune::run(relay));
    tracing::info!("ready");
    while let Some(ended) = duties.join_next().await {
        ended.context("a duty of the relay ended")?;
    }
    Ok(())
}

async fn of_a_product(relay: Relay, duty: Box<dyn Duty>) {
    let round = async || duty.round(&relay.ledger, &relay.vitals.metrics).await;
    relay.repeat(duty.what(), duty.tick(), &Notify::new(), round).await;
}

/// What the duties share.
#[derive(Clone)]
struct Relay {
    settings: Arc<Settings>,
    ledger: Postgres,
    queue: Queue,
    doorbell: Arc<Doorbell>,
    /// A step may be due that nobody pushed.
    due: Arc<Notify>,
    vitals: Vitals,
    shutdown: CancellationToken,
}

impl Relay {
    fn pulse(&self, duty: &str) -> Pulse {
        self.vitals.health.pulse(format!("relay: {duty}"))
    }

    /// Repeats a duty until the relay stops.
    async fn repeat<Fut>(&self, what: &'static str, tick: Duration, wake: &Notify, duty: impl Fn() -> Fut)
    where
        Fut: Future<Output = anyhow::Result<Next>>,
    {
        duty::repeat(what, tick, wake, &self.shutdown, self.pulse(what), duty).await;
    }

    /// Pushes what became due. Where that fails the scan looks.
    async fn push(&self, due: Vec<Due>) {
        if due.is_empty() {
            return;
        }
        match push_due(&self.ledger, &self.queue, due, None).await {
            Ok(report) => self.look_if(report.left > 0),
            Err(error) => {
                tracing::debug!(%error, "not pushed at once");
                self.look_if(true);
            }
        }
    }

    fn look_if(&self, due: bool) {
        if due {
            self.due.notify_one();
        }
    }
}
