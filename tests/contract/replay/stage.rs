//! Sets the scene for each recorded exchange: the time that passed before it, what the recording
//! did to the server in between without an exchange (pairing a phone, killing it, stopping its
//! database), and names for placeholders.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tests::evolution::{Answer, Body, Config, Key, Method, Request, Ticket, World};

use super::{Recorded, scenes};

pub(super) const KEY: &str = "the-global-key";
/// Between two exchanges of the recording, where the record does not say otherwise.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub struct Stage {
    pub(super) world: World,
    pub(super) now: Duration,
    /// Recorded instance ids with ours in their place.
    ids: BTreeMap<String, String>,
}

pub(super) fn config() -> Config {
    Config { key: Key::new(KEY), ..Config::default() }
}

impl Stage {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub(super) fn with(config: Config) -> Self {
        Self { world: World::new(config, 1), now: Duration::ZERO, ids: BTreeMap::new() }
    }

    pub(super) fn pass(&mut self, span: Duration) {
        self.now += span;
        let answers = self.world.advance(self.now);
        assert!(answers.is_empty(), "nobody asked: {answers:?}");
    }

    pub fn prepare(&mut self, record: &Recorded) {
        self.change_server(&record.id);
        self.pass(scenes::pause(&record.id));
        self.change_scene(&record.id);
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

    pub(super) fn ask(&mut self, request: Request, patience: Duration) -> Option<Answer> {
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
