//! POST /instance/create, step by step, as the real server does it: no transaction around the steps, and a failed
//! one removes whatever has that name. That is why concurrent creates destroy each other here as they do there.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::answers::{self, foreign_key, orm_settings, orm_webhook, uuid};
use super::calls::{Call, Next, Phase};
use super::journal::{Destroyer, Hit};
use super::lifecycle::{Task, Teardown};
use super::message::{Key, Response};
use super::schema;
use super::store::{Link, LinkState, Loaded, Row};
use super::world::{Event, World, default_settings, driver_error};

const LONGEST_COLUMN: usize = 255;
const LONGEST_URL: usize = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Checked,
    Insert,
    Load,
    Integrations,
    Settings,
    Socket,
    Waited,
}

/// What a create knows on its way.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    stage: Stage,
    /// None: the body has no name, which only an empty server lets through.
    name: Option<String>,
    pub id: String,
    token: String,
    integration: String,
}

impl Progress {
    /// The name of the row that this create would leave behind if it ended now.
    pub fn half_made(&self) -> Option<&str> {
        let begun = !matches!(self.stage, Stage::Checked | Stage::Insert | Stage::Socket | Stage::Waited);
        self.name.as_deref().filter(|_| begun)
    }
}

impl World {
    /// The name check: against memory, then the database, before anything else is looked at.
    pub(super) fn check_name(&mut self, call: &Call) -> Next {
        if !self.config.quirks.name_before_key && !self.is_global(call.key.as_ref()) {
            return Next::Answer(answers::unauthorized());
        }
        let name = match call.body.get("instanceName") {
            None => None,
            Some(Value::String(name)) => Some(name.clone()),
            Some(other) => return Next::Answer(answers::orm_name_check(type_name(other))),
        };
        if let Err(refusal) = self.name_is_free(call, name.as_deref()) {
            return Next::Answer(refusal);
        }
        let progress = Progress {
            stage: Stage::Checked,
            name,
            id: uuid(&mut self.rng),
            token: String::new(),
            integration: String::new(),
        };
        let delay = self.draw(self.config.timings.query);
        Next::After(delay, Phase::Create(Box::new(progress)))
    }

    fn name_is_free(&mut self, call: &Call, name: Option<&str>) -> Result<(), Response> {
        let Some(name) = name else {
            self.database().map_err(driver_error)?;
            if self.store.rows.is_empty() {
                return Ok(());
            }
            self.journal.hit(Hit::NameUndefined);
            return Err(answers::name_taken("undefined"));
        };
        let loaded = self.store.in_memory(name);
        let serial = !self.config.quirks.creates_destroy_each_other && self.journal.other_create(name);
        if !serial && !self.exists(name)? {
            return Ok(());
        }
        if !self.is_global(call.key.as_ref()) {
            self.journal.hit(Hit::NameBeforeKey);
        }
        if self.store.leaving.contains_key(name) {
            self.journal.hit(Hit::CreateWhileLeaving);
            self.journal.creates_while_leaving += 1;
        } else if !loaded && !serial {
            self.journal.hit(Hit::NotLoadedCreate);
        }
        Err(answers::name_taken(name))
    }

    pub(super) fn create_step(&mut self, call: &mut Call, mut progress: Box<Progress>) -> Next {
        let timings = &self.config.timings;
        let (span, stage) = match progress.stage {
            Stage::Checked => match self.checked(call, &mut progress) {
                Err(refusal) => return Next::Answer(refusal),
                Ok(()) => (self.config.timings.write, Stage::Insert),
            },
            Stage::Insert => {
                self.insert(call, &progress);
                (self.config.timings.think, Stage::Load)
            }
            Stage::Load => {
                let span = timings.write;
                self.load_created(&progress);
                (span, Stage::Integrations)
            }
            Stage::Integrations => match self.store_integrations(call, &progress) {
                Err(message) => return self.fail(&progress, message),
                Ok(()) => (self.config.timings.write, Stage::Settings),
            },
            Stage::Settings => match self.store_settings(call, &progress) {
                Err(message) => return self.fail(&progress, message),
                Ok(()) => (self.config.timings.think, Stage::Socket),
            },
            Stage::Socket => return self.open_created(call, progress),
            Stage::Waited => return Next::Answer(self.created(call, &progress)),
        };
        progress.stage = stage;
        Next::After(self.draw(span), Phase::Create(progress))
    }

