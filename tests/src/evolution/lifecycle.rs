//! What happens to an instance after its create: sockets and QR codes, restart, logout, delete, and being loaded
//! again after the server's own restart.

use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};

use super::answers;
use super::calls::{Call, Next, Phase};
use super::faults::Whatsapp;
use super::journal::{Destroyer, Hit};
use super::message::{Response, Ticket};
use super::store::{Link, LinkState, Loaded};
use super::world::{Event, World};

/// What the server does besides answering calls.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// First half of a teardown: the instance leaves memory.
    Forget(Teardown),
    /// Second half: its row goes.
    Erase(Teardown),
    Boot,
    Load {
        name: String,
    },
    Expire {
        name: String,
        id: String,
    },
}

/// The removal of an instance. It knows only a name, so it hits whatever has that name when it is carried out.
#[derive(Clone, Debug)]
pub(super) struct Teardown {
    pub name: String,
    /// The id that it was meant for.
    pub meant: String,
    pub by: Destroyer,
    pub erase_after: Duration,
    /// The delete call that waits for it.
    pub answers: Option<Ticket>,
}

impl World {
    pub(super) fn perform(&mut self, task: Task) {
        match task {
            Task::Forget(teardown) => self.forget(teardown),
            Task::Erase(teardown) => self.erase_torn_down(teardown),
            Task::Boot => self.boot(),
            Task::Load { name } => self.load(&name),
            Task::Expire { name, id } => {
                let is_open = self.state(&name) == Some(LinkState::Open);
                if !is_open && self.store.rows.get(&name).is_some_and(|row| row.id == id) {
                    self.store.memory.remove(&name);
                    self.erase(&name, Destroyer::NeverConnected);
                }
            }
        }
    }

    pub(super) fn tear_down(&mut self, forget_after: Duration, teardown: Teardown) {
        *self.store.leaving.entry(teardown.name.clone()).or_default() += 1;
        self.after(forget_after, Event::Task(Task::Forget(teardown)));
    }

    fn forget(&mut self, teardown: Teardown) {
        if self.database().is_err() {
            // The teardown gives up before its first deed, in silence.
            self.journal.hit(Hit::DatabaseLeftRow);
            self.torn_down(teardown);
            return;
        }
        self.store.memory.remove(&teardown.name);
        self.after(teardown.erase_after, Event::Task(Task::Erase(teardown)));
    }

    fn erase_torn_down(&mut self, teardown: Teardown) {
        if let Some(row) = self.store.rows.get(&teardown.name) {
            let other = row.id != teardown.meant;
            let answered = row.answered_201;
            let mut by = teardown.by;
            if by == Destroyer::FailedCreate && other {
                self.journal.hit(Hit::CreateDestroyedOther);
                if answered {
                    self.journal.hit(Hit::CreateDestroyedAnswered);
                }
            } else if by == Destroyer::Delete && other {
                by = Destroyer::StaleDelete;
                self.journal.hit(Hit::DeleteDestroyedNewer);
            }
            self.erase(&teardown.name, by);
        }
        self.torn_down(teardown);
    }

    fn torn_down(&mut self, teardown: Teardown) {
        if let Some(count) = self.store.leaving.get_mut(&teardown.name) {
            *count -= 1;
            if *count == 0 {
                self.store.leaving.remove(&teardown.name);
            }
        }
        if let Some(call) = teardown.answers.and_then(|ticket| self.calls.remove(&ticket)) {
            self.finish(call, answers::done("Instance deleted"));
        }
    }

    fn boot(&mut self) {
        self.up = true;
        let names: Vec<String> = self.store.rows.keys().cloned().collect();
        for name in names {
            if self.config.quirks.restart_window {
                let delay = self.draw(self.config.timings.load);
                self.after(delay, Event::Task(Task::Load { name }));
            } else {
                self.load(&name);
            }
        }
    }

    /// A stored instance is loaded and connected, whether it ever was before or not.
    fn load(&mut self, name: &str) {
        let Some(row) = self.store.rows.get(name) else { return };
        if self.store.memory.contains_key(name) {
            return;
        }
        let paired = row.paired;
        let loaded = Loaded::new(row.id.clone(), row.integration.clone());
        self.store.memory.insert(name.to_owned(), loaded);
        if paired {
            let at = self.now + self.draw(self.config.timings.reopen);
            if let Some(loaded) = self.store.memory.get_mut(name) {
                loaded.link = Link::Reopening { at };
            }
        } else {
            self.open_socket(name, None);
        }
    }

