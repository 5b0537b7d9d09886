//! The steps of `provision-instance` over the simulated server, with nothing in between but time:
//! what the real server leaves behind is healed, and nothing good is destroyed. One run after
//! another; the engine has its own tests.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use serde_json::{Value, json};
use tests::evolution::{Answer, Body, Config, Database, Destroyer, Hit, Outage, Planted, Request, Route, Span, World};
use workflows::{
    calls::{ExclusiveCalls, Permission},
    ids::{ResourceName, StepName},
    outcome::{HostSignal, Memory, Outcome, StepInput},
    secret::Secret,
    whatsapp::{
        evolution::{
            AmqpMode, ApiError, ApiState, Call, Connect, Created, ErrorKind, Evolution, ExclusiveApi,
            ExclusiveEvolution, Listed, Own, Rabbitmq, Roster, StoredWebhook, Version, Webhook,
            answer::{self, Response},
            default_settings,
            redact::Redaction,
        },
        names::{InstanceName, UserId},
        provision::{
            self, CONFIGURE_WEBHOOKS, CREATE_INSTANCE, Given, Host, QrAtSignup, Settings, Timings, VERIFY,
            WebhookOptions, WebhookTemplate,
        },
    },
};

const KEY: &str = "simulated-global-key";

/// The simulated server, asked one question at a time.
struct Api(Mutex<World>);

impl Api {
    fn with<T>(&self, act: impl FnOnce(&mut World, Duration) -> T) -> T {
        let mut world = self.0.lock().expect("no test panicked with it");
        let now = world.now();
        act(&mut world, now)
    }

    fn pass(&self, span: Duration) {
        self.with(|world, now| drop(world.advance(now + span)));
    }

    fn ask<T>(
        &self,
        call: Call,
        request: Request,
        read: impl FnOnce(&Response<'_>) -> Result<T, ErrorKind>,
    ) -> Result<T, ApiError> {
        let end = Duration::from_secs(15);
        let answer = self.with(|world, now| {
            if !world.is_up() {
                return Err(ErrorKind::Unreachable("connection refused".to_owned()));
            }
            let ticket = world.begin(now, request);
            while let Some(at) = world.next_wakeup().filter(|at| *at <= now + end) {
                let answers = world.advance(at);
                if let Some((_, answer)) = answers.into_iter().find(|(answered, _)| *answered == ticket) {
                    return Ok(answer);
                }
            }
            world.cancel(ticket);
            Ok(Answer::Dropped)
        });
        let result = match answer {
            Ok(Answer::Response(response)) => {
                let body = match &response.body {
                    Body::Json(value) => value.to_string(),
                    Body::Text(text) => text.clone(),
                    Body::Empty | Body::Undefined => String::new(),
                };
                let headers = |name| response.header(name);
                let (retry_after, date) = (headers("retry-after"), headers("date"));
                read(&Response { status: response.status, retry_after, date, body: body.as_bytes() })
            }
            Ok(Answer::Dropped) => Err(ErrorKind::NoAnswer("the connection was closed".to_owned())),
            Err(kind) => Err(kind),
        };
        result.map_err(|kind| ApiError { call, kind })
    }
}

fn get(target: impl Into<String>) -> Request {
    Request::get(target).key(KEY)
}

fn plain() -> Redaction<'static> {
    Redaction::new(None, [])
}

impl Evolution for Api {
    async fn fetch(&self, name: &InstanceName) -> Result<Option<Listed>, ApiError> {
        let request = get(format!("/instance/fetchInstances?instanceName={name}"));
        self.ask(Call::Fetch, request, |response| answer::listed(response, name, &plain()))
    }

    async fn fetch_own(&self, name: &InstanceName, token: &Secret) -> Result<Own, ApiError> {
        let request = Request::get(format!("/instance/fetchInstances?instanceName={name}")).key(token.expose());
        self.ask(Call::FetchOwn, request, |response| answer::own(response, name, &plain()))
    }

