//! The routes that only read: root, fetchInstances, connectionState.

use serde_json::{Value, json};

use super::answers::{self, Clock, instance_row};
use super::calls::Call;
use super::hit::Hit;
use super::lifecycle::state_answer;
use super::message::{Key, Response};
use super::store::Row;
use super::world::World;

impl World {
    pub(super) fn welcome(&self) -> Response {
        Response::json(
            200,
            json!({
                "status": 200,
                "message": "Welcome to the Evolution API, it is working!",
                "version": self.config.version,
                "clientName": "evolution_exchange",
                "manager": format!("{}/manager", self.config.public_url),
                "documentation": "https://doc.evolution-api.com",
                "whatsappWebVersion": "2.3000.1027934701",
            }),
        )
    }

    /// `fetchInstances` takes the global key, or a token that some instance has.
    pub(super) fn fetch_key(&mut self, key: Option<&Key>) -> Result<(), Response> {
        if self.is_global(key) {
            return Ok(());
        }
        let known = key.is_some_and(|key| self.store.rows.values().any(|row| row.token == *key));
        if known && self.database().is_err() {
            self.journal.hit(Hit::DatabaseTokenRefused);
            return Err(answers::unauthorized());
        }
        if known { Ok(()) } else { Err(answers::unauthorized()) }
    }

    /// What `find` answers of something that an instance has: null where it is not loaded.
    pub(super) fn found(&mut self, name: &str, read: impl FnOnce(&Row, Clock) -> Option<Value>) -> Response {
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
        let found = self.store.row_of_memory(name).and_then(|row| read(row, clock));
        Response::json(200, found.unwrap_or(Value::Null))
    }

    pub(super) fn fetch_instances(&mut self, call: &Call) -> Response {
        let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let query = &call.parsed.query;
        let (name, id, number) = (given(&query.instance_name), given(&query.instance_id), given(&query.number));
        let global = self.is_global(call.key.as_ref());
        // A name is looked up in memory first, so that an unknown one is a 404 even without a
        // database.
        let by_name = global && id.is_none() && number.is_none() && name.is_some();
        if !by_name && let Err(message) = self.database() {
            return self.database_down(message);
        }
        if !global {
            let names = self.names_of_token(call.key.as_ref(), name.as_deref(), id.as_deref());
            if names.is_empty() {
                return answers::unauthorized();
            }
            return self.rows_of(names);
        }
        if let Some(wanted) = id.as_ref().or(number.as_ref()) {
            let by_id = id.is_some();
            let found = self
                .store
                .rows
                .iter()
                .find(|(_, row)| if by_id { row.id == *wanted } else { row.number.as_ref() == Some(wanted) });
            return match found.map(|(name, _)| name.clone()) {
                Some(name) => self.rows_of(vec![name]),
                None => answers::not_found(format!("Instance \"{wanted}\" not found")),
            };
        }
        match name {
            Some(name) => self.rows_of(vec![name]),
            None => self.all_rows(),
        }
    }

    fn names_of_token(&self, key: Option<&Key>, name: Option<&str>, id: Option<&str>) -> Vec<String> {
        let fits = |wanted: Option<&str>, have: &str| wanted.is_none_or(|wanted| wanted == have);
        self.store
            .rows
            .iter()
            .filter(|(have, row)| key == Some(&row.token) && fits(name, have) && fits(id, &row.id))
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn rows_of(&mut self, names: Vec<String>) -> Response {
        let missing: Vec<&str> = names.iter().map(String::as_str).filter(|name| !self.store.in_memory(name)).collect();
        if !missing.is_empty() {
            if missing.iter().any(|name| self.store.rows.contains_key(*name)) {
                self.journal.hit(Hit::NotLoadedFetch);
            }
            return answers::not_found(format!("Instance \"{}\" not found", missing.join(", ")));
        }
        if let Err(message) = self.database() {
            return self.database_down(message);
        }
        let rows = names.iter().filter_map(|name| self.row_value(name)).collect();
        Response::json(200, Value::Array(rows))
    }

    fn all_rows(&mut self) -> Response {
        let names: Vec<String> = self.store.rows.keys().cloned().collect();
        let rows = names.iter().filter_map(|name| self.row_value(name)).collect();
        Response::json(200, Value::Array(rows))
    }

    fn row_value(&mut self, name: &str) -> Option<Value> {
        self.state(name);
        let clock = self.clock();
        self.store.rows.get(name).map(|row| instance_row(name, row, clock))
    }

    pub(super) fn database_down(&mut self, message: &str) -> Response {
        self.journal.hit(Hit::DatabaseCallFailed);
        answers::server_error(json!(message))
    }

    pub(super) fn connection_state(&mut self, name: &str) -> Response {
        let state = self.state(name);
        if state.is_none() && self.store.rows.contains_key(name) {
            self.journal.hit(Hit::NotLoadedState);
        }
        state_answer(name, state)
    }
}
