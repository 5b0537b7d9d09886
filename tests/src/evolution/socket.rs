//! The socket to WhatsApp: its state and its QR codes, all functions of the time since it was
//! opened.

use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};

use super::faults::Whatsapp;
use super::hit::Hit;
use super::message::Response;
use super::store::{Link, LinkState, Loaded};
use super::world::World;

impl World {
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
                if link == Link::Closed {
                    // The limit of codes was reached: the next socket counts anew.
                    loaded.shown = 0;
                }
                loaded.link = link;
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
}

/// A one-pixel PNG, padded behind its end to the wanted length.
fn qr_image(length: usize) -> String {
    const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYIIA";
    let padding = "AAAA".repeat(length.saturating_sub(PIXEL.len()) / 4);
    format!("data:image/png;base64,{PIXEL}{padding}")
}