    async fn roster(&self) -> Result<Arc<Roster>, ApiError> {
        let request = get("/instance/fetchInstances");
        self.ask(Call::Roster, request, |response| answer::roster(response, &plain()).map(Arc::new))
    }

    async fn connection_state(&self, name: &InstanceName) -> Result<Option<ApiState>, ApiError> {
        let request = get(format!("/instance/connectionState/{name}"));
        self.ask(Call::ConnectionState, request, |response| answer::connection_state(response, name, &plain()))
    }

    async fn connect(&self, name: &InstanceName, _: Duration) -> Result<Connect, ApiError> {
        let request = get(format!("/instance/connect/{name}"));
        self.ask(Call::Connect, request, |response| answer::connect(response, &plain()))
    }

    async fn set_webhook(&self, name: &InstanceName, webhook: &Webhook) -> Result<StoredWebhook, ApiError> {
        let request = Request::post(format!("/webhook/set/{name}")).key(KEY).json(webhook.body());
        self.ask(Call::SetWebhook, request, |response| answer::stored_webhook(response, &plain()))
    }

    async fn find_webhook(&self, name: &InstanceName) -> Result<Option<StoredWebhook>, ApiError> {
        let request = get(format!("/webhook/find/{name}"));
        self.ask(Call::FindWebhook, request, |response| answer::found_webhook(response, &plain()))
    }

    async fn set_rabbitmq(&self, name: &InstanceName, rabbitmq: &Rabbitmq) -> Result<Rabbitmq, ApiError> {
        let request = Request::post(format!("/rabbitmq/set/{name}")).key(KEY).json(rabbitmq.body());
        self.ask(Call::SetRabbitmq, request, |response| answer::stored_rabbitmq(response, &plain()))
    }

    async fn find_rabbitmq(&self, name: &InstanceName) -> Result<Option<Rabbitmq>, ApiError> {
        let request = get(format!("/rabbitmq/find/{name}"));
        self.ask(Call::FindRabbitmq, request, |response| answer::found_rabbitmq(response, &plain()))
    }

    async fn has_settings(&self, name: &InstanceName) -> Result<bool, ApiError> {
        let request = get(format!("/settings/find/{name}"));
        self.ask(Call::FindSettings, request, |response| answer::has_settings(response, &plain()))
    }

    async fn set_settings(&self, name: &InstanceName) -> Result<(), ApiError> {
        let request = Request::post(format!("/settings/set/{name}")).key(KEY).json(default_settings());
        self.ask(Call::SetSettings, request, |response| answer::done(response, &plain()))
    }

    async fn version(&self) -> Result<Version, ApiError> {
        self.ask(Call::Version, get("/"), |response| answer::version(response, &plain()))
    }

    async fn database(&self) -> Result<(), ApiError> {
        let request = get(format!("/instance/fetchInstances?instanceId={}", answer::NO_ID));
        self.ask(Call::Database, request, |response| answer::database(response, &plain()))
    }

    async fn verify_creds(&self) -> Result<(), ApiError> {
        let request = Request::post("/verify-creds").key(KEY);
        self.ask(Call::VerifyCreds, request, |response| answer::done(response, &plain()))
    }

    async fn pause(&self, duration: Duration) {
        self.pass(duration);
    }

    fn elapsed(&self) -> Duration {
        self.with(|_, now| now)
    }
}

impl ExclusiveEvolution for Api {
    async fn create(&self, name: &InstanceName, token: &Secret) -> Result<Created, ApiError> {
        let body = json!({
            "instanceName": name.as_str(), "token": token.expose(), "integration": "WHATSAPP-BAILEYS", "qrcode": false
        });
        let request = Request::post("/instance/create").key(KEY).json(body);
        self.ask(Call::Create, request, |response| answer::created(response, name, &plain()))
    }

    async fn delete(&self, name: &InstanceName, token: &Secret) -> Result<(), ApiError> {
        let request = Request::delete(format!("/instance/delete/{name}")).key(token.expose());
        self.ask(Call::Delete, request, |response| answer::done(response, &plain()))
    }

