//! POST /webhook/set and GET /webhook/find.

use serde_json::{Map, Value, json};

use super::answers::{self, cuid, foreign_key, orm_webhook};
use super::calls::Call;
use super::create::{all_if_empty, read_length};
use super::hit::Hit;
use super::message::Response;
use super::schema;
use super::store::Webhook;
use super::world::World;

const LONGEST_URL: usize = 500;

impl World {
    pub(super) fn webhook_set(&mut self, call: &Call) -> Response {
        let old = self.config.version.starts_with("1.");
        let faults = if old { schema::flat_webhook_faults(&call.body) } else { schema::webhook_faults(&call.body) };
        if !faults.is_empty() {
            return answers::invalid(faults);
        }
        let name = call.name();
        let Some(fields) = call.body.get("webhook").and_then(Value::as_object) else {
            return answers::invalid(faults);
        };
        let stored = match self.store.memory.get(name).map(|loaded| loaded.id.clone()) {
            Some(id) => self.upsert_webhook(name, &id, fields),
            None => {
                self.journal.hit(Hit::NotLoadedSet);
                Err("Cannot read properties of undefined (reading 'instanceId')".to_owned())
            }
        };
        match stored {
            Ok(row) => Response::json(201, row),
            Err(message) => {
                if message.contains("connection") {
                    self.journal.hit(Hit::DatabaseCallFailed);
                }
                answers::server_error(json!(message))
            }
        }
    }

    /// Stores the webhook of the instance with this name and id; fields left out keep their stored
    /// value.
    ///
    /// # Errors
    /// The server's message.
    pub(super) fn upsert_webhook(
        &mut self,
        name: &str,
        id: &str,
        fields: &Map<String, Value>,
    ) -> Result<Value, String> {
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
        let own = Webhook {
            id: cuid(&mut self.rng),
            url: url.clone(),
            headers: Value::Null,
            enabled,
            events,
            by_events: json!(false),
            base64: json!(false),
            created: self.now,
            updated: self.now,
        };
        let clock = self.clock();
        let row = self.store.row_of(name, id).ok_or_else(|| orm_webhook(&foreign_key("Webhook")))?;
        let webhook = merge(own, row.webhook.take(), fields);
        let value = answers::webhook(&webhook, id, clock);
        row.webhook = Some(webhook);
        Ok(value)
    }

    pub(super) fn webhook_find(&mut self, name: &str) -> Response {
        self.found(name, |row, clock| row.webhook.as_ref().map(|webhook| answers::webhook(webhook, &row.id, clock)))
    }
}

/// What the upsert leaves: the new values, then the stored ones, then the defaults.
fn merge(new: Webhook, old: Option<Webhook>, fields: &Map<String, Value>) -> Webhook {
    let mut merged = new;
    if let Some(old) = old {
        merged.id = old.id;
        merged.created = old.created;
        merged.headers = old.headers;
        merged.by_events = old.by_events;
        merged.base64 = old.base64;
    }
    let given = |field: &str, kept: Value| fields.get(field).cloned().unwrap_or(kept);
    merged.headers = given("headers", merged.headers);
    merged.by_events = given("byEvents", merged.by_events);
    merged.base64 = given("base64", merged.base64);
    merged
}
