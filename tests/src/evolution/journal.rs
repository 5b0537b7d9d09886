//! What happened, for tests to assert on: calls, counters, overlaps, destroyed instances, quirks
//! and faults met.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::hit::{Counts, Hit};
use super::message::Ticket;
use super::route::Route;

/// How a call ended for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Status(u16),
    Dropped,
    /// The client went away first; the server still finished (with this status, if it had one to
    /// give).
    ClientGone(Option<u16>),
}

#[derive(Clone, Debug, Serialize)]
pub struct LogEntry {
    #[serde(skip)]
    pub ticket: Ticket,
    pub route: Route,
    /// The name that the server acted on.
    pub name: Option<String>,
    pub began: Duration,
    pub ended: Option<Duration>,
    pub outcome: Option<Outcome>,
}

/// What removed an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Destroyer {
    /// A delete call that was meant for it.
    Delete,
    /// A delete call meant for an earlier instance of that name.
    StaleDelete,
    /// A failed create of the same name: its own instance or another's.
    FailedCreate,
    /// `DEL_INSTANCE`.
    NeverConnected,
    /// The test itself.
    Test,
}

#[derive(Clone, Debug, Serialize)]
pub struct Destroyed {
    pub name: String,
    pub id: String,
    pub at: Duration,
    pub by: Destroyer,
    /// A caller had a 201 for it.
    pub answered_201: bool,
}

/// A call that creates or deletes, and met another one of its name or what it creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    pub name: String,
    pub at: Duration,
    /// Another one was at work.
    pub overlaps: bool,
    /// It creates what was there, or was being created.
    pub duplicates: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flight {
    creates: u32,
    deletes: u32,
}

/// The counters. Cheap enough to keep for every run of a simulator.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    limit: usize,
    hits: Counts,
    statuses: BTreeMap<(Route, u16), u64>,
    dropped: BTreeMap<Route, u64>,
    log: VecDeque<LogEntry>,
    log_first: u64,
    log_index: BTreeMap<Ticket, u64>,
    destroyed: VecDeque<Destroyed>,
    clashes: VecDeque<Clash>,
    flights: BTreeMap<String, Flight>,
    creates_ok: BTreeMap<String, u32>,
    /// Creates for a name that existed, or that had another create in flight.
    pub duplicate_creates: u64,
    /// Calls that create or delete, begun while another such call for that name was at work.
    pub overlaps: u64,
    /// Creates begun while an earlier delete of that name had answered and was not done.
    pub creates_while_leaving: u64,
}

impl Journal {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(super) fn hit(&mut self, hit: Hit) {
        self.hits.add(hit);
    }

    /// How often each quirk and fault was met; those never met are there with 0.
    pub fn hits(&self) -> BTreeMap<&'static str, u64> {
        self.hits.by_name()
    }

    pub fn hit_count(&self, hit: Hit) -> u64 {
        self.hits.of(hit)
    }

    /// Answers by route and status, those that no client waited for included.
    pub fn statuses(&self) -> &BTreeMap<(Route, u16), u64> {
        &self.statuses
    }

    /// Connections closed without an answer, by route.
    pub fn dropped(&self) -> &BTreeMap<Route, u64> {
        &self.dropped
    }

    /// Answers of a route with a status.
    pub fn count(&self, route: Route, status: u16) -> u64 {
        self.statuses.get(&(route, status)).copied().unwrap_or(0)
    }

    /// 201 answers to creates, by name.
    pub fn creates_ok(&self) -> &BTreeMap<String, u32> {
        &self.creates_ok
    }

    /// Instances that are gone, oldest first.
    pub fn destroyed(&self) -> impl Iterator<Item = &Destroyed> {
        self.destroyed.iter()
    }

    /// What `duplicate_creates` and `overlaps` count, oldest first.
    pub fn clashes(&self) -> impl Iterator<Item = &Clash> {
        self.clashes.iter()
    }

    /// The calls, oldest first.
    pub fn log(&self) -> impl Iterator<Item = &LogEntry> {
        self.log.iter()
    }

    pub(super) fn begun(&mut self, entry: LogEntry) {
        if self.limit == 0 {
            return;
        }
        if self.log.len() == self.limit
            && let Some(oldest) = self.log.pop_front()
        {
            self.log_first += 1;
            self.log_index.remove(&oldest.ticket);
        }
        if entry.ended.is_none() {
            self.log_index.insert(entry.ticket, self.log_first + self.log.len() as u64);
        }
        self.log.push_back(entry);
    }

    pub(super) fn ended(&mut self, ticket: Ticket, route: Route, at: Duration, outcome: Outcome) {
        match outcome {
            Outcome::Status(status) | Outcome::ClientGone(Some(status)) => {
                *self.statuses.entry((route, status)).or_default() += 1;
            }
            Outcome::Dropped => *self.dropped.entry(route).or_default() += 1,
            Outcome::ClientGone(None) => {}
        }
        if let Some(index) = self.log_index.remove(&ticket)
            && let Some(entry) = self.log.get_mut((index - self.log_first) as usize)
        {
            entry.ended = Some(at);
            entry.outcome = Some(outcome);
        }
    }

    pub(super) fn destroyed_one(&mut self, destroyed: Destroyed) {
        if self.destroyed.len() >= self.limit.max(1) {
            self.destroyed.pop_front();
        }
        self.destroyed.push_back(destroyed);
    }

    pub(super) fn answered_201(&mut self, name: &str) {
        *self.creates_ok.entry(name.to_owned()).or_default() += 1;
    }

    /// A create or delete is now at work on a name.
    pub(super) fn took_off(&mut self, at: Duration, route: Route, name: &str, exists: bool) {
        let flight = self.flights.entry(name.to_owned()).or_default();
        let overlaps = flight.creates + flight.deletes > 0;
        let duplicates = route == Route::Create && (exists || flight.creates > 0);
        if route == Route::Create {
            flight.creates += 1;
        } else {
            flight.deletes += 1;
        }
        self.overlaps += u64::from(overlaps);
        self.duplicate_creates += u64::from(duplicates);
        if overlaps || duplicates {
            if self.clashes.len() >= self.limit.max(1) {
                self.clashes.pop_front();
            }
            self.clashes.push_back(Clash { name: name.to_owned(), at, overlaps, duplicates });
        }
    }

    pub(super) fn landed(&mut self, route: Route, name: &str) {
        let Some(flight) = self.flights.get_mut(name) else {
            return;
        };
        if route == Route::Create {
            flight.creates = flight.creates.saturating_sub(1);
        } else {
            flight.deletes = flight.deletes.saturating_sub(1);
        }
        if flight.creates + flight.deletes == 0 {
            self.flights.remove(name);
        }
    }

    /// Creates and deletes at work on this name right now.
    pub fn in_flight(&self, name: &str) -> u32 {
        self.flights.get(name).map_or(0, |flight| flight.creates + flight.deletes)
    }

    pub(super) fn all_landed(&mut self) {
        self.flights.clear();
    }
}