    async fn discard(&self, name: &InstanceName) -> Result<(), ApiError> {
        let request = Request::delete(format!("/instance/delete/{name}")).key(KEY);
        self.ask(Call::Discard, request, |response| answer::done(response, &plain()))
    }
}

/// Nothing here waits for anything but the server's own time.
fn play<T>(step: impl Future<Output = T>) -> T {
    match pin!(step).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("a call of this test never waits"),
    }
}

/// A process that works on runs, and what its ledger keeps of their instances.
struct Bench {
    api: Api,
    host: Host,
    settings: Settings,
    memories: BTreeMap<InstanceName, Memory>,
    claimed: BTreeMap<InstanceName, bool>,
    failures: Vec<String>,
}

fn settings(amqp_mode: AmqpMode) -> Settings {
    let webhook = WebhookOptions {
        url: "https://app.test/hook/{user_id}".to_owned(),
        events: vec!["CONNECTION_UPDATE".to_owned()],
        ..WebhookOptions::default()
    };
    let webhook = WebhookTemplate::parse(webhook).expect("valid settings");
    Settings { webhook, qr_at_signup: QrAtSignup::Skip, amqp_mode, timings: Timings::default() }
}

/// What a run came to, and how often its steps were put off.
struct Ended {
    defers: u32,
}

