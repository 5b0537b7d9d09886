//! Sluice's I/O: the ledger in Postgres, the queue in Redis, the Evolution API over HTTP, and the roles that meet there.
//!
//! `ledger` and `supabase` hold all SQL; `queue` is the only module that knows apalis and Redis; `evolution` the only
//! one that knows reqwest. `relay` and `worker` are roles: `pub async fn run(settings, deps, shutdown)`. Roles never call
//! each other; they depend on the adapters. `config` reads options and environment into what adapters and roles take,
//! `process` starts roles in a process and ends them, `cli` is what a person types, `telemetry` what a person reads.

pub mod cli;
pub mod config;
pub mod evolution;
pub mod ledger;
pub mod process;
pub mod queue;
pub mod relay;
pub mod supabase;
pub mod telemetry;
pub mod worker;