    /// Key, schema and integration.
    fn checked(&mut self, call: &Call, progress: &mut Progress) -> Result<(), Response> {
        if let Some(name) = &progress.name
            && self.config.quirks.creates_destroy_each_other
        {
            // The server clears what it takes for a stale entry: another create may just have made it.
            self.store.memory.remove(name);
        }
        if !self.is_global(call.key.as_ref()) {
            return Err(answers::unauthorized());
        }
        let faults = schema::create_faults(&call.body);
        if !faults.is_empty() {
            return Err(answers::invalid(faults));
        }
        let text = |field: &str| call.body.get(field).and_then(Value::as_str).unwrap_or_default();
        let missing = |field: &str| text(field).is_empty();
        let refusal = match text("integration") {
            "WHATSAPP-BAILEYS" | "EVOLUTION" => None,
            "WHATSAPP-BUSINESS" if missing("token") => Some("token is required"),
            "WHATSAPP-BUSINESS" if missing("number") => Some("number is required"),
            "WHATSAPP-BUSINESS" => None,
            _ => Some("Invalid integration"),
        };
        if let Some(message) = refusal {
            self.clean_up(progress);
            return Err(answers::refused(message));
        }
        progress.integration = text("integration").to_owned();
        progress.token = text("token").to_owned();
        if progress.token.is_empty() {
            progress.token = uuid(&mut self.rng).to_uppercase();
        }
        if progress.name.is_none() {
            progress.name.clone_from(&call.parsed.query.instance_name);
        }
        Ok(())
    }

    /// A row that cannot be inserted is passed over in silence: the next foreign key tells.
    fn insert(&mut self, call: &Call, progress: &Progress) {
        let Some(name) = &progress.name else { return };
        let fits = name.chars().count() <= LONGEST_COLUMN && progress.token.chars().count() <= LONGEST_COLUMN;
        if self.database().is_err() || !fits || self.store.rows.contains_key(name) {
            return;
        }
        let row = Row {
            id: progress.id.clone(),
            token: Key::new(progress.token.clone()),
            integration: progress.integration.clone(),
            number: call.body.get("number").and_then(Value::as_str).map(str::to_owned),
            status: if progress.integration == "EVOLUTION" { LinkState::Open } else { LinkState::Close },
            owner_jid: None,
            disconnection: None,
            created: self.now,
            updated: self.now,
            webhook: None,
            settings: None,
            rabbitmq: None,
            paired: false,
            answered_201: false,
        };
        *self.store.made.entry(name.clone()).or_default() += 1;
        self.store.rows.insert(name.clone(), row);
    }

    fn load_created(&mut self, progress: &Progress) {
        let mut loaded = Loaded::new(progress.id.clone(), progress.integration.clone());
        if progress.integration == "EVOLUTION" {
            loaded.link = Link::Open;
        }
        let name = progress.name.clone().unwrap_or_else(|| "undefined".to_owned());
        self.store.memory.insert(name, loaded);
    }

    /// Inline `webhook` and `rabbitmq`. They are stored for whatever memory holds under the name by now.
    fn store_integrations(&mut self, call: &Call, progress: &Progress) -> Result<(), String> {
        let name = progress.name.as_deref().unwrap_or("undefined");
        if let Some(webhook) = call.body.get("webhook").filter(|value| truthy(value)) {
            let events = read_length(webhook, "events")?;
            let fields = inline_webhook(webhook, events);
            self.upsert_webhook(name, &fields).inspect_err(|_| self.note_race(name, progress))?;
        }
        if self.config.rabbitmq
            && let Some(rabbitmq) = call.body.get("rabbitmq").filter(|value| truthy(value))
        {
            let events = read_length(rabbitmq, "events")?;
            let extra = self.extra(json!({"enabled": true, "events": all_if_empty(events)}));
            self.database().map_err(str::to_owned)?;
            let row = self.store.row_of_memory(name);
            row.ok_or_else(|| orm_webhook(&foreign_key("Rabbitmq")))?.rabbitmq = Some(extra);
        }
        Ok(())
    }

