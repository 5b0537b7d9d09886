//! What goes wrong: which kinds of mishap there are, and what each does when it strikes.

use std::{sync::Arc, time::Duration};

use tests::evolution::{Database, Fault, Outage, RetryAfter, Route, Rule, Stage as At, Whatsapp, When};
use tokio::time;
use workflows::whatsapp::names::InstanceName;

use crate::{
    chance::Chance,
    checks, neighbours, people,
    process::Process,
    stage::Stage,
    weather::{Pusher, Trouble},
};

macro_rules! mishaps {
    ($($mishap:ident),+ $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mishap { $($mishap),+ }

        impl Mishap {
            pub const ALL: [Self; [$(Self::$mishap),+].len()] = [$(Self::$mishap),+];
        }
    };
}

mishaps! {
    KillWorker, FreezeWorker, FreezeInCall, KillRelay, KillRelayBeforePush, KillWorkerBeforePush, FreezeRelay,
    LedgerAway, LedgerSlow, LedgerForgetful,
    QueueAway, QueueLossy, QueueWiped, QueueRestored,
    ApiRestart, ApiRestartInCreate, ApiOutage, ApiDatabase, ApiWithoutWhatsapp,
    ApiLatency, ApiError, ApiDrop, ApiHang, ApiLimit, ApiSlowCreate,
    NetworkBreaks,
    InstanceRemoved, Phone, Neighbour,
    Revive, Cancel, AskAgain, Pause, Limit,
}

/// Lets mishaps strike, at random moments, until the bad times are over.
pub async fn strike(stage: Arc<Stage>) {
    let chance = stage.chance("mishaps");
    loop {
        time::sleep(chance.millis(1, stage.plan.pace)).await;
        if stage.log.now() >= stage.plan.bad_times {
            return;
        }
        let Some(mishap) = chance.pick(&stage.plan.mishaps) else { return };
        let chance = Chance::of(stage.plan.seed, &format!("{mishap:?} at {:?}", stage.log.now()));
        let on = stage.clone();
        stage.spawn("a mishap", async move { mishap.strike(&on, &chance).await });
    }
}

/// Ends whatever is wrong.
pub fn end(stage: &Stage) {
    stage.log.note(|| "the bad times are over".to_owned());
    stage.weather.clear(stage.log.now());
    stage.api.world(|world, now| {
        let faults = world.faults_mut();
        *faults = Default::default();
        if !world.is_up() {
            world.restart(now, Duration::from_secs(1));
        }
    });
}

impl Mishap {
    async fn strike(self, stage: &Arc<Stage>, chance: &Chance) {
        match self {
            Self::KillWorker => kill(stage, chance, &stage.facts().workers.clone(), "process.worker_killed"),
            Self::KillRelay => kill(stage, chance, &stage.facts().relays.clone(), "process.relay_killed"),
            Self::FreezeWorker => freeze(stage, chance, &stage.facts().workers.clone(), "process.worker_frozen"),
            Self::FreezeRelay => freeze(stage, chance, &stage.facts().relays.clone(), "process.relay_frozen"),
            Self::FreezeInCall => stage.weather.freeze_next_call(),
            Self::KillRelayBeforePush => stage.weather.take_before_push(Pusher::Relay),
            Self::KillWorkerBeforePush => stage.weather.take_before_push(Pusher::Worker),
            Self::LedgerAway => trouble(stage, chance, Trouble::LedgerAway, 12_000).await,
            Self::LedgerSlow => trouble(stage, chance, Trouble::LedgerSlow, 20_000).await,
            Self::LedgerForgetful => trouble(stage, chance, Trouble::LedgerForgetful, 10_000).await,
            Self::QueueAway => trouble(stage, chance, Trouble::QueueAway, 10_000).await,
            Self::QueueLossy => trouble(stage, chance, Trouble::QueueLossy, 20_000).await,
            Self::QueueWiped => wipe(stage).await,
            Self::QueueRestored => restore(stage, chance).await,
            Self::ApiRestart => restart(stage, chance),
            Self::ApiRestartInCreate => stage.weather.cut_next_create(),
            Self::ApiOutage => outage(stage, chance).await,
            Self::ApiDatabase => database(stage, chance).await,
            Self::ApiWithoutWhatsapp => without_whatsapp(stage, chance).await,
            Self::ApiLatency
            | Self::ApiError
            | Self::ApiDrop
            | Self::ApiHang
            | Self::ApiLimit
            | Self::ApiSlowCreate => {
                rule(stage, chance, self.rule(chance)).await;
            }
            Self::NetworkBreaks => break_network(stage, chance).await,
            Self::InstanceRemoved => remove(stage, chance),
            Self::Phone => phone(stage, chance),
            Self::Neighbour => neighbours::visit(stage, chance).await,
            Self::Revive => people::revive_one(stage, chance).await,
            Self::Cancel => people::cancel_one(stage, chance).await,
            Self::AskAgain => people::ask_again(stage, chance),
            Self::Pause => people::pause(stage, chance).await,
            Self::Limit => people::limit(stage, chance).await,
        }
    }

