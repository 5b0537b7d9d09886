//! POST /settings/set and GET /settings/find.

use serde_json::{Value, json};

use super::answers;
use super::calls::Call;
use super::hit::Hit;
use super::message::Response;
use super::schema;
use super::world::World;

impl World {
    pub(super) fn settings_set(&mut self, call: &Call) -> Response {
        let faults = schema::settings_faults(&call.body);
        if !faults.is_empty() {
            return answers::invalid(faults);
        }
        let name = call.name();
        let Some(id) = self.store.memory.get(name).map(|loaded| loaded.id.clone()) else {
            self.journal.hit(Hit::NotLoadedSet);
            return answers::server_error(json!("Cannot read properties of undefined (reading 'setSettings')"));
        };
        if let Err(message) = self.database() {
            return self.database_down(message);
        }
        let extra = self.extra(Value::Object(call.body.clone()));
        match self.store.row_of(name, &id) {
            Some(row) => row.settings = Some(extra),
            None => {
                let fault = answers::orm_settings(&answers::foreign_key("Setting"));
                return answers::server_error(json!(fault));
            }
        }
        Response::json(201, json!({"settings": {"instanceName": name, "settings": call.body}}))
    }

    /// Whatever fails is a `null`: no row, an instance that is not loaded, a database that is away.
    pub(super) fn settings_find(&mut self, name: &str) -> Response {
        if self.database().is_err() {
            self.journal.hit(Hit::DatabaseCallFailed);
            return Response::json(200, Value::Null);
        }
        let settings = self.store.row_of_memory(name).and_then(|row| row.settings.clone());
        let fields = settings.map_or(Value::Null, |settings| Value::Object(settings.fields));
        Response::json(200, fields)
    }
}
