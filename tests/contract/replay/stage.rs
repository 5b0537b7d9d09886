//! Sets the scene for each recorded exchange: the time that passed before it, what the recording did to the server
//! in between without an exchange (pairing a phone, killing it, stopping its database), and names for placeholders.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tests::evolution::{
    Answer, Body, Config, Database, Key, LinkState, Method, Planted, Request, Span, Ticket, Whatsapp, World,
};

use super::Recorded;

const KEY: &str = "the-global-key";
/// Between two exchanges of the recording, where the record does not say otherwise.
const PAUSE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Stage {
    world: World,
    now: Duration,
    /// Recorded instance ids with ours in their place.
    ids: BTreeMap<String, String>,
}

fn config() -> Config {
    Config { key: Key::new(KEY), ..Config::default() }
}

impl Stage {
    pub fn new() -> Self {
        Self::with(config())
    }

    fn with(config: Config) -> Self {
        Self { world: World::new(config, 1), now: Duration::ZERO, ids: BTreeMap::new() }
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        let answers = self.world.advance(self.now);
        assert!(answers.is_empty(), "nobody asked: {answers:?}");
    }

    pub fn prepare(&mut self, record: &Recorded) {
        self.change_server(&record.id);
        self.pass(pause(&record.id));
        self.change_scene(&record.id);
    }

    /// What the server is, or how it is started.
    fn change_server(&mut self, id: &str) {
        match id {
            "fetch.empty" => *self = Self::new(),
            "http.head" => self.plant(Planted::new("big2", "t")),
            "rabbit.create.inline" => *self = Self::with(Config { rabbitmq: true, ..config() }),
            // One server from here to `global.*`; DEL_INSTANCE=1 was read as a boolean and did nothing.
            "global.create" => *self = Self::with(Config { rabbitmq: true, qr_limit: 1, ..config() }),
            "offline.root" => {
                let two_minutes = Some(Duration::from_secs(120));
                *self = Self::with(Config { remove_unconnected_after: two_minutes, ..config() });
                self.world.faults_mut().whatsapp = Whatsapp::Unreachable;
            }
            "restart.sigterm.during" => *self = Self::new(),
            // On the recording machine the first QR code took longer than the call waits.
            "restart.setup.qr" => {
                let mut config = config();
                config.timings.first_qr = Span::ms(5_700, 6_000);
                *self = Self::with(config);
            }
            "restart.window.fetch" => self.boot_slowly(),
            "delete.deadhook.setup" | "delete.deadhook.short.setup" => {
                self.world.faults_mut().dead_hooks = vec!["http://127.0.0.1:8098/s500/".to_owned()];
            }
            "db.down.create" => self.world.faults_mut().database = Database::Down,
            "db.up.create" => self.world.faults_mut().database = Database::Up,
            _ => {}
        }
    }

    /// A server with a half-made instance, just restarted, that takes ten seconds to load it.
    fn boot_slowly(&mut self) {
        let mut config = config();
        config.timings.load = Span::ms(10_000, 10_000);
        *self = Self::with(config);
        let half = Planted { settings: false, ..Planted::new("burst_3_4_2", "tok-burst_3_4_2") };
        self.plant(half);
        self.world.restart(self.now, Duration::ZERO);
    }

    fn plant(&mut self, planted: Planted) {
        self.world.plant(self.now, planted);
    }

    /// What happened on the server between two exchanges.
    fn change_scene(&mut self, id: &str) {
        match id {
            "open.a.state" | "open.repaired.state" => self.scan("flow_a", "5511999990101"),
            "open.repaired2.state" => {
                self.connect_and_scan("flow_a", "5511999990777");
            }
            "open.unlinked.state" => {
                // The record's third phone is the one that removes the device.
                self.rescan("flow_a", "5511999990777");
                assert!(self.world.unlink(self.now, "flow_a"));
            }
            "open.nohook.state" => self.scan("flow_nohook", "5511999990103"),
            "global.state" => self.scan("glob_a", "5511999990301"),
            "restart.after.killed.fetch" | "restart.sigterm.after" => self.restart(),
            "restart.after.killed.webhook" => self.set_webhook("r_killed", json!(["CALL"])),
            "offline.logout" => self.wait_for("off_qr", LinkState::Close),
            "offline.state.afterlogout" => self.wait_for("off_qr", LinkState::Connecting),
            "db.flap.left" => {
                let half = Planted { settings: false, ..Planted::new("flap_1_1", "t-flap_1_1") };
                self.plant(half);
            }
            "delete.queryoverride" => {
                self.plant(Planted::new("iso_a", "token-a"));
                self.plant(Planted::new("iso_b", "token-b"));
            }
            _ => {}
        }
    }