    /// Opens a socket to WhatsApp; returns how long the first QR code takes.
    pub(super) fn open_socket(&mut self, name: &str, number: Option<&str>) -> Duration {
        let wait = self.draw(self.config.timings.first_qr);
        let pairing = number.map(|_| {
            const SIGNS: &[u8; 32] = b"123456789ABCDEFGHJKLMNPQRSTVWXYZ";
            let sign = |_| char::from(SIGNS[self.rng.random_range(0..SIGNS.len())]);
            (0..8).map(sign).collect()
        });
        let now = self.now;
        if let Some(loaded) = self.store.memory.get_mut(name) {
            loaded.link = Link::Opening { opened: now, first_qr: now + wait, pairing };
        }
        wait
    }

    /// Memory's view of an instance at this moment.
    pub(super) fn state_of(&self, loaded: &Loaded) -> LinkState {
        match &loaded.link {
            Link::Closed => LinkState::Close,
            Link::Open => LinkState::Open,
            Link::Reopening { at } if *at <= self.now => LinkState::Open,
            Link::Reopening { .. } => LinkState::Close,
            Link::Opening { opened, .. } if self.config.faults.whatsapp == Whatsapp::Unreachable => {
                // Retried at once and without end: connecting two thirds of the time.
                let beat = (self.now - *opened).as_millis() / 60 % 3;
                if beat == 2 { LinkState::Close } else { LinkState::Connecting }
            }
            Link::Opening { first_qr, .. } if self.codes_since(*first_qr) > self.config.qr_limit => LinkState::Close,
            Link::Opening { .. } => LinkState::Connecting,
        }
    }

    fn codes_since(&self, first_qr: Duration) -> u32 {
        let Some(shown_for) = self.now.checked_sub(first_qr) else {
            return 0;
        };
        let life = u128::from(self.config.timings.qr_life_ms.max(1));
        u32::try_from(shown_for.as_millis() / life).unwrap_or(u32::MAX - 1) + 1
    }

    /// Brings memory and row of an instance up to this moment; returns memory's view.
    pub(super) fn state(&mut self, name: &str) -> Option<LinkState> {
        let loaded = self.store.memory.get(name)?;
        let state = self.state_of(loaded);
        let reachable = self.config.faults.whatsapp == Whatsapp::Reachable;
        let mut stored = None;
        let link = match &loaded.link {
            Link::Reopening { .. } if state == LinkState::Open => Some(Link::Open),
            Link::Opening { .. } if reachable && state == LinkState::Close => Some(Link::Closed),
            Link::Opening { first_qr, .. } if reachable && *first_qr <= self.now => {
                stored = Some((LinkState::Connecting, *first_qr));
                None
            }
            _ => None,
        };
        if let Some(link) = link {
            stored = Some((state, self.now));
            if let Some(loaded) = self.store.memory.get_mut(name) {
                loaded.link = link;
                loaded.shown = 0;
            }
        }
        if let Some((status, at)) = stored
            && let Some(row) = self.store.row_of_memory(name)
            && row.status != status
        {
            row.status = status;
            row.updated = at;
        }
        Some(state)
    }

    /// QR codes shown up to now; 0 where none is on show.
    pub(super) fn qr_shown(&mut self, name: &str) -> u32 {
        if self.state(name) != Some(LinkState::Connecting) || self.config.faults.whatsapp == Whatsapp::Unreachable {
            return 0;
        }
        match self.store.memory.get(name) {
            Some(Loaded { link: Link::Opening { first_qr, .. }, shown, .. }) if *first_qr <= self.now => {
                shown + self.codes_since(*first_qr)
            }
            _ => 0,
        }
    }

    pub(super) fn qr(&mut self, name: &str) -> Value {
        let shown = self.qr_shown(name);
        let pairing = match self.store.memory.get(name) {
            Some(Loaded { link: Link::Opening { pairing, .. }, .. }) if shown > 0 => pairing.clone(),
            _ => return json!({"count": 0}),
        };
        let id = self.store.memory.get(name).map_or("", |loaded| loaded.id.as_str());
        json!({
            "pairingCode": pairing,
            "code": format!("2@{id}{shown},simulated"),
            "base64": qr_image(self.config.qr_image_length),
            "count": shown,
        })
    }

    pub(super) fn qr_answer(&mut self, name: &str) -> Response {
        let qr = self.qr(name);
        if qr.get("code").is_none() {
            self.journal.hit(Hit::QrNotReady);
        }
        Response::json(200, qr)
    }

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

    fn log_out(&mut self, name: &str) {
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

/// A one-pixel PNG, padded behind its end to the wanted length.
fn qr_image(length: usize) -> String {
    const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYIIA";
    let padding = "AAAA".repeat(length.saturating_sub(PIXEL.len()) / 4);
    format!("data:image/png;base64,{PIXEL}{padding}")
}