    fn rule(self, chance: &Chance) -> Rule {
        let stage = if chance.percent(50) { At::BeforeWork } else { At::AfterWork };
        let routes =
            [Route::Create, Route::WebhookSet, Route::WebhookFind, Route::ConnectionState, Route::FetchInstances];
        let mut route = chance.pick(&[None, Some(())]).flatten().and_then(|()| chance.pick(&routes));
        let fault = match self {
            Self::ApiSlowCreate => {
                route = Some(Route::Create);
                Fault::Latency { ms: chance.between(3_000, 20_000), stage: At::BeforeWork }
            }
            Self::ApiLatency if stage == At::AfterWork => Fault::Latency { ms: chance.between(100, 18_000), stage },
            // Longer than that, a create would be a slow one: see above.
            Self::ApiLatency => Fault::Latency { ms: chance.between(50, 1_800), stage },
            Self::ApiError => {
                let status = chance.pick(&[400, 408, 500, 502, 503, 504]).unwrap_or(500);
                let page = serde_json::Value::String("<h1>no server</h1>".to_owned());
                Fault::Error { status, body: chance.percent(50).then_some(page), stage }
            }
            Self::ApiHang => Fault::Hang { stage },
            Self::ApiLimit => {
                let seconds = chance.between(0, 15);
                let retry_after =
                    if chance.percent(50) { RetryAfter::Seconds(seconds) } else { RetryAfter::DateIn(seconds) };
                Fault::Limited { status: chance.pick(&[429, 503]).unwrap_or(429), retry_after }
            }
            _ => Fault::Drop { stage },
        };
        let percent = chance.pick(&[20, 50, 100]).unwrap_or(50);
        Rule { route, name_prefix: None, when: When::Probability(f64::from(percent) / 100.0), fault }
    }
}

fn kill(stage: &Stage, chance: &Chance, processes: &[Arc<Process>], what: &'static str) {
    if let Some(process) = chance.pick(processes) {
        stage.log.hit(what);
        process.kill();
    }
}

fn freeze(stage: &Stage, chance: &Chance, processes: &[Arc<Process>], what: &'static str) {
    if let Some(process) = chance.pick(processes)
        && process.freeze(chance.millis(200, 60_000))
    {
        stage.log.hit(what);
    }
}

async fn trouble(stage: &Stage, chance: &Chance, trouble: Trouble, longest: u64) {
    stage.log.note(|| format!("{trouble:?} begins"));
    stage.weather.begin(trouble, stage.log.now());
    time::sleep(chance.millis(100, longest)).await;
    stage.weather.end(trouble, stage.log.now());
    stage.log.note(|| format!("{trouble:?} ends"));
}

async fn wipe(stage: &Arc<Stage>) {
    stage.log.hit("queue.wiped");
    stage.log.note(|| "the queue is wiped".to_owned());
    stage.redis.wipe();
    checks::what_is_due_is_pushed_again(stage).await;
}

/// Back to a snapshot, without what was pushed since, and with what was acknowledged since.
async fn restore(stage: &Arc<Stage>, chance: &Chance) {
    stage.redis.snapshot();
    time::sleep(chance.millis(2_500, 15_000)).await;
    stage.log.hit("queue.restored");
    stage.log.note(|| "the queue is restored from a snapshot".to_owned());
    stage.redis.restore();
    checks::what_is_due_is_pushed_again(stage).await;
}

