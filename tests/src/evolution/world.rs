//! The server as a state machine: an agenda of what happens when, the calls under way, and the
//! controls of a test.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::answers::{self, Clock};
use super::calls::Call;
use super::config::{Config, Quirks, Span};
use super::faults::{Database, Faults};
use super::journal::Journal;
use super::message::{Answer, Ticket};
use super::store::{Instance, Row, Store};
use super::teardown::Task;

#[derive(Clone, Debug)]
pub(super) enum Event {
    Step(Ticket),
    Task(Task),
}

/// The whole server. `now` is the time since its start; it never runs backwards.
pub struct World {
    pub(super) config: Config,
    pub(super) rng: SmallRng,
    pub(super) now: Duration,
    pub(super) store: Store,
    pub(super) journal: Journal,
    pub(super) calls: BTreeMap<Ticket, Call>,
    pub(super) outbox: Vec<(Ticket, Answer)>,
    pub(super) up: bool,
    pub(super) tickets: u64,
    /// When the last create that has arrived is taken up: they stand in line.
    pub(super) last_create: Duration,
    pub(super) agenda: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
}

impl World {
    pub fn new(config: Config, seed: u64) -> Self {
        let journal = Journal::new(config.log_limit);
        Self {
            config,
            rng: SmallRng::seed_from_u64(seed),
            now: Duration::ZERO,
            store: Store::default(),
            journal,
            calls: BTreeMap::new(),
            outbox: Vec::new(),
            up: true,
            tickets: 0,
            last_create: Duration::ZERO,
            agenda: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// When `advance` has something to do next.
    pub fn next_wakeup(&self) -> Option<Duration> {
        if !self.outbox.is_empty() {
            return Some(self.now);
        }
        self.agenda.keys().next().map(|(at, _)| *at)
    }

    /// Lets time pass up to `now` and returns the answers that were given.
    pub fn advance(&mut self, now: Duration) -> Vec<(Ticket, Answer)> {
        self.run_until(now);
        std::mem::take(&mut self.outbox)
    }

    pub(super) fn run_until(&mut self, now: Duration) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            match event {
                Event::Step(ticket) => self.step(ticket),
                Event::Task(task) => self.perform(task),
            }
        }
        self.now = self.now.max(now);
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.agenda.insert((self.now + delay, self.sequence), event);
    }

    pub(super) fn draw(&mut self, span: Span) -> Duration {
        span.draw(&mut self.rng, self.config.timings.scale)
    }

    pub(super) fn clock(&self) -> Clock {
        Clock { epoch_ms: self.config.epoch_ms }
    }

    /// One statement's luck.
    ///
    /// # Errors
    /// The database's own words.
    pub(super) fn database(&mut self) -> Result<(), &'static str> {
        use rand::Rng;
        const REFUSED: &str = "database \"evolution\" is not currently accepting connections";
        const STARTING: &str = "the database system is starting up";
        const CUT: &str = "terminating connection due to administrator command";
        match self.config.faults.database {
            Database::Up => Ok(()),
            Database::Down => Err(REFUSED),
            Database::Flapping(probability) if self.rng.random_bool(probability.clamp(0.0, 1.0)) => {
                Err(if self.rng.random_bool(0.8) { REFUSED } else { CUT })
            }
            Database::Flapping(_) => Ok(()),
            Database::Restarting => Err(if self.rng.random_bool(0.8) { STARTING } else { CUT }),
        }
    }

    pub fn now(&self) -> Duration {
        self.now
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    pub fn faults_mut(&mut self) -> &mut Faults {
        &mut self.config.faults
    }

    pub fn quirks_mut(&mut self) -> &mut Quirks {
        &mut self.config.quirks
    }

    /// Whether the server is running (not killed, not booting).
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Calls that wait for an answer or are still worked on.
    pub fn calls_under_way(&self) -> usize {
        self.calls.len()
    }

    /// The calls that create or delete the instance of this name, sent and not yet done.
    pub fn at_work(&self, name: &str) -> Vec<Ticket> {
        self.calls.values().filter(|call| call.is_at_work_on(name)).map(|call| call.ticket).collect()
    }

    /// Whether this call is a create that has found its name free, and is still at work.
    pub fn has_checked(&self, ticket: Ticket) -> bool {
        self.calls.get(&ticket).is_some_and(Call::has_checked)
    }

    /// What still holds this call back is over now.
    pub fn let_go(&mut self, ticket: Ticket) {
        let is_held = |event: &Event| matches!(event, Event::Step(held) if *held == ticket);
        let held: Vec<_> = self.agenda.extract_if(.., |_, event| is_held(event)).collect();
        for (_, event) in held {
            self.after(Duration::ZERO, event);
        }
    }

    /// Every stored instance, by name.
    pub fn instances(&self) -> Vec<Instance> {
        self.store.rows.iter().map(|(name, row)| self.describe(name, row)).collect()
    }

    pub fn instance(&self, name: &str) -> Option<Instance> {
        self.store.rows.get(name).map(|row| self.describe(name, row))
    }

    /// Rows ever inserted, by name: more than one is a name that was made again.
    pub fn instances_made(&self) -> &BTreeMap<String, u32> {
        &self.store.made
    }

    fn describe(&self, name: &str, row: &Row) -> Instance {
        Instance {
            name: name.to_owned(),
            id: row.id.clone(),
            token: row.token.clone(),
            state: self.store.memory.get(name).map(|loaded| self.state_of(loaded)),
            webhook: row.webhook.clone(),
            has_settings: row.settings.is_some(),
            owner_jid: row.owner_jid.clone(),
            answered_201: row.answered_201,
            leaving: self.store.leaving.contains_key(name),
        }
    }
}

pub(super) fn default_settings() -> Value {
    json!({
        "rejectCall": false,
        "msgCall": "",
        "groupsIgnore": false,
        "alwaysOnline": false,
        "readMessages": false,
        "readStatus": false,
        "syncFullHistory": false,
        "wavoipToken": "",
    })
}

pub(super) fn driver_error(message: &str) -> super::message::Response {
    answers::server_error(json!([format!("DriverAdapterError: {message}")]))
}
