//! POST /rabbitmq/set and GET /rabbitmq/find. Nothing is published: of the broker only the rows are
//! known here.

use serde_json::{Map, Value, json};

use super::answers::{self, extra_row, foreign_key, orm_webhook};
use super::calls::Call;
use super::create::{all_if_empty, read_length};
use super::hit::Hit;
use super::message::{Body, Response};
use super::schema;
use super::world::World;

impl World {
    pub(super) fn rabbitmq_set(&mut self, call: &Call) -> Response {
        let faults = schema::rabbitmq_faults(&call.body);
        if !faults.is_empty() {
            return answers::invalid(faults);
        }
        if !self.config.rabbitmq {
            return nothing(201);
        }
        match self.upsert_rabbitmq(call.name(), &call.body) {
            Ok(row) => Response::json(201, row),
            Err(message) => {
                if message.contains("connection") {
                    self.journal.hit(Hit::DatabaseCallFailed);
                }
                answers::server_error(json!(message))
            }
        }
    }

    fn upsert_rabbitmq(&mut self, name: &str, body: &Map<String, Value>) -> Result<Value, String> {
        let given = body.get("rabbitmq").filter(|given| given.is_object());
        let given = given.ok_or("Cannot set properties of undefined (setting 'events')")?;
        let enabled = given.get("enabled") == Some(&Value::Bool(true));
        let events = if enabled { all_if_empty(read_length(given, "events")?) } else { json!([]) };
        let Some(id) = self.store.memory.get(name).map(|loaded| loaded.id.clone()) else {
            self.journal.hit(Hit::NotLoadedSet);
            return Err("Cannot read properties of undefined (reading 'instanceId')".to_owned());
        };
        self.database().map_err(str::to_owned)?;
        let (mut stored, clock) = (self.extra(json!({"enabled": enabled, "events": events})), self.clock());
        let row = self.store.row_of(name, &id).ok_or_else(|| orm_webhook(&foreign_key("Rabbitmq")))?;
        if let Some(before) = row.rabbitmq.take() {
            (stored.id, stored.created) = (before.id, before.created);
        }
        let value = extra_row(&stored, &id, clock);
        row.rabbitmq = Some(stored);
        Ok(value)
    }

    pub(super) fn rabbitmq_find(&mut self, name: &str) -> Response {
        if !self.config.rabbitmq {
            return nothing(200);
        }
        self.found(name, |row, clock| row.rabbitmq.as_ref().map(|stored| extra_row(stored, &row.id, clock)))
    }
}

/// With RABBITMQ_ENABLED=false: a success without a byte.
fn nothing(status: u16) -> Response {
    Response { status, headers: Vec::new(), body: Body::Undefined }
}
