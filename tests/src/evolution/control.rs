//! What a test does to the server from outside: phones that scan, instances put there or taken
//! away, kills, restarts.

use std::time::Duration;

use serde_json::{Value, json};

use super::answers::{cuid, uuid};
use super::calls::{Call, Phase};
use super::hit::Hit;
use super::journal::{Destroyed, Destroyer};
use super::message::{Key, Ticket};
use super::store::{Disconnection, Extra, Link, LinkState, Loaded, Planted, Row};
use super::teardown::Task;
use super::world::{Event, World, default_settings};

impl World {
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

    /// Puts an instance there, loaded, as if it had been created earlier. An instance of that name
    /// is replaced.
    pub fn plant(&mut self, now: Duration, planted: Planted) {
        self.run_until(now);
        let id = uuid(&mut self.rng);
        let settings = planted.settings.then(|| self.extra(default_settings()));
        let row = Row {
            id: id.clone(),
            token: Key::new(planted.token),
            integration: planted.integration,
            number: None,
            status: if planted.phone.is_some() { LinkState::Open } else { LinkState::Close },
            owner_jid: planted.phone.as_ref().map(|number| format!("{number}@s.whatsapp.net")),
            disconnection: None,
            created: now,
            updated: now,
            webhook: None,
            settings,
            rabbitmq: None,
            paired: planted.phone.is_some(),
            answered_201: planted.answered_201,
        };
        let mut loaded = Loaded::new(id.clone(), row.integration.clone());
        if row.paired {
            loaded.link = Link::Open;
        }
        *self.store.made.entry(planted.name.clone()).or_default() += 1;
        self.store.rows.insert(planted.name.clone(), row);
        self.store.memory.insert(planted.name.clone(), loaded);
        if let Some(webhook) = planted.webhook.as_ref().and_then(Value::as_object) {
            let written = self.upsert_webhook(&planted.name, &id, webhook);
            debug_assert!(written.is_ok(), "a planted webhook needs `enabled`, `url` and `events`");
        }
    }

    pub(super) fn extra(&mut self, fields: Value) -> Extra {
        let fields = fields.as_object().cloned().unwrap_or_default();
        Extra { id: cuid(&mut self.rng), fields, created: self.now, updated: self.now }
    }

    /// The API's memory loses an instance that its database keeps. False where it was not loaded.
    pub fn unload(&mut self, now: Duration, name: &str) -> bool {
        self.run_until(now);
        self.store.memory.remove(name).is_some()
    }

    /// The API's database loses an instance that its memory keeps: what a create leaves whose row
    /// was not inserted. False where there was no row.
    pub fn unroot(&mut self, now: Duration, name: &str) -> bool {
        self.run_until(now);
        self.erase(name, Destroyer::Test)
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

    /// What `CACHE_REDIS_SAVE_INSTANCES` says from now on.
    pub fn save_instances(&mut self, on: bool) {
        self.config.save_instances = on;
    }

    /// The process dies: every call under way is dropped, memory is lost, rows stay as they are.
    pub fn kill(&mut self, now: Duration) {
        self.run_until(now);
        self.up = false;
        self.agenda.clear();
        self.journal.all_landed();
        self.store.memory.clear();
        self.store.leaving.clear();
        self.store.creating.clear();
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
