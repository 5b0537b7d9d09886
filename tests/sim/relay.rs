//! Relay processes: the real steps of a relay (intake, dispatch, rescue, look again), in loops as
//! the role has them.

use std::{sync::Arc, time::Duration};

use sluice::{
    ledger::Due,
    relay::{self, Next, Settings},
    telemetry::metrics::Metrics,
};
use tokio::{
    task::AbortHandle,
    time::{self, Instant},
};
use workflows::definition::LEASE;

use crate::{connection::Connection, plan::Removed, process::Process, queue::Line, stage::Stage, weather::Pusher};

/// The role's ticks; intake's is a little slower, where idle rounds only cost time.
const INTAKE: Duration = Duration::from_millis(500);
const DISPATCH: Duration = Duration::from_secs(1);
const RESCUE: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_secs(1);
const GONE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Keeps a relay running: whenever it is killed, another starts a little later.
pub async fn keep(stage: Arc<Stage>, number: usize) {
    let chance = stage.chance(&format!("supervisor of relay {number}"));
    for life in 0_u32.. {
        let process = Process::start(format!("relay-{number}.{life}"), stage.log.clone());
        stage.facts().relays.push(process.clone());
        let tasks = start(&stage, &process);
        process.killed().await;
        for task in tasks {
            task.abort();
        }
        stage.facts().relays.retain(|other| !Arc::ptr_eq(other, &process));
        time::sleep(chance.millis(50, 3_000)).await;
    }
}

fn start(stage: &Arc<Stage>, process: &Arc<Process>) -> Vec<AbortHandle> {
    let duties = Arc::new(Duties::new(stage.clone(), process.clone()));
    let mut tasks = vec![stage.spawn("intake", intake(duties.clone())), stage.spawn("rescue", rescue(duties.clone()))];
    if stage.plan.removed != Some(Removed::Scan) {
        tasks.push(stage.spawn("dispatch", dispatch(duties)));
    }
    tasks
}

struct Duties {
    stage: Arc<Stage>,
    process: Arc<Process>,
    ledger: Connection,
    queue: Line,
    settings: Settings,
}

impl Duties {
    fn new(stage: Arc<Stage>, process: Arc<Process>) -> Self {
        Self {
            ledger: Connection::new(stage.clone(), process.clone(), "ledger"),
            queue: Line::new(Pusher::Relay, stage.clone(), process.clone(), "queue"),
            settings: Settings {
                batch: stage.plan.batch,
                intake_poll: INTAKE,
                retention: Duration::from_secs(30 * 86_400),
            },
            stage,
            process,
        }
    }

    /// Pushes what became due. Where that fails the scan looks.
    async fn push(&self, due: Vec<Due>) {
        if due.is_empty() {
            return;
        }
        if !relay::push_due(&self.ledger, &self.queue, due, None).await.is_ok_and(|report| report.left == 0) {
            self.look();
        }
    }

    fn look(&self) {
        self.stage.relay_bell.notify_one();
    }
}

fn failed(pause: Duration) -> Duration {
    (pause * 2).clamp(Duration::from_millis(100), LONGEST_PAUSE)
}

async fn intake(duties: Arc<Duties>) {
    let mut pause = INTAKE;
    loop {
        time::sleep(pause).await;
        duties.process.pass().await;
        pause = match relay::intake_once(&duties.ledger, duties.settings.batch).await {
            Ok(intake) => {
                let taken = intake.started.len() + intake.revived.len() + intake.joined;
                duties.push(intake.due).await;
                if taken >= duties.settings.batch { Duration::ZERO } else { INTAKE }
            }
            Err(_) => failed(pause),
        };
    }
}

async fn dispatch(duties: Arc<Duties>) {
    let mut pause = DISPATCH;
    loop {
        let _ = time::timeout(pause, duties.stage.relay_bell.notified()).await;
        duties.process.pass().await;
        pause = match relay::dispatch_once(&duties.settings, &duties.ledger, &duties.queue).await {
            Ok(Next::AtOnce) => Duration::ZERO,
            Ok(Next::After(pause)) => pause,
            Ok(Next::AtTick) => DISPATCH,
            Err(_) => failed(pause),
        };
    }
}

async fn rescue(duties: Arc<Duties>) {
    let dice = duties.stage.chance(&format!("{} dice", duties.process.name));
    let (metrics, late) = (Metrics::default(), relay::Ration::default());
    let mut pause = RESCUE;
    // Where the ledger was away, its workers were too: they get one lease's time to renew before
    // they count as gone.
    let mut in_touch = Instant::now();
    loop {
        time::sleep(pause).await;
        duties.process.pass().await;
        if in_touch.elapsed() > LEASE {
            pause = match duties.ledger.ping().await {
                Ok(()) => {
                    time::sleep(LEASE).await;
                    in_touch = Instant::now();
                    RESCUE
                }
                Err(_) => failed(pause),
            };
            continue;
        }
        pause = match relay::rescue_once(&duties.ledger, &|| dice.share(), &metrics, &late).await {
            Ok((rescued, _)) => {
                in_touch = Instant::now();
                duties.push(rescued.due).await;
                if rescued.doubted > 0 {
                    duties.look();
                }
                match rescued {
                    _ if rescued.gone => GONE,
                    _ if rescued.quiet => QUIET,
                    _ => RESCUE,
                }
            }
            Err(_) => failed(pause),
        };
    }
}
