//! What happens to an instance after its create: sockets and QR codes, restart, logout, delete, and
//! being loaded again after the server's own restart.

use std::time::Duration;

use serde_json::json;

use super::answers;
use super::calls::{Call, Next, Phase};
use super::faults::Whatsapp;
use super::hit::Hit;
use super::journal::Destroyer;
use super::message::Response;
use super::store::{Link, LinkState};
use super::teardown::Teardown;
use super::world::World;

impl World {
    pub(super) fn connect(&mut self, call: &Call) -> Next {
        let name = call.name();
        match self.state(name) {
            None => Next::Answer(answers::swallowed()),
            Some(LinkState::Open) => Next::Answer(state_answer(name, Some(LinkState::Open))),
            Some(LinkState::Connecting) => Next::Answer(self.qr_answer(name)),
            Some(LinkState::Close) if self.config.faults.whatsapp == Whatsapp::Unreachable => {
                Next::Answer(self.qr_answer(name))
            }
            Some(LinkState::Close) => {
                let first_qr = self.open_socket(name, call.parsed.query.number.as_deref());
                let wait = if self.config.quirks.connect_waits {
                    self.journal.hit(Hit::ConnectWaited);
                    Duration::from_millis(u64::from(self.config.timings.connect_wait_ms))
                } else {
                    first_qr
                };
                Next::After(wait, Phase::Connected)
            }
        }
    }

    /// POST /instance/restart: a failure is a 200 all the same.
    pub(super) fn restart_instance(&mut self, name: &str) -> Response {
        match self.state(name) {
            None | Some(LinkState::Close) => answers::swallowed(),
            Some(LinkState::Connecting) => self.qr_answer(name),
            Some(LinkState::Open) => {
                let at = self.now + self.draw(self.config.timings.reopen);
                if let Some(loaded) = self.store.memory.get_mut(name) {
                    loaded.link = Link::Reopening { at };
                }
                state_answer(name, Some(LinkState::Open))
            }
        }
    }

    pub(super) fn logout(&mut self, name: &str) -> Response {
        if self.state(name) == Some(LinkState::Close) {
            return answers::refused(format!("The \"{name}\" instance is not connected"));
        }
        self.log_out(name);
        answers::done("Instance logged out")
    }

    pub(super) fn log_out(&mut self, name: &str) {
        let shown = self.qr_shown(name);
        let was_open = self.state(name) == Some(LinkState::Open);
        let now = self.now;
        if was_open {
            let payload =
                json!({"statusCode": 401, "error": "Unauthorized", "message": format!("Log out instance: {name}")});
            let object = json!({
                "error": {"data": null, "isBoom": true, "isServer": false,
                          "output": {"statusCode": 401, "payload": payload, "headers": {}}},
                "date": self.clock().iso(now),
            });
            self.disconnect(name, &object);
        }
        if let Some(loaded) = self.store.memory.get_mut(name) {
            loaded.link = Link::Closed;
            loaded.shown = loaded.shown.max(shown);
        }
        if let Some(row) = self.store.row_of_memory(name) {
            row.status = LinkState::Close;
            row.updated = now;
        }
    }

    pub(super) fn delete(&mut self, call: &Call) -> Next {
        let name = call.name().to_owned();
        if self.state(&name).is_some_and(|state| state != LinkState::Close) {
            self.log_out(&name);
        }
        if self.store.leaving.contains_key(&name) {
            self.journal.hit(Hit::DeleteRepeated);
        }
        let (forget, erase) = self.delete_spans(&name);
        let early = self.config.quirks.delete_answers_early;
        let meant = self.store.rows.get(&name).map(|row| row.id.clone());
        let teardown = Teardown {
            name,
            meant: meant.unwrap_or_default(),
            by: Destroyer::Delete,
            erase_after: erase.saturating_sub(forget),
            answers: (!early).then_some(call.ticket),
        };
        self.tear_down(forget, teardown);
        if !early {
            return Next::Park;
        }
        self.journal.hit(Hit::DeleteAnsweredEarly);
        Next::Answer(answers::done("Instance deleted"))
    }

    /// When a deleted instance leaves memory, and when the database.
    fn delete_spans(&mut self, name: &str) -> (Duration, Duration) {
        let done = self.draw(self.config.timings.delete_done);
        let row = self.store.rows.get(name);
        let hook = row.and_then(|row| row.webhook.as_ref());
        let hook = hook.filter(|hook| hook.enabled && hook.subscribes("REMOVE_INSTANCE"));
        let Some(url) = hook.and_then(|hook| hook.url.as_str()) else {
            return (Duration::ZERO, done);
        };
        let dead = self.config.faults.dead_hooks.iter().any(|prefix| url.starts_with(prefix));
        if dead && self.config.quirks.dead_hook_delays_delete {
            self.journal.hit(Hit::DeadHookDelay);
            let alive = Duration::from_millis(u64::from(self.config.timings.dead_hook_ms));
            return (alive, alive + done);
        }
        (self.draw(self.config.timings.delete_notice), done)
    }
}

pub(super) fn state_answer(name: &str, state: Option<LinkState>) -> Response {
    let mut instance = json!({"instanceName": name});
    if let Some(state) = state {
        instance["state"] = json!(state.as_str());
    }
    Response::json(200, json!({"instance": instance}))
}
