//! The simulated Evolution API 2.3.6: what a client that provisions instances meets, faults and
//! races included.
//!
//! `World` is the whole server as a state machine without I/O: time, randomness and requests come
//! in as arguments, so a simulator drives it in virtual time and [`server`] drives it behind a real
//! socket. What it does is what `tests/contract/` recorded of the real one; the test `contract`
//! replays the record against it. It must never read a clock, sleep or spawn (only `server` may).
//! Webhook deliveries are not simulated: of a webhook's target only its being dead is known, as
//! that delays deletes (`Faults::dead_hooks`).

mod answers;
mod calls;
mod config;
mod control;
mod create;
mod faults;
mod guards;
mod hit;
mod journal;
mod lifecycle;
mod message;
mod rabbitmq;
mod reading;
mod route;
mod schema;
pub mod server;
mod settings;
mod socket;
mod store;
mod strikes;
mod teardown;
mod webhook;
mod world;

pub use config::{Config, Quirks, Span, Timings};
pub use faults::{Database, Fault, Faults, Outage, RetryAfter, Rule, Stage, Whatsapp, When};
pub use hit::Hit;
pub use journal::{Clash, Destroyed, Destroyer, Journal, LogEntry, Outcome};
pub use message::{Answer, Body, Key, Method, Request, Response, Ticket};
pub use route::Route;
pub use schema::EVENTS;
pub use store::{Instance, LinkState, Planted, Webhook};
pub use world::World;
