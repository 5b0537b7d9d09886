//! Sluice: all I/O around the pure core in `workflows`.
//!
//! `evolution` is the client of the Evolution API, the only user of reqwest.

pub mod evolution;
pub mod ledger;
pub mod queue;
pub mod relay;
pub mod supabase;
pub mod worker;