    fn note_race(&mut self, name: &str, progress: &Progress) {
        let raced = self.store.memory.get(name).is_none_or(|loaded| loaded.id != progress.id)
            || self.store.rows.get(name).is_some_and(|row| row.id != progress.id);
        if raced {
            self.journal.hit(Hit::CreateRaceForeignKey);
        }
    }

    fn store_settings(&mut self, call: &Call, progress: &Progress) -> Result<(), String> {
        let name = progress.name.as_deref().unwrap_or("undefined");
        if !self.store.memory.contains_key(name) {
            self.journal.hit(Hit::CreateRaceNoMemory);
            return Err("Cannot read properties of undefined (reading 'setSettings')".to_owned());
        }
        self.database().map_err(str::to_owned)?;
        let settings = self.extra(settings(&call.body));
        if let Some(row) = self.store.row_of_memory(name) {
            row.settings = Some(settings);
            return Ok(());
        }
        self.note_race(name, progress);
        Err(orm_settings(&foreign_key("Setting")))
    }

    fn open_created(&mut self, call: &Call, mut progress: Box<Progress>) -> Next {
        progress.stage = Stage::Waited;
        let wanted = call.body.get("qrcode") == Some(&Value::Bool(true));
        let name = progress.name.as_deref().unwrap_or("undefined");
        let own = self.store.memory.get(name).is_some_and(|loaded| loaded.id == progress.id);
        if !wanted || progress.integration != "WHATSAPP-BAILEYS" {
            return Next::Answer(self.created(call, &progress));
        }
        let number = call.body.get("number").and_then(Value::as_str);
        let first_qr = if own { self.open_socket(name, number) } else { Duration::ZERO };
        let wait = if self.config.quirks.create_waits {
            self.journal.hit(Hit::CreateWaited);
            Duration::from_millis(u64::from(self.config.timings.create_wait_ms)) + self.draw(self.config.timings.query)
        } else {
            first_qr
        };
        Next::After(wait, Phase::Create(progress))
    }

    fn created(&mut self, call: &Call, progress: &Progress) -> Response {
        let name = progress.name.clone().unwrap_or_default();
        let own = |id: &str| id == progress.id;
        let mut state = LinkState::Close;
        let mut qrcode = json!({"count": 0});
        if self.store.memory.get(&name).is_some_and(|loaded| own(&loaded.id)) {
            state = self.state(&name).unwrap_or(LinkState::Close);
            qrcode = self.qr(&name);
        }
        if let Some(row) = self.store.rows.get_mut(&name).filter(|row| own(&row.id)) {
            row.answered_201 = true;
        }
        if let Some(after) = self.config.remove_unconnected_after {
            let task = Task::Expire { name: name.clone(), id: progress.id.clone() };
            self.after(after, Event::Task(task));
        }
        let wants_qr = call.body.get("qrcode") == Some(&Value::Bool(true));
        let mut body = created_body(&call.body, progress, &name, state);
        if wants_qr && progress.integration == "WHATSAPP-BAILEYS" {
            if qrcode.get("code").is_none() {
                self.journal.hit(Hit::QrNotReady);
            }
            body["qrcode"] = qrcode;
        }
        Response::json(201, body)
    }

    /// Any failure after the row: 400 with the message, and whatever has that name goes.
    fn fail(&mut self, progress: &Progress, message: String) -> Next {
        let database = !message.starts_with('\n') && !message.starts_with("Cannot read");
        if database && !self.config.quirks.database_trouble_is_400 {
            let name = progress.name.as_deref().unwrap_or_default();
            self.store.memory.remove(name);
            self.store.rows.remove(name);
            return Next::Answer(answers::server_error(json!(message)));
        }
        if database {
            self.journal.hit(Hit::DatabaseCreateFailed);
        }
        self.clean_up(progress);
        Next::Answer(answers::refused(message))
    }

    fn clean_up(&mut self, progress: &Progress) {
        let Some(name) = progress.name.clone() else {
            self.store.memory.remove("undefined");
            return;
        };
        let foreign = self.store.rows.get(&name).is_some_and(|row| row.id != progress.id);
        if foreign && !self.config.quirks.creates_destroy_each_other {
            return;
        }
        let forget = self.draw(self.config.timings.think);
        let erase = self.draw(self.config.timings.cleanup);
        self.tear_down(
            forget,
            Teardown {
                name,
                meant: progress.id.clone(),
                by: Destroyer::FailedCreate,
                erase_after: erase,
                answers: None,
            },
        );
    }