    fn scan(&mut self, name: &str, number: &str) {
        assert!(self.world.pair(self.now, name, number), "no QR code of {name} to scan");
    }

    fn connect_and_scan(&mut self, name: &str, number: &str) {
        let request = Request::get(format!("/instance/connect/{name}")).key(KEY);
        let answer = self.ask(request, PATIENCE);
        assert!(answer.is_some());
        self.scan(name, number);
    }

    fn rescan(&mut self, name: &str, number: &str) {
        let request = Request::delete(format!("/instance/logout/{name}")).key(KEY);
        let answer = self.ask(request, PATIENCE);
        assert!(answer.is_some());
        self.connect_and_scan(name, number);
    }

    fn restart(&mut self) {
        self.world.restart(self.now, Duration::from_secs(7));
        self.pass(Duration::from_secs(20));
    }

    fn set_webhook(&mut self, name: &str, events: Value) {
        let hook = json!({"webhook": {"enabled": true, "url": "http://127.0.0.1:8098/restart", "events": events}});
        let request = Request::post(format!("/webhook/set/{name}")).key(KEY).json(hook);
        assert!(self.ask(request, PATIENCE).is_some());
    }

    fn wait_for(&mut self, name: &str, state: LinkState) {
        for _ in 0..1_000 {
            // The call itself takes some milliseconds, in which the state must stay.
            let state_at = |world: &World| world.instance(name).and_then(|instance| instance.state);
            let before = state_at(&self.world);
            self.pass(Duration::from_millis(1));
            if before != Some(state) && state_at(&self.world) == Some(state) {
                return;
            }
        }
        panic!("{name} never became {state:?}");
    }

    /// The answer; none where the recorded client gave up first.
    pub fn play(&mut self, record: &Recorded) -> Option<Answer> {
        let request = self.request(record);
        let elapsed = Duration::from_millis(record.elapsed_ms.unwrap_or(1_000));
        match record.client_error.as_deref() {
            Some(error) if error.starts_with("TimeoutError") => self.give_up(request, elapsed),
            Some(_) if self.world.is_up() => self.kill(request, elapsed),
            _ => self.ask(request, PATIENCE),
        }
    }

    fn ask(&mut self, request: Request, patience: Duration) -> Option<Answer> {
        let deadline = self.now + patience;
        let ticket = self.world.begin(self.now, request);
        self.wait(ticket, deadline)
    }

    fn wait(&mut self, ticket: Ticket, deadline: Duration) -> Option<Answer> {
        while let Some(at) = self.world.next_wakeup().filter(|at| *at <= deadline) {
            self.now = self.now.max(at);
            if let Some((answered, answer)) = self.world.advance(self.now).pop() {
                assert_eq!(answered, ticket);
                return Some(answer);
            }
        }
        None
    }

    fn give_up(&mut self, request: Request, after: Duration) -> Option<Answer> {
        let deadline = self.now + after;
        let ticket = self.world.begin(self.now, request);
        let answer = self.wait(ticket, deadline);
        self.now = deadline;
        self.world.cancel(ticket);
        answer
    }

    fn kill(&mut self, request: Request, after: Duration) -> Option<Answer> {
        let deadline = self.now + after;
        let ticket = self.world.begin(self.now, request);
        if let Some(early) = self.wait(ticket, deadline) {
            return Some(early);
        }
        self.now = deadline;
        self.world.kill(self.now);
        self.wait(ticket, deadline)
    }

    fn request(&self, record: &Recorded) -> Request {
        let recorded = &record.request;
        let method = Method::parse(&recorded.method).expect("a known method");
        let mut request = Request::new(method, self.fill(&recorded.path));
        for (name, value) in &recorded.headers {
            let value = value.as_str().unwrap_or_default();
            match name.to_ascii_lowercase().as_str() {
                "apikey" => request = request.key(self.key(&record.id, value)),
                "content-type" => request.content_type = Some(value.to_owned()),
                _ => {}
            }
        }
        request.body = match &recorded.body {
            Value::Null => Body::Empty,
            Value::String(text) => Body::Text(text.clone()),
            body => Body::Json(self.fill_value(body)),
        };
        request
    }

