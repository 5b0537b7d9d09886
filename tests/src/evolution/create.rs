//! POST /instance/create, step by step, as the real server does it: no transaction around the steps, and a failed
//! one removes whatever has that name. That is why concurrent creates destroy each other here as they do there.

mod body;

use std::time::Duration;

use serde_json::{Value, json};

use super::answers::{self, foreign_key, orm_settings, orm_webhook, uuid};
use super::calls::{Call, Next, Phase};
use super::hit::Hit;
use super::journal::Destroyer;
use super::message::{Key, Response, Ticket};
use super::schema;
use super::store::{Link, LinkState, Loaded, Row};
use super::teardown::{Task, Teardown};
use super::world::{Event, World, driver_error};
pub(super) use body::{all_if_empty, read_length};
use body::{created_body, inline, inline_webhook, settings, type_name};

const LONGEST_COLUMN: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Checked,
    Insert,
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
    /// The id that the statement under way was begun for: whatever memory held under the name at that moment.
    target: String,
}

impl Progress {
    /// The name of the row that this create would leave behind if it ended now.
    pub fn half_made(&self) -> Option<&str> {
        let begun = !matches!(self.stage, Stage::Checked | Stage::Insert | Stage::Socket | Stage::Waited);
        self.name.as_deref().filter(|_| begun)
    }

    /// What memory knows this instance by.
    fn key(&self) -> &str {
        self.name.as_deref().unwrap_or("undefined")
    }

    /// Whether name and token fit their columns.
    fn fits(&self) -> bool {
        let fits = |text: &str| text.chars().count() <= LONGEST_COLUMN;
        self.name.as_deref().is_some_and(fits) && fits(&self.token)
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
            target: String::new(),
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
        let serial = self.is_reserved(call.ticket, name);
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

    /// Without the quirk a name belongs to the first create that asks for it.
    fn is_reserved(&mut self, ticket: Ticket, name: &str) -> bool {
        if self.config.quirks.creates_destroy_each_other {
            return false;
        }
        let holder = self.store.creating.entry(name.to_owned()).or_insert(ticket);
        *holder != ticket
    }

    pub(super) fn create_step(&mut self, call: &mut Call, mut progress: Box<Progress>) -> Next {
        let done = match progress.stage {
            Stage::Checked => match self.checked(call, &mut progress) {
                Err(refusal) => return Next::Answer(refusal),
                Ok(()) => Ok(Stage::Insert),
            },
            Stage::Insert => {
                self.insert(call, &progress);
                self.load_created(&progress);
                self.begin_integrations(call, &mut progress)
            }
            Stage::Integrations => {
                self.store_integrations(call, &progress).and_then(|()| self.begin_settings(&mut progress))
            }
            Stage::Settings => self.store_settings(call, &progress).map(|()| Stage::Socket),
            Stage::Socket => return self.open_created(call, progress),
            Stage::Waited => return Next::Answer(self.created(call, &progress)),
        };
        let stage = match done {
            Ok(stage) => stage,
            Err(message) => return self.fail(&progress, message),
        };
        let timings = &self.config.timings;
        let span = if stage == Stage::Socket { timings.think } else { timings.write };
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
        if self.database().is_err() || !progress.fits() || self.store.rows.contains_key(name) {
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
        self.store.memory.insert(progress.key().to_owned(), loaded);
    }

    /// Inline `webhook` and `rabbitmq`, which are stored for whatever memory holds under the name when they begin.
    fn begin_integrations(&mut self, call: &Call, progress: &mut Progress) -> Result<Stage, String> {
        let mut wanted = inline(call, "webhook");
        if wanted.is_none() && self.config.rabbitmq {
            wanted = inline(call, "rabbitmq");
        }
        let Some(wanted) = wanted else {
            return self.begin_settings(progress);
        };
        let Some(loaded) = self.store.memory.get(progress.key()) else {
            return Err("Cannot read properties of undefined (reading 'instanceId')".to_owned());
        };
        progress.target.clone_from(&loaded.id);
        read_length(wanted, "events")?;
        Ok(Stage::Integrations)
    }

    fn store_integrations(&mut self, call: &Call, progress: &Progress) -> Result<(), String> {
        let name = progress.key();
        if let Some(webhook) = inline(call, "webhook") {
            let fields = inline_webhook(webhook, read_length(webhook, "events")?);
            self.upsert_webhook(name, &progress.target, &fields).inspect_err(|_| self.note_race(progress))?;
        }
        if self.config.rabbitmq
            && let Some(rabbitmq) = inline(call, "rabbitmq")
        {
            let events = all_if_empty(read_length(rabbitmq, "events")?);
            let extra = self.extra(json!({"enabled": true, "events": events}));
            self.database().map_err(str::to_owned)?;
            let row = self.store.row_of(name, &progress.target);
            row.ok_or_else(|| orm_webhook(&foreign_key("Rabbitmq")))?.rabbitmq = Some(extra);
        }
        Ok(())
    }

    fn begin_settings(&mut self, progress: &mut Progress) -> Result<Stage, String> {
        let Some(loaded) = self.store.memory.get(progress.key()) else {
            self.journal.hit(Hit::CreateRaceNoMemory);
            return Err("Cannot read properties of undefined (reading 'setSettings')".to_owned());
        };
        progress.target.clone_from(&loaded.id);
        Ok(Stage::Settings)
    }

    /// Counts a foreign key that failed because of another create of this name.
    fn note_race(&mut self, progress: &Progress) {
        let raced = progress.target != progress.id
            || self.store.rows.get(progress.key()).is_none_or(|row| row.id != progress.id);
        if raced && progress.fits() {
            self.journal.hit(Hit::CreateRaceForeignKey);
        }
    }

    fn store_settings(&mut self, call: &Call, progress: &Progress) -> Result<(), String> {
        self.database().map_err(str::to_owned)?;
        let settings = self.extra(settings(&call.body));
        if let Some(row) = self.store.row_of(progress.key(), &progress.target) {
            row.settings = Some(settings);
            return Ok(());
        }
        self.note_race(progress);
        Err(orm_settings(&foreign_key("Setting")))
    }

    fn open_created(&mut self, call: &Call, mut progress: Box<Progress>) -> Next {
        progress.stage = Stage::Waited;
        let wanted = call.body.get("qrcode") == Some(&Value::Bool(true));
        let name = progress.key();
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
        // Creates that already stand in line get their name check before a cleanup gets its turn.
        let line = self.last_create.saturating_sub(self.now);
        let erase = line + self.draw(self.config.timings.cleanup);
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
}
