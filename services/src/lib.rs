//! Sluice: a durable workflow engine on Postgres and Redis, and the product that is its first user.
//!
//! The engine: `ledger` holds the protocol, on `database`; `queue` is the only module that knows
//! apalis and Redis; `relay`, `worker` and `events` are roles: `pub async fn run(settings, deps,
//! shutdown)`. Roles never call each other; they meet in Postgres and Redis. `config` reads options
//! and environment into what adapters and roles take, `process` starts roles in a process and ends
//! them, `cli` is what a person types, `telemetry` what a person reads.
//!
//! The product: `evolution` is the Evolution API over HTTP, `whatsapp` brings it and its workflow
//! into a program, `supabase` has the app's tables.
//!
//! A [`Program`] runs the engine with workflows of one's own, beside the product or without it.

pub mod cli;
pub mod config;
pub mod database;
pub mod events;
pub mod evolution;
pub mod ledger;
mod name;
pub mod process;
mod program;
pub mod queue;
pub mod relay;
pub mod supabase;
pub mod telemetry;
pub mod whatsapp;
pub mod worker;

pub use program::Program;