impl Bench {
    fn new(config: Config, seed: u64) -> Self {
        Self {
            api: Api(Mutex::new(World::new(config, seed))),
            host: Host::default(),
            settings: settings(AmqpMode::Global),
            memories: BTreeMap::new(),
            claimed: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    fn attempt(&mut self, user: u128, step: &str) -> Outcome {
        let name = instance(user);
        let resource: ResourceName = name.resource();
        let exclusive = step == CREATE_INSTANCE;
        let before = self.claimed.get(&name).copied().unwrap_or(false);
        let input = StepInput {
            subject: UserId::new(uuid::Uuid::from_u128(user)).subject(),
            resource,
            secret: Secret::new(token(user)),
            memory: self.memories.get(&name).cloned().unwrap_or_default(),
            exclusive_before: before,
            input: Value::Null,
        };
        if exclusive {
            self.claimed.insert(name.clone(), true);
        }
        let step: StepName = step.parse().expect("a step's name");
        let given = Given::of(&input);
        let calls = ExclusiveCalls::new(&Permission::Granted);
        let api = ExclusiveApi::new(&self.api, &calls);
        let run = provision::run(&step, &api, &given, &self.settings, &self.host);
        let outcome = play(run).expect("a step of ours");
        let kept = match &outcome {
            Outcome::Success { memory, .. } => memory,
            other => &other.failure().expect("no success").memory,
        };
        self.memories.entry(name).or_default().merge(kept);
        outcome
    }

    /// Runs a user's steps to their end, as the engine does. `meanwhile` is told of each attempt
    /// before it begins.
    fn run(&mut self, user: u128, mut meanwhile: impl FnMut(&Api, u32)) -> Result<Ended, Outcome> {
        let steps = [CREATE_INSTANCE, CONFIGURE_WEBHOOKS, VERIFY];
        let (mut at, mut defers, mut attempts) = (0, 0, 0);
        while at < steps.len() {
            meanwhile(&self.api, attempts);
            attempts += 1;
            assert!(attempts < 500, "the run of user {user} does not end");
            match self.attempt(user, steps[at]) {
                Outcome::Success { .. } => at += 1,
                Outcome::Defer { after, .. } => {
                    defers += 1;
                    let own = Duration::from_secs(1 << defers.min(4));
                    self.api.pass(after.unwrap_or(own));
                }
                Outcome::SendBack { to, .. } => {
                    at = steps.iter().position(|step| *step == to.as_str()).expect("a step")
                }
                Outcome::Retry(failure) => {
                    self.failures.push(failure.message);
                    self.api.pass(Duration::from_secs(2));
                }
                dead @ Outcome::Permanent(_) => return Err(dead),
            }
        }
        Ok(Ended { defers })
    }

    fn settle(&mut self, user: u128) -> Ended {
        self.run(user, |_, _| ()).unwrap_or_else(|dead| panic!("the run of user {user} is dead: {dead:?}"))
    }

    /// Each of these users has one whole instance with the token that is known here, and nothing
    /// good was destroyed.
    fn check(&self, users: impl Iterator<Item = u128>) {
        self.api.with(|world, _| {
            for user in users {
                let name = instance(user);
                let made = world.instance(name.as_str()).unwrap_or_else(|| panic!("{name} is not there"));
                let known = self.memories[&name].get("token").and_then(Value::as_str).map(str::to_owned);
                assert_eq!(made.token.reveal(), known.unwrap_or_else(|| token(user)), "{name}");
                assert!(made.webhook.is_some() && made.has_settings, "{name} is half-made");
            }
            let destroyed: Vec<_> = world.journal().destroyed().filter(|gone| gone.answered_201).collect();
            assert!(destroyed.is_empty(), "{destroyed:?}");
            assert_eq!(world.journal().overlaps, 0);
        });
    }
}

fn instance(user: u128) -> InstanceName {
    InstanceName::of_user(UserId::new(uuid::Uuid::from_u128(user)))
}

fn token(user: u128) -> String {
    format!("token-of-{user}")
}

/// `CACHE_REDIS_SAVE_INSTANCES=true`, and a minute until an instance is loaded.
fn caching() -> Config {
    let mut config = Config { save_instances: true, ..Config::default() };
    config.timings.load = Span::ms(20_000, 60_000);
    config
}

const RESTART: Duration = Duration::from_secs(3);

#[test]
fn each_instance_publishes_what_a_follower_reads_once_its_run_has_ended() {
    let mut bench = Bench::new(Config { rabbitmq: true, ..Config::default() }, 1);
    bench.settings = settings(AmqpMode::Instance);
    let published = |bench: &Bench, user| play(bench.api.find_rabbitmq(&instance(user))).expect("an answer");

    bench.settle(1);
    let first = published(&bench, 1);
    let others = Rabbitmq { enabled: true, events: ["CALL".to_owned()].into() };
    play(bench.api.set_rabbitmq(&instance(1), &others)).expect("an answer");
    bench.settle(1);
    bench.settings = settings(AmqpMode::Global);
    bench.settle(2);

    let wanted = Rabbitmq::to_set(None).expect("something");
    assert_eq!(first.as_ref(), Some(&wanted));
    let both = Rabbitmq::to_set(Some(&others)).expect("something");
    assert_eq!(published(&bench, 1), Some(both));
    assert_eq!(published(&bench, 2), None, "in the global mode nobody asks for it");
}

#[test]
fn no_run_destroys_an_instance_that_the_api_has_not_loaded_yet() {
    let mut bench = Bench::new(caching(), 1);
    for user in 0..40 {
        bench.settle(user);
    }
    for restart in 0..3 {
        // Every run is started again, and by another process each time, which knows nothing of the
        // host.
        bench.host = Host::default();
        bench.api.with(|world, now| world.restart(now, RESTART));
        bench.api.pass(RESTART + Duration::from_millis(100));
        for user in 0..40 {
            bench.settle(user);
        }
        assert!(bench.api.with(|world, _| world.journal().hit_count(Hit::NotLoadedHidden)) > restart);
    }

    bench.check(0..40);
    bench.api.with(|world, _| assert!(world.instances_made().values().all(|made| *made == 1)));
    assert!(bench.failures.is_empty(), "{:?}", bench.failures);
}

#[test]
fn an_instance_that_somebody_made_by_hand_survives_a_sign_up_while_the_api_loads() {
    let mut bench = Bench::new(caching(), 2);
    bench.api.with(|world, now| {
        for user in 0..10 {
            let phone = (user % 2 == 0).then(|| format!("55119999900{user:02}"));
            let name = instance(user);
            world.plant(now, Planted { phone, ..Planted::new(name.as_str(), format!("by-hand-{user}")) });
        }
        world.restart(now, RESTART);
    });
    bench.api.pass(RESTART + Duration::from_millis(100));

    for user in 0..12 {
        bench.settle(user);
    }

    bench.check(0..12);
    assert_eq!(bench.memories[&instance(3)].get("token"), Some(&json!("by-hand-3")));
    bench.api.with(|world, _| {
        assert_eq!(world.instances_made().len(), 12);
        assert!(world.instance(instance(4).as_str()).expect("it is there").owner_jid.is_some());
    });
}

#[test]
fn without_the_databases_word_the_same_sign_up_destroys_it() {
    // The trap itself, so that the tests above are known to stand in it: a create for a name that
    // is not loaded.
    let api = Api(Mutex::new(World::new(caching(), 3)));
    api.with(|world, now| {
        world.plant(now, Planted::new("user_1", "by-hand"));
        world.restart(now, RESTART);
    });
    api.pass(RESTART + Duration::from_millis(100));
    let name: InstanceName = "user_1".parse().expect("a name");

    let state = play(api.connection_state(&name)).expect_err("memory does not know it");
    let filtered = play(api.fetch(&name)).expect_err("memory does not know it");
    let own = play(api.fetch_own(&name, &Secret::new("by-hand")));
    let other = play(api.fetch_own(&name, &Secret::new("another")));
    let listed = play(api.roster()).expect("a list");
    let created = play(api.create(&name, &Secret::new("ours"))).expect_err("no row was inserted");
    api.pass(Duration::from_secs(2));

    assert_eq!((state.status(), filtered.status(), created.status()), (Some(404), Some(404), Some(400)));
    assert_eq!((own, other), (Ok(Own::NotLoaded), Ok(Own::NoSuchRow)));
    assert!(listed.get(&name).is_some());
    assert!(created.to_string().contains("Setting_instanceId_fkey"), "{created}");
    api.with(|world, _| {
        assert!(world.instance("user_1").is_none());
        assert!(world.journal().destroyed().any(|gone| gone.by == Destroyer::FailedCreate && gone.answered_201));
    });
}

#[test]
fn a_database_that_restarts_during_creates_costs_no_failure_and_leaves_every_user_ready() {
    let (mut phantoms, mut unloaded) = (0, 0);
    for seed in 0..60 {
        for save_instances in [false, true] {
            let mut bench = Bench::new(Config { save_instances, ..Config::default() }, seed);
            for user in 0..6 {
                bench
                    .run(user, |api, attempt| {
                        // Each statement of the first two attempts may fail; then the database is
                        // back.
                        let database = if attempt < 2 { Database::Flapping(0.35) } else { Database::Up };
                        api.with(|world, _| world.faults_mut().database = database);
                    })
                    .unwrap_or_else(|dead| panic!("seed {seed}, user {user}: {dead:?}"));
            }
            bench.check(0..6);
            assert!(bench.failures.is_empty(), "seed {seed}: {:?}", bench.failures);
            bench.api.with(|world, _| {
                phantoms += world.journal().hit_count(Hit::PhantomLeft);
                unloaded += world.journal().hit_count(Hit::DatabaseLeftRowUnloaded);
            });
        }
    }
    assert!(phantoms > 10 && unloaded > 3, "{phantoms} phantoms, {unloaded} rows without memory");
}

#[test]
fn a_phantom_costs_one_delete_and_one_create() {
    let mut bench = Bench::new(Config::default(), 4);
    bench.claimed.insert(instance(1), true);
    bench.api.with(|world, now| {
        world.plant(now, Planted { answered_201: false, ..Planted::new(instance(1).as_str(), token(1)) });
        assert!(world.unroot(now, instance(1).as_str()));
    });

    let ended = bench.settle(1);

    bench.check(1..2);
    assert_eq!(ended.defers, 0);
    let counts = bench
        .api
        .with(|world, _| (world.journal().count(Route::Delete, 200), world.journal().count(Route::Create, 201)));
    assert_eq!(counts, (1, 1));
}

#[test]
fn a_row_that_never_gets_into_memory_is_made_again_and_one_that_was_paired_is_not() {
    for save_instances in [false, true] {
        let mut bench = Bench::new(Config { save_instances, ..Config::default() }, 5);
        for user in [1, 2] {
            bench.claimed.insert(instance(user), true);
            bench.api.with(|world, now| {
                let phone = (user == 2).then(|| "5511999990102".to_owned());
                let name = instance(user);
                let planted = Planted { answered_201: user == 2, phone, ..Planted::new(name.as_str(), token(user)) };
                world.plant(now, planted);
                world.plant(now, Planted::new("another", "t"));
                assert!(world.unload(now, name.as_str()));
            });
        }

        let ended = bench.settle(1);
        let waited = bench.api.elapsed();
        // Nothing but a restart of the API helps the other.
        bench
            .run(2, |api, attempt| {
                if attempt == 30 {
                    api.with(|world, now| world.restart(now, RESTART));
                    api.pass(Duration::from_secs(8));
                }
            })
            .unwrap_or_else(|dead| panic!("{dead:?}"));

        bench.check(1..3);
        assert!(ended.defers > 10 && waited > Duration::from_secs(120), "{} defers, {waited:?}", ended.defers);
        bench
            .api
            .with(|world, _| assert!(world.instance(instance(2).as_str()).expect("it is there").owner_jid.is_some()));
        assert!(bench.failures.is_empty(), "{:?}", bench.failures);
    }
}

#[test]
fn an_instance_of_another_kind_is_a_dead_letter_and_stays() {
    let mut bench = Bench::new(Config::default(), 6);
    bench.api.with(|world, now| {
        let integration = "EVOLUTION".to_owned();
        world.plant(now, Planted { integration, ..Planted::new(instance(1).as_str(), "by-hand") });
    });

    let Err(Outcome::Permanent(failure)) = bench.run(1, |_, _| ()) else { panic!("no dead letter") };

    assert!(failure.message.contains("another kind (EVOLUTION)"), "{}", failure.message);
    assert!(bench.api.with(|world, _| world.instance(instance(1).as_str()).is_some()));
}

#[test]
fn a_server_of_an_old_version_is_left_alone_until_it_is_updated() {
    let mut bench = Bench::new(Config { version: "1.8.6".to_owned(), ..Config::default() }, 7);

    let Outcome::Defer { failure, .. } = bench.attempt(1, CREATE_INSTANCE) else { panic!("not put off") };

    assert!(failure.message.starts_with("the API is version 1.8.6"), "{}", failure.message);
    assert!(bench.api.with(|world, _| world.instances().is_empty()));
    assert_eq!(failure.host, HostSignal::Healthy);
}

#[test]
fn what_stands_in_place_of_the_api_burns_no_attempt_and_is_quoted() {
    for (outage, says) in [
        (Outage::Page(404), "with something that is not the Evolution API: 404 page not found"),
        (Outage::Page(403), "with something that is not the Evolution API: 403 page not found"),
        (Outage::Page(200), "with something that is not the Evolution API: not JSON"),
        (Outage::Page(301), "set EVOLUTION_API_BASE_URL to the address that the API itself answers at"),
        (Outage::Page(401), "asks for a user name and a password"),
        (Outage::Unlicensed, "a person must mend it: the API does nothing before its licence is activated"),
    ] {
        let mut bench = Bench::new(Config::default(), 8);
        bench
            .run(1, |api, attempt| {
                let outage = (attempt < 6).then_some(outage);
                api.with(|world, _| world.faults_mut().outage = outage);
            })
            .unwrap_or_else(|dead| panic!("{outage:?}: {dead:?}"));
        bench.check(1..2);
        assert!(bench.failures.is_empty(), "{outage:?}: {:?}", bench.failures);

        bench.api.with(|world, _| world.faults_mut().outage = Some(outage));
        let Outcome::Defer { failure, .. } = bench.attempt(2, CREATE_INSTANCE) else { panic!("{outage:?}") };
        assert!(failure.message.contains(says), "{outage:?}: {}", failure.message);
        assert_eq!(failure.host, HostSignal::Failing, "{outage:?}");
    }
}