    fn key(&self, id: &str, placeholder: &str) -> String {
        let token_of = |name: &str| {
            let instance = self.world.instance(name);
            instance.map_or_else(String::new, |instance| instance.token.reveal().to_owned())
        };
        match placeholder {
            "<GLOBAL_API_KEY>" => KEY.to_owned(),
            "<WRONG_KEY>" => "a-wrong-key".to_owned(),
            "<TOKEN_OF_A_AND_C>" => token_of("inst_a"),
            "<TOKEN_OF_B>" if id.starts_with("delete.queryoverride") => token_of("iso_b"),
            "<TOKEN_OF_B>" => token_of("inst_b"),
            "<TOKEN_OF_FIRST_CREATE>" => token_of("timeout_d35e9da6-89b1-4131-8da9-e981db1317a9"),
            "<OWN_TOKEN>" => token_of("db_a"),
            "<INSTANCE_TOKEN>" => token_of("same_token_b"),
            other => other.to_owned(),
        }
    }

    fn fill(&self, text: &str) -> String {
        let mut text = text.replace("<GLOBAL_API_KEY>", KEY);
        for (recorded, own) in &self.ids {
            text = text.replace(recorded, own);
        }
        uncut(&text)
    }

    fn fill_value(&self, value: &Value) -> Value {
        map_text(value, &|text| self.fill(text))
    }

    /// A recorded body with our ids in the place of the recorded ones.
    pub fn own_ids(&self, value: &Value) -> Value {
        map_text(value, &|text| {
            let mut text = text.to_owned();
            for (recorded, own) in &self.ids {
                text = text.replace(recorded, own);
            }
            text
        })
    }

    /// Remembers which of our ids stands for which recorded one.
    pub fn note(&mut self, record: &Recorded, answer: Option<&Answer>) {
        let recorded = record.response.as_ref().map(|response| &response.body["instance"]["instanceId"]);
        let Some(Answer::Response(response)) = answer else { return };
        let own = &response.value()["instance"]["instanceId"];
        if let (Some(Value::String(recorded)), Value::String(own)) = (recorded, own) {
            self.ids.insert(recorded.clone(), own.clone());
        }
    }

    /// A record that is not played may still have changed the server.
    pub fn skip(&mut self, record: &Recorded) {
        if record.id == "limit.rate.create.qr" {
            self.pass(Duration::from_secs(10));
        }
    }
}

fn map_text(value: &Value, change: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(change(text)),
        Value::Array(items) => items.iter().map(|item| map_text(item, change)).collect(),
        Value::Object(fields) => fields.iter().map(|(key, field)| (key.clone(), map_text(field, change))).collect(),
        other => other.clone(),
    }
}

/// Puts back what the record cut from a run of one letter: `mmm…<4880 more characters cut>`.
fn uncut(text: &str) -> String {
    let Some((kept, cut)) = text.split_once("…<") else {
        return text.to_owned();
    };
    let count = cut.split(' ').next().and_then(|count| count.parse().ok()).expect("a count of cut characters");
    let letter = kept.chars().last().expect("something was kept");
    let mut whole = kept.to_owned();
    whole.extend(std::iter::repeat_n(letter, count));
    whole
}

/// How long the recording waited before an exchange, as its ids and texts say.
fn pause(id: &str) -> Duration {
    let last = id.rsplit('.').next().unwrap_or_default();
    let millis = match (id, last) {
        ("delete.again" | "delete.then.create", _) => 0,
        (_, "state0" | "after0") => 20,
        (_, "recreate0") => 0,
        (_, "recreate1") => 400,
        (_, "state4") => 4_000,
        (_, "state3") | ("delete.deadhook.state", _) => 3_000,
        ("idem.timeout.state" | "idem.timeout.create2" | "idem.timeout.create3", _) => 0,
        ("idem.timeout.fetch" | "idem.timeout.webhook" | "idem.timeout.owntoken" | "idem.timeout.connect", _) => 0,
        ("idem.timeout.gen.fetch", _) => 0,
        ("restart.window.webhook" | "restart.window.set" | "restart.window.settings", _) => 50,
        ("restart.half.fetch", _) => 12_000,
        ("global.limit.state" | "global.del.state", _) => 63_000,
        ("offline.del2.state", _) => 124_000,
        _ => return PAUSE,
    };
    Duration::from_millis(millis)
}