fn restart(stage: &Stage, chance: &Chance) {
    stage.log.hit("api.restarted");
    stage.log.note(|| "the API restarts".to_owned());
    let down_for = chance.millis(100, 8_000);
    stage.api.world(|world, now| world.restart(now, down_for));
}

async fn outage(stage: &Stage, chance: &Chance) {
    let kinds = [
        Outage::Refuse,
        Outage::Hang,
        Outage::Error(500),
        Outage::Error(503),
        Outage::Error(401),
        Outage::Page(404),
        Outage::Unlicensed,
    ];
    let outage = chance.pick(&kinds);
    stage.log.note(|| format!("outage: {outage:?}"));
    stage.api.world(|world, _| world.faults_mut().outage = outage);
    time::sleep(chance.millis(100, 20_000)).await;
    stage.api.world(|world, _| world.faults_mut().outage = None);
}

async fn database(stage: &Stage, chance: &Chance) {
    let kinds = [Database::Down, Database::Restarting, Database::Flapping(0.1), Database::Flapping(0.4)];
    let database = chance.pick(&kinds).unwrap_or_default();
    stage.log.note(|| format!("the API's database: {database:?}"));
    stage.api.world(|world, _| world.faults_mut().database = database);
    time::sleep(chance.millis(100, 15_000)).await;
    stage.api.world(|world, _| world.faults_mut().database = Database::Up);
}

async fn without_whatsapp(stage: &Stage, chance: &Chance) {
    stage.log.hit("api.without_whatsapp");
    stage.api.world(|world, _| world.faults_mut().whatsapp = Whatsapp::Unreachable);
    time::sleep(chance.millis(1_000, 30_000)).await;
    stage.api.world(|world, _| world.faults_mut().whatsapp = Whatsapp::Reachable);
}

async fn rule(stage: &Stage, chance: &Chance, rule: Rule) {
    stage.log.note(|| format!("{rule:?} begins"));
    let number = stage.weather.add_rule(rule);
    stage.lay_down_rules();
    time::sleep(chance.millis(200, 12_000)).await;
    stage.weather.remove_rule(number);
    stage.lay_down_rules();
}

impl Stage {
    fn lay_down_rules(&self) {
        let rules = self.weather.rules();
        self.api.world(|world, _| world.faults_mut().rules = rules);
    }
}

/// The next create takes its time, if less than the quiet time, and the network breaks meanwhile.
async fn break_network(stage: &Stage, chance: &Chance) {
    stage.weather.lose_next_create();
    let ms = chance.between(100, 2_200);
    let fault = Fault::Latency { ms, stage: At::BeforeWork };
    let route = Some(Route::Create);
    rule(stage, chance, Rule { route, name_prefix: Some("user_".to_owned()), when: When::Always, fault }).await;
}

/// Somebody deletes a user's instance in the API's own console, once, while its run is under way.
fn remove(stage: &Stage, chance: &Chance) {
    let users = stage.facts().users.clone();
    let Some(user) = chance.pick(&users) else { return };
    let name = InstanceName::of_user(user);
    if stage.facts().removed_at.contains_key(&name) {
        return;
    }
    if stage.api.world(|world, now| world.remove(now, name.as_str())) {
        stage.log.hit("api.instance_removed");
        stage.log.note(|| format!("{name} is removed"));
        stage.facts().removed_at.insert(name, stage.log.now());
    }
}

/// A user scans the code that is shown, or takes the device away.
fn phone(stage: &Stage, chance: &Chance) {
    let users = stage.facts().users.clone();
    let Some(user) = chance.pick(&users) else { return };
    let name = InstanceName::of_user(user);
    if stage.api.world(|world, now| world.pair(now, name.as_str(), "33600000000")) {
        stage.log.hit("phone.paired");
    } else if stage.api.world(|world, now| world.unlink(now, name.as_str())) {
        stage.log.hit("phone.unlinked");
    }
}
