//! What all actors of one simulated run share: the clock, the ledger's rows, Redis, the API, the
//! weather and the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use sluice::ledger::DueKey;
use tests::ledger::{ModelLedger, Setup};
use tokio::{sync::Notify, task::AbortHandle};
use uuid::Uuid;
use workflows::{
    definition::{Definition, Registry},
    ids::{RunId, StepName, Token},
    policy::Retry,
    secret::Secret,
    whatsapp::{
        evolution::HostProbe,
        names::{InstanceName, UserId},
        provision::{self, Provision},
    },
    workflow::Catalog,
};

use crate::{
    api::Api,
    chance::Chance,
    client::Client,
    log::Log,
    plan::{Plan, Removed},
    process::Process,
    publisher::Arrival,
    queue::Redis,
    script::Script,
    weather::Weather,
};

/// The global key of the simulated API.
pub const KEY: &str = "simulated-global-key";
/// The API's host, after which its gate is named.
pub const HOST: &str = "evolution.test";

pub struct Stage {
    pub plan: Plan,
    pub log: Arc<Log>,
    pub ledger: ModelLedger,
    pub registry: Arc<Registry>,
    pub redis: Redis,
    pub api: Arc<Api>,
    pub weather: Weather,
    /// Rung when a sign-up was made, and when a step may have become due.
    pub relay_bell: Notify,
    pub script: Script,
    facts: Mutex<Facts>,
}

/// What the checks must know of what happened.
#[derive(Default)]
pub struct Facts {
    /// The processes that live, by role.
    pub relays: Vec<Arc<Process>>,
    pub workers: Vec<Arc<Process>>,
    /// Every claim that was won.
    pub claims: BTreeSet<DueKey>,
    /// When a step was last asked for.
    pub asked_at: BTreeMap<DueKey, Duration>,
    /// How often a step that may create was claimed, by name.
    pub exclusive_claims: BTreeMap<InstanceName, u32>,
    /// Names at which two calls met that the protocol cannot keep apart: an instance may have been
    /// destroyed there.
    pub unprotected: BTreeMap<InstanceName, &'static str>,
    /// Names at which what a failed create left was asked to be deleted.
    pub discarded: BTreeSet<InstanceName>,
    /// When an instance was last taken away by a hand from outside.
    pub removed_at: BTreeMap<InstanceName, Duration>,
    /// Steps behind a gate that a person closed.
    pub paused: BTreeMap<StepName, u32>,
    /// Every message that reached the broker, in the order of arrival.
    pub arrived: Vec<Arrival>,
    /// Users who signed up.
    pub users: Vec<UserId>,
}

impl Facts {
    /// One of those who paused a step is done. Whether it was the last.
    pub fn resumes(&mut self, step: &StepName) -> bool {
        let left = self.paused.get(step).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            self.paused.insert(step.clone(), left);
        } else {
            self.paused.remove(step);
        }
        left == 0
    }
}

impl Stage {
    pub fn new(plan: Plan, log: Arc<Log>) -> Arc<Self> {
        let registry = Arc::new(Registry::new(vec![definition()]));
        let clock = log.clone();
        let ledger = ModelLedger::new(setup(plan.seed, registry.clone()), Arc::new(move || clock.now()));
        let ledger = match plan.removed {
            Some(Removed::Ledger(safeguard)) => ledger.without(safeguard),
            Some(Removed::Scan | Removed::DatabasesWord | Removed::Discard) | None => ledger,
        };
        Arc::new(Self {
            redis: Redis::new(&registry.queues(), plan.high_water),
            api: Api::new(&plan, log.clone()),
            script: Script::new(&plan),
            ledger,
            registry,
            plan,
            log,
            weather: Weather::default(),
            relay_bell: Notify::new(),
            facts: Mutex::default(),
        })
    }

    /// The workflow and the probe as one process has them.
    pub fn catalog(self: &Arc<Self>, process: &Arc<Process>) -> Catalog {
        let client = |what| Client::new(self.clone(), process.clone(), what);
        let workflow = Provision::new(client("client"), settings(), definition());
        Catalog::default().with(workflow).probing(HostProbe::new(HOST, client("probe")))
    }

    pub fn chance(&self, actor: &str) -> Chance {
        Chance::of(self.plan.seed, actor)
    }

    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task whose panic is a broken invariant.
    pub fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let log = self.log.clone();
        let task = async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                log.broken(format!("panic in {what}"));
            }
        };
        tokio::spawn(task).abort_handle()
    }
}

fn definition() -> Definition {
    provision::definition(Retry::default(), Duration::from_secs(90), Duration::from_secs(86_400), HOST)
}

fn setup(seed: u64, registry: Arc<Registry>) -> Setup {
    let (secrets, tokens) = (Chance::of(seed, "instance tokens"), Chance::of(seed, "claim tokens"));
    // Sorted by the moment of the start, as real ids are.
    let runs = AtomicU64::new(1);
    Setup {
        registry,
        draw_run: Arc::new(move || RunId::new(Uuid::from_u128(runs.fetch_add(1, Ordering::Relaxed).into()))),
        draw_secret: Arc::new(move || Secret::new(format!("own-token-{:016x}", secrets.bits()))),
        draw_token: Arc::new(move || Token::new(tokens.bits())),
        on_sign_up: provision::PROVISION_INSTANCE.parse().expect("the workflow's name is valid"),
    }
}

/// Where a user's instance must deliver to.
pub fn webhook_url(user: UserId) -> String {
    format!("http://app.test/hook/{user}")
}

fn settings() -> provision::Settings {
    let webhook = provision::WebhookOptions {
        url: "http://app.test/hook/{user_id}".to_owned(),
        events: ["QRCODE_UPDATED", "CONNECTION_UPDATE"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    provision::Settings {
        webhook: provision::WebhookTemplate::parse(webhook).expect("the simulator's settings are valid"),
        qr_at_signup: provision::QrAtSignup::Fetch,
        amqp_mode: Default::default(),
        timings: Default::default(),
    }
}
