//! What stands before every route: the body's own refusal, existence, the key. Then the way to the
//! route itself.

use serde_json::json;

use super::answers;
use super::calls::{Call, Next, Phase};
use super::hit::Hit;
use super::message::{Key, Response};
use super::route::Route;
use super::world::{World, driver_error};

impl World {
    pub(super) fn arrive(&mut self, call: &mut Call) -> Next {
        if let Some(refusal) = call.refusal.take() {
            return Next::Answer(refusal);
        }
        match call.parsed.route {
            Route::Unknown => {
                let verb = call.method.as_str();
                Next::Answer(answers::not_found(format!("Cannot {verb} {}", call.target)))
            }
            Route::Root => Next::Answer(self.welcome()),
            Route::VerifyCreds if self.is_global(call.key.as_ref()) => {
                Next::Answer(Response::json(200, json!({"status": 200, "message": "Credentials are valid"})))
            }
            Route::VerifyCreds => Next::Answer(answers::unauthorized()),
            Route::Create if !call.parsed.literal => Next::Answer(answers::refused("\"instanceName\" not provided.")),
            Route::Create => self.check_name(call),
            Route::FetchInstances => match self.fetch_key(call.key.as_ref()) {
                Err(refusal) => Next::Answer(refusal),
                Ok(()) => self.on_to(Phase::Handle),
            },
            _ => match self.guard(call) {
                Err(refusal) => Next::Answer(refusal),
                Ok(()) => self.on_to(Phase::Handle),
            },
        }
    }

    fn on_to(&mut self, phase: Phase) -> Next {
        Next::After(self.draw(self.config.timings.query), phase)
    }

    pub(super) fn is_global(&self, key: Option<&Key>) -> bool {
        key.is_some_and(|key| *key == self.config.key)
    }

    /// Existence first, then the key: that is the server's order.
    fn guard(&mut self, call: &Call) -> Result<(), Response> {
        let name = call.parsed.name.as_deref().unwrap_or_default();
        if !self.config.quirks.name_before_key {
            self.check_key(call.key.as_ref(), name)?;
        }
        if !self.exists(name)? {
            if !self.is_global(call.key.as_ref()) {
                self.journal.hit(Hit::NameBeforeKey);
            }
            return Err(answers::unknown_instance(name));
        }
        self.check_key(call.key.as_ref(), name)
    }

    /// Whether memory or the database has this name; with the cache of instances, memory alone.
    pub(super) fn exists(&mut self, name: &str) -> Result<bool, Response> {
        if self.store.in_memory(name) {
            return Ok(true);
        }
        if self.config.save_instances {
            if self.store.rows.contains_key(name) {
                self.journal.hit(Hit::NotLoadedHidden);
            }
            return Ok(false);
        }
        if name.contains('\0') {
            return Err(driver_error("invalid byte sequence for encoding \"UTF8\": 0x00"));
        }
        match self.database() {
            Ok(()) => Ok(self.store.rows.contains_key(name)),
            Err(message) => {
                self.journal.hit(Hit::DatabaseCheckFailed);
                Err(driver_error(message))
            }
        }
    }

    fn check_key(&mut self, key: Option<&Key>, name: &str) -> Result<(), Response> {
        if self.is_global(key) {
            return Ok(());
        }
        let row_key = self.store.rows.get(name).map(|row| row.token.clone());
        if key.is_none() || row_key.as_ref() != key {
            return Err(answers::unauthorized());
        }
        if self.database().is_err() {
            self.journal.hit(Hit::DatabaseTokenRefused);
            return Err(answers::unauthorized());
        }
        Ok(())
    }

    pub(super) fn handle(&mut self, call: &mut Call) -> Next {
        if call.parsed.name.is_some() && call.parsed.name.as_deref() != Some(call.name()) {
            self.journal.hit(Hit::QueryOverride);
        }
        match call.parsed.route {
            Route::FetchInstances => Next::Answer(self.fetch_instances(call)),
            Route::ConnectionState => Next::Answer(self.connection_state(call.name())),
            Route::Connect => self.connect(call),
            Route::Restart => Next::Answer(self.restart_instance(call.name())),
            Route::Logout => Next::Answer(self.logout(call.name())),
            Route::Delete => self.delete(call),
            Route::WebhookSet => Next::Answer(self.webhook_set(call)),
            Route::WebhookFind => Next::Answer(self.webhook_find(call.name())),
            Route::SettingsFind => Next::Answer(self.settings_find(call.name())),
            Route::SettingsSet => Next::Answer(self.settings_set(call)),
            Route::RabbitmqSet => Next::Answer(self.rabbitmq_set(call)),
            Route::RabbitmqFind => Next::Answer(self.rabbitmq_find(call.name())),
            Route::Root | Route::VerifyCreds | Route::Create | Route::Unknown => Next::Park,
        }
    }
}
