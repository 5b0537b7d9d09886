//! The server as a state machine: an agenda of what happens when, the calls under way, and the controls of a test.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::answers::{self, Clock, cuid, uuid};
use super::calls::{Call, Phase};
use super::config::{Config, Quirks, Span};
use super::faults::{Database, Faults};
use super::journal::{Destroyed, Destroyer, Hit, Journal};
use super::lifecycle::Task;
use super::message::{Answer, Key, Ticket};
use super::store::{Disconnection, Extra, Instance, Link, LinkState, Loaded, Planted, Row, Store};

#[derive(Clone, Debug)]
pub(super) enum Event {
    Step(Ticket),
    Task(Task),
}

/// The whole server. `now` is the time since its start; it never runs backwards.
pub struct World {
    pub(super) config: Config,
    pub(super) rng: SmallRng,
    pub(super) now: Duration,
    pub(super) store: Store,
    pub(super) journal: Journal,
    pub(super) calls: BTreeMap<Ticket, Call>,
    pub(super) outbox: Vec<(Ticket, Answer)>,
    pub(super) up: bool,
    pub(super) tickets: u64,
    agenda: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
}

impl World {
    pub fn new(config: Config, seed: u64) -> Self {
        let journal = Journal::new(config.log_limit);
        Self {
            config,
            rng: SmallRng::seed_from_u64(seed),
            now: Duration::ZERO,
            store: Store::default(),
            journal,
            calls: BTreeMap::new(),
            outbox: Vec::new(),
            up: true,
            tickets: 0,
            agenda: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// When `advance` has something to do next.
    pub fn next_wakeup(&self) -> Option<Duration> {
        if !self.outbox.is_empty() {
            return Some(self.now);
        }
        self.agenda.keys().next().map(|(at, _)| *at)
    }

    /// Lets time pass up to `now` and returns the answers that were given.
    pub fn advance(&mut self, now: Duration) -> Vec<(Ticket, Answer)> {
        self.run_until(now);
        std::mem::take(&mut self.outbox)
    }

    pub(super) fn run_until(&mut self, now: Duration) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            match event {
                Event::Step(ticket) => self.step(ticket),
                Event::Task(task) => self.perform(task),
            }
        }
        self.now = self.now.max(now);
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.agenda.insert((self.now + delay, self.sequence), event);
    }

    pub(super) fn draw(&mut self, span: Span) -> Duration {
        span.draw(&mut self.rng, self.config.timings.scale)
    }

    pub(super) fn clock(&self) -> Clock {
        Clock { epoch_ms: self.config.epoch_ms }
    }

