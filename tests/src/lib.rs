//! Servers to test against, the simulated Evolution API, and the tests that need them.

pub mod evolution;
pub mod servers;
