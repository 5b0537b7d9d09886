//! POST /webhook/set and GET /webhook/find.

use serde_json::{Map, Value, json};

use super::answers::{self, cuid};
use super::calls::Call;
use super::journal::Hit;
use super::message::Response;
use super::schema;
use super::store::Webhook;
use super::world::World;

impl World {
    pub(super) fn webhook_set(&mut self, call: &Call) -> Response {
        let faults = schema::webhook_faults(&call.body);
        if !faults.is_empty() {
            return answers::invalid(faults);
        }
        let name = call.name();
        let Some(fields) = call.body.get("webhook").and_then(Value::as_object) else {
            return answers::invalid(faults);
        };
        if !self.store.memory.contains_key(name) {
            self.journal.hit(Hit::NotLoadedSet);
        }
        match self.upsert_webhook(name, fields) {
            Ok(row) => Response::json(201, row),
            Err(message) => {
                if message.contains("connection") {
                    self.journal.hit(Hit::DatabaseCallFailed);
                }
                answers::server_error(json!(message))
            }
        }
    }

    /// The upsert itself. None where no row belongs to what memory holds: the foreign key refuses.
    pub(super) fn write_webhook(
        &mut self,
        name: &str,
        fields: &Map<String, Value>,
        enabled: bool,
        events: Value,
        url: Value,
    ) -> Option<Value> {
        let (now, clock) = (self.now, self.clock());
        let id = cuid(&mut self.rng);
        let row = self.store.row_of_memory(name)?;
        let old = row.webhook.take();
        let kept =
            |field: &str, kept: Option<Value>, default: Value| fields.get(field).cloned().or(kept).unwrap_or(default);
        let headers = kept("headers", old.as_ref().map(|old| old.headers.clone()), Value::Null);
        let by_events = kept("byEvents", old.as_ref().map(|old| old.by_events.clone()), json!(false));
        let base64 = kept("base64", old.as_ref().map(|old| old.base64.clone()), json!(false));
        let webhook = Webhook {
            id: old.as_ref().map_or(id, |old| old.id.clone()),
            url,
            headers,
            enabled,
            events,
            by_events,
            base64,
            created: old.map_or(now, |old| old.created),
            updated: now,
        };
        let value = answers::webhook(&webhook, &row.id, clock);
        row.webhook = Some(webhook);
        Some(value)
    }

    pub(super) fn webhook_find(&mut self, name: &str) -> Response {
        if !self.store.memory.contains_key(name) {
            if self.store.rows.contains_key(name) {
                self.journal.hit(Hit::NotLoadedFind);
            }
            return Response::json(200, Value::Null);
        }
        if let Err(message) = self.database() {
            return self.database_down(message);
        }
        let clock = self.clock();
        let found = self
            .store
            .row_of_memory(name)
            .and_then(|row| row.webhook.as_ref().map(|webhook| answers::webhook(webhook, &row.id, clock)));
        Response::json(200, found.unwrap_or(Value::Null))
    }
}