    /// One statement's luck.
    ///
    /// # Errors
    /// The database's own words.
    pub(super) fn database(&mut self) -> Result<(), &'static str> {
        use rand::Rng;
        const REFUSED: &str = "database \"evolution\" is not currently accepting connections";
        const CUT: &str = "terminating connection due to administrator command";
        match self.config.faults.database {
            Database::Up => Ok(()),
            Database::Down => Err(REFUSED),
            Database::Flapping(probability) if self.rng.random_bool(probability.clamp(0.0, 1.0)) => {
                Err(if self.rng.random_bool(0.8) { REFUSED } else { CUT })
            }
            Database::Flapping(_) => Ok(()),
        }
    }

    pub fn now(&self) -> Duration {
        self.now
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    pub fn faults_mut(&mut self) -> &mut Faults {
        &mut self.config.faults
    }

    pub fn quirks_mut(&mut self) -> &mut Quirks {
        &mut self.config.quirks
    }

    /// Whether the server is running (not killed, not booting).
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Calls that wait for an answer or are still worked on.
    pub fn calls_under_way(&self) -> usize {
        self.calls.len()
    }

    /// Every stored instance, by name.
    pub fn instances(&self) -> Vec<Instance> {
        self.store.rows.iter().map(|(name, row)| self.describe(name, row)).collect()
    }

    pub fn instance(&self, name: &str) -> Option<Instance> {
        self.store.rows.get(name).map(|row| self.describe(name, row))
    }

    /// Rows ever inserted, by name: more than one is a name that was made again.
    pub fn instances_made(&self) -> &BTreeMap<String, u32> {
        &self.store.made
    }

    fn describe(&self, name: &str, row: &Row) -> Instance {
        Instance {
            name: name.to_owned(),
            id: row.id.clone(),
            token: row.token.clone(),
            state: self.store.memory.get(name).map(|loaded| self.state_of(loaded)),
            webhook: row.webhook.clone(),
            has_settings: row.settings.is_some(),
            owner_jid: row.owner_jid.clone(),
            answered_201: row.answered_201,
            leaving: self.store.leaving.contains_key(name),
        }
    }

    /// The phone with this number scans the QR code. False where none is shown.
    pub fn pair(&mut self, now: Duration, name: &str, number: &str) -> bool {
        self.run_until(now);
        let shown = self.qr_shown(name);
        let Some(loaded) = self.store.memory.get_mut(name).filter(|_| shown > 0) else {
            return false;
        };
        loaded.link = Link::Open;
        loaded.shown = shown;
        if let Some(row) = self.store.row_of_memory(name) {
            row.status = LinkState::Open;
            row.owner_jid = Some(format!("{number}@s.whatsapp.net"));
            row.paired = true;
            row.updated = now;
        }
        true
    }

    /// The phone removes the device: `close`, code 401. False where the instance was not open.
    pub fn unlink(&mut self, now: Duration, name: &str) -> bool {
        self.run_until(now);
        if self.state(name) != Some(LinkState::Open) {
            return false;
        }
        let object = json!({
            "error": {
                "data": {"tag": "stream:error", "attrs": {"code": "401"},
                         "content": [{"tag": "conflict", "attrs": {"type": "device_removed"}}]},
                "isBoom": true, "isServer": false,
                "output": {"statusCode": 401, "payload": {"statusCode": 401, "error": "Unauthorized",
                           "message": "Stream Errored (conflict)"}, "headers": {}},
            },
            "date": self.clock().iso(now),
        });
        self.disconnect(name, &object);
        true
    }

    pub(super) fn disconnect(&mut self, name: &str, object: &Value) {
        let now = self.now;
        if let Some(loaded) = self.store.memory.get_mut(name) {
            loaded.link = Link::Closed;
        }
        if let Some(row) = self.store.row_of_memory(name) {
            row.status = LinkState::Close;
            row.paired = false;
            row.updated = now;
            row.disconnection = Some(Disconnection { code: 401, object: object.to_string(), at: now });
        }
    }

    /// Puts an instance there, loaded, as if it had been created earlier. An instance of that name is replaced.
    pub fn plant(&mut self, now: Duration, planted: Planted) {
        self.run_until(now);
        let id = uuid(&mut self.rng);
        let settings = planted.settings.then(|| self.extra(default_settings()));
        let row = Row {
            id: id.clone(),
            token: Key::new(planted.token),
            integration: "WHATSAPP-BAILEYS".to_owned(),
            number: None,
            status: LinkState::Close,
            owner_jid: None,
            disconnection: None,
            created: now,
            updated: now,
            webhook: None,
            settings,
            rabbitmq: None,
            paired: false,
            answered_201: planted.answered_201,
        };
        let loaded = Loaded::new(id, row.integration.clone());
        *self.store.made.entry(planted.name.clone()).or_default() += 1;
        self.store.rows.insert(planted.name.clone(), row);
        self.store.memory.insert(planted.name.clone(), loaded);
        if let Some(webhook) = planted.webhook.as_ref().and_then(Value::as_object) {
            let written = self.upsert_webhook(&planted.name, webhook);
            debug_assert!(written.is_ok(), "a planted webhook needs `enabled`, `url` and `events`");
        }
    }

    pub(super) fn extra(&mut self, fields: Value) -> Extra {
        Extra { id: cuid(&mut self.rng), fields: fields.as_object().cloned().unwrap_or_default(), created: self.now }
    }

    /// Takes an instance away behind everybody's back. False where there is none.
    pub fn remove(&mut self, now: Duration, name: &str) -> bool {
        self.run_until(now);
        self.store.memory.remove(name);
        self.erase(name, Destroyer::Test)
    }

    pub(super) fn erase(&mut self, name: &str, by: Destroyer) -> bool {
        let Some(row) = self.store.rows.remove(name) else {
            return false;
        };
        self.journal.destroyed_one(Destroyed {
            name: name.to_owned(),
            id: row.id,
            at: self.now,
            by,
            answered_201: row.answered_201,
        });
        true
    }

    /// The process dies: every call under way is dropped, memory is lost, rows stay as they are.
    pub fn kill(&mut self, now: Duration) {
        self.run_until(now);
        self.up = false;
        self.agenda.clear();
        self.journal.all_landed();
        self.store.memory.clear();
        self.store.leaving.clear();
        for (ticket, call) in std::mem::take(&mut self.calls) {
            self.journal.hit(Hit::Killed);
            self.cut(ticket, call);
        }
    }

    fn cut(&mut self, ticket: Ticket, call: Call) {
        if let Phase::Create(progress) = &call.phase
            && let Some(name) = progress.half_made()
            && self.store.rows.get(name).is_some_and(|row| row.id == progress.id)
        {
            if self.config.quirks.half_made {
                self.journal.hit(Hit::HalfMade);
            } else {
                self.store.rows.remove(name);
            }
        }
        self.drop_call(ticket, &call);
    }

    /// Kills the process if it runs, and opens the port again after `down_for`.
    pub fn restart(&mut self, now: Duration, down_for: Duration) {
        if self.up {
            self.kill(now);
        }
        self.run_until(now);
        self.after(down_for, Event::Task(Task::Boot));
    }
}

pub(super) fn default_settings() -> Value {
    json!({
        "rejectCall": false,
        "msgCall": "",
        "groupsIgnore": false,
        "alwaysOnline": false,
        "readMessages": false,
        "readStatus": false,
        "syncFullHistory": false,
        "wavoipToken": "",
    })
}

pub(super) fn driver_error(message: &str) -> super::message::Response {
    answers::server_error(json!([format!("DriverAdapterError: {message}")]))
}
