//! Servers to test against, the simulated Evolution API, the model ledger, whole fleets of our own
//! processes, and the tests that need them.

pub mod bench;
pub mod chaos;
pub mod collector;
pub mod consumer;
pub mod evolution;
pub mod fleet;
pub mod ledger;
pub mod servers;