    /// Stores a webhook for what memory holds under `name`; fields left out keep their stored value.
    ///
    /// # Errors
    /// The server's message.
    pub(super) fn upsert_webhook(&mut self, name: &str, fields: &Map<String, Value>) -> Result<Value, String> {
        if !self.store.memory.contains_key(name) {
            return Err("Cannot read properties of undefined (reading 'instanceId')".to_owned());
        }
        let enabled = fields.get("enabled") == Some(&Value::Bool(true));
        let events =
            if enabled { all_if_empty(read_length(&Value::Object(fields.clone()), "events")?) } else { json!([]) };
        self.database().map_err(str::to_owned)?;
        let Some(url) = fields.get("url").filter(|url| url.is_string()) else {
            return Err(orm_webhook("Argument `url` must not be null."));
        };
        if url.as_str().is_some_and(|url| url.chars().count() > LONGEST_URL) {
            let fault = "The provided value for the column is too long for the column's type. Column: (not available)";
            return Err(orm_webhook(fault));
        }
        self.write_webhook(name, fields, enabled, events, url.clone())
            .ok_or_else(|| orm_webhook(&foreign_key("Webhook")))
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "Boolean",
        Value::Number(number) if number.is_f64() => "Float",
        Value::Number(_) => "Int",
        Value::Array(_) => "(String)",
        Value::String(_) | Value::Object(_) => "Object",
    }
}

fn truthy(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && *value != json!("") && *value != json!(0)
}

/// `value.field.length` as JavaScript reads it: only what has a length passes.
fn read_length(value: &Value, field: &str) -> Result<Value, String> {
    match value.get(field) {
        None => Err("Cannot read properties of undefined (reading 'length')".to_owned()),
        Some(Value::Null) => Err("Cannot read properties of null (reading 'length')".to_owned()),
        Some(other) => Ok(other.clone()),
    }
}

fn all_if_empty(events: Value) -> Value {
    if events.as_array().is_some_and(Vec::is_empty) { json!(schema::EVENTS) } else { events }
}

/// Inline webhooks are always stored as enabled.
fn inline_webhook(webhook: &Value, events: Value) -> Map<String, Value> {
    let mut fields = Map::new();
    for field in ["url", "headers", "byEvents", "base64"] {
        if let Some(value) = webhook.get(field) {
            fields.insert(field.to_owned(), value.clone());
        }
    }
    fields.insert("enabled".to_owned(), json!(true));
    fields.insert("events".to_owned(), events);
    fields
}

fn settings(body: &Map<String, Value>) -> Value {
    let mut settings = default_settings();
    if let Some(fields) = settings.as_object_mut() {
        for (field, value) in fields {
            if let Some(given) = body.get(field).filter(|given| truthy(given)) {
                *value = given.clone();
            }
        }
    }
    settings
}

fn created_body(body: &Map<String, Value>, progress: &Progress, name: &str, state: LinkState) -> Value {
    let inline = |field: &str, inner: &str| body.get(field).and_then(|value| value.get(inner)).cloned();
    let mut webhook = Map::new();
    for (out, inner) in [
        ("webhookUrl", "url"),
        ("webhookHeaders", "headers"),
        ("webhookByEvents", "byEvents"),
        ("webhookBase64", "base64"),
    ] {
        if let Some(value) = inline("webhook", inner) {
            webhook.insert(out.to_owned(), value);
        }
    }
    let enabled = |field: &str| inline(field, "enabled").map_or_else(|| json!({}), |on| json!({"enabled": on}));
    json!({
        "instance": {
            "instanceName": name,
            "instanceId": progress.id,
            "integration": progress.integration,
            "webhookWaBusiness": null,
            "accessTokenWaBusiness": "",
            "status": state.as_str(),
        },
        "hash": progress.token,
        "webhook": webhook,
        "websocket": enabled("websocket"),
        "rabbitmq": enabled("rabbitmq"),
        "nats": enabled("nats"),
        "sqs": enabled("sqs"),
        "settings": settings(body),
    })
}
