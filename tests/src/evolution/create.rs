//! POST /instance/create, step by step, as the real server does it: no transaction around the
//! steps, and a failed one removes whatever has that name. That is why concurrent creates destroy
//! each other here as they do there.

mod body;
mod rows;

use std::time::Duration;

use serde_json::{Value, json};

use super::answers::{self, uuid};
use super::calls::{Call, Next, Phase};
use super::hit::Hit;
use super::message::{Response, Ticket};
use super::schema;
use super::store::LinkState;
use super::teardown::Task;
use super::world::{Event, World, driver_error};
pub(super) use body::{all_if_empty, read_length};
use body::{created_body, type_name};

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
    /// The id that the statement under way was begun for: whatever memory held under the name at
    /// that moment.
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
        let delay = self.draw(self.config.timings.query) + Duration::from_millis(call.plan.delay_row_ms);
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
            // The server clears what it takes for a stale entry: another create may just have made
            // it.
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
}
