//! How the simulated server is set up: key, limits, time spans and which of the real server's
//! quirks it has.

use std::time::Duration;

use rand::Rng;
use serde::{Deserialize, Serialize};

/// A time span drawn evenly from `min_ms` to `max_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    pub min_ms: u32,
    pub max_ms: u32,
}

impl Span {
    pub const fn ms(min_ms: u32, max_ms: u32) -> Self {
        Self { min_ms, max_ms }
    }

    pub(super) fn draw(self, rng: &mut impl Rng, scale: f64) -> Duration {
        let low = u64::from(self.min_ms) * 1_000;
        let high = u64::from(self.max_ms.max(self.min_ms)) * 1_000;
        let micros = rng.random_range(low..=high);
        Duration::from_micros((micros as f64 * scale) as u64)
    }
}

/// How long things take. `scale` stretches the working times; the fixed waits (`create_wait` and
/// below) are not scaled, as the real server has them whatever the machine: each can be set, or its
/// quirk turned off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timings {
    /// 1.0 = as recorded, 0.0 = no working time at all.
    pub scale: f64,
    /// Reading and routing a request.
    pub receive: Span,
    /// Creates are taken up one after another, this far apart.
    pub create_line: Span,
    /// One query.
    pub query: Span,
    /// One insert or upsert.
    pub write: Span,
    /// Between two steps inside the server.
    pub think: Span,
    /// From a failed create until whatever has that name is gone.
    pub cleanup: Span,
    /// From opening a socket to its first QR code.
    pub first_qr: Span,
    /// What `create` with `qrcode:true` waits after opening the socket.
    pub create_wait_ms: u32,
    /// What `connect` waits after opening the socket.
    pub connect_wait_ms: u32,
    /// From the answer of a delete until the row is gone.
    pub delete_done: Span,
    /// From the answer of a delete until memory is gone, with a healthy webhook that subscribes
    /// `REMOVE_INSTANCE`.
    pub delete_notice: Span,
    /// How long an instance outlives its delete when its webhook's target is dead.
    pub dead_hook_ms: u32,
    /// From the open port after a restart until one stored instance is in memory.
    pub load: Span,
    /// From a restart to a paired instance being `open` again.
    pub reopen: Span,
    /// Life of one QR code.
    pub qr_life_ms: u32,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            scale: 1.0,
            receive: Span::ms(1, 3),
            create_line: Span::ms(0, 18),
            query: Span::ms(2, 9),
            write: Span::ms(4, 11),
            think: Span::ms(1, 4),
            cleanup: Span::ms(4, 20),
            first_qr: Span::ms(120, 900),
            create_wait_ms: 5_000,
            connect_wait_ms: 2_000,
            delete_done: Span::ms(150, 380),
            delete_notice: Span::ms(90, 140),
            dead_hook_ms: 1_199_000,
            load: Span::ms(400, 4_000),
            reopen: Span::ms(800, 3_500),
            qr_life_ms: 45_000,
        }
    }
}

/// The real server's traps. All on by default; turning one off gives the server one would wish for
/// instead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quirks {
    /// Concurrent creates of one name get past the name check and destroy each other. Off: the
    /// second gets a 403.
    pub creates_destroy_each_other: bool,
    /// The name is looked up before the key: 403 and 404 even without a valid key. Off: 401 first.
    pub name_before_key: bool,
    /// `create` with `qrcode:true` blocks for `create_wait_ms`.
    pub create_waits: bool,
    /// `connect` from `close` blocks for `connect_wait_ms`.
    pub connect_waits: bool,
    /// `delete` answers before the instance is gone. Off: it answers when it is.
    pub delete_answers_early: bool,
    /// A server killed in a create leaves a row without webhook or settings. Off: the create is
    /// undone.
    pub half_made: bool,
    /// After a restart stored instances are loaded one by one. Off: all at once.
    pub restart_window: bool,
    /// Database trouble in a create is a 400 that may leave the row. Off: a 500 that leaves
    /// nothing.
    pub database_trouble_is_400: bool,
    /// A dead webhook target that subscribes `REMOVE_INSTANCE` keeps a deleted instance alive for
    /// `dead_hook_ms`.
    pub dead_hook_delays_delete: bool,
}

impl Default for Quirks {
    fn default() -> Self {
        Self {
            creates_destroy_each_other: true,
            name_before_key: true,
            create_waits: true,
            connect_waits: true,
            delete_answers_early: true,
            half_made: true,
            restart_window: true,
            database_trouble_is_400: true,
            dead_hook_delays_delete: true,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The global key. Printed by nothing: `Key` hides itself.
    pub key: super::Key,
    /// The base URL that `GET /` reports.
    pub public_url: String,
    pub timings: Timings,
    pub quirks: Quirks,
    pub faults: super::Faults,
    /// Unix time in milliseconds at `now` = 0. Shift it to give the server a wrong clock.
    pub epoch_ms: i64,
    /// Bodies above this many bytes are answered 413.
    pub body_limit: usize,
    /// `QRCODE_LIMIT`: QR codes shown before the socket is given up.
    pub qr_limit: u32,
    /// Length of the QR image in `base64`. The real one has 15,000 characters, which a simulator
    /// need not carry.
    pub qr_image_length: usize,
    /// `CACHE_REDIS_SAVE_INSTANCES`: the guard asks memory and cache for a name, never the
    /// database, so that until an instance is loaded its name seems free and a create destroys it.
    /// Off in `.env.example`, on in `env.example`.
    pub save_instances: bool,
    /// What `GET /` calls itself. A 1.x server refuses every `webhook/set`.
    pub version: String,
    /// `RABBITMQ_ENABLED`.
    pub rabbitmq: bool,
    /// `DEL_INSTANCE`: instances not `open` this long after their create are removed.
    pub remove_unconnected_after: Option<Duration>,
    /// Calls and destroyed instances kept for inspection; the oldest are forgotten first.
    pub log_limit: usize,
}

impl Config {
    /// Whether a restart connects only instances that are stored as open or connecting: 2.3.7 and
    /// later.
    pub(super) fn connects_only_open(&self) -> bool {
        let mut numbers = self.version.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or_default());
        let mut next = || numbers.next().unwrap_or_default();
        (next(), next(), next()) >= (2, 3, 7)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            key: super::Key::new("simulated-global-key"),
            public_url: "http://127.0.0.1:8080".to_owned(),
            timings: Timings::default(),
            quirks: Quirks::default(),
            faults: super::Faults::default(),
            epoch_ms: 1_790_000_000_000,
            body_limit: 8 * 1024 * 1024,
            qr_limit: 30,
            qr_image_length: 64,
            save_instances: false,
            version: "2.3.6".to_owned(),
            rabbitmq: false,
            remove_unconnected_after: None,
            log_limit: 10_000,
        }
    }
}
