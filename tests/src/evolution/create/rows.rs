//! What a create writes, row by row, and how a failed one takes away whatever has its name.

use serde_json::{Value, json};

use super::body::{all_if_empty, inline, inline_webhook, read_length, settings};
use super::{Progress, Stage};
use crate::evolution::answers::{self, foreign_key, orm_settings, orm_webhook};
use crate::evolution::calls::{Call, Next};
use crate::evolution::hit::Hit;
use crate::evolution::journal::Destroyer;
use crate::evolution::message::Key;
use crate::evolution::store::{Link, LinkState, Loaded, Row};
use crate::evolution::teardown::Teardown;
use crate::evolution::world::World;

impl World {
    /// A row that cannot be inserted is passed over in silence: the next foreign key tells.
    pub(super) fn insert(&mut self, call: &Call, progress: &Progress) {
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

    pub(super) fn load_created(&mut self, progress: &Progress) {
        let mut loaded = Loaded::new(progress.id.clone(), progress.integration.clone());
        if progress.integration == "EVOLUTION" {
            loaded.link = Link::Open;
        }
        self.store.memory.insert(progress.key().to_owned(), loaded);
    }

    /// Inline `webhook` and `rabbitmq`, which are stored for whatever memory holds under the name
    /// when they begin.
    pub(super) fn begin_integrations(&mut self, call: &Call, progress: &mut Progress) -> Result<Stage, String> {
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

    pub(super) fn store_integrations(&mut self, call: &Call, progress: &Progress) -> Result<(), String> {
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

    pub(super) fn begin_settings(&mut self, progress: &mut Progress) -> Result<Stage, String> {
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

    pub(super) fn store_settings(&mut self, call: &Call, progress: &Progress) -> Result<(), String> {
        self.database().map_err(str::to_owned)?;
        let settings = self.extra(settings(&call.body));
        if let Some(row) = self.store.row_of(progress.key(), &progress.target) {
            row.settings = Some(settings);
            return Ok(());
        }
        self.note_race(progress);
        Err(orm_settings(&foreign_key("Setting")))
    }

    /// Any failure after the row: 400 with the message, and whatever has that name goes.
    pub(super) fn fail(&mut self, progress: &Progress, message: String) -> Next {
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

    pub(super) fn clean_up(&mut self, progress: &Progress) {
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
