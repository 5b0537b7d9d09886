//! The pure core of Sluice: what a run is, how its state may change, how failures are judged, and
//! the workflows.
//!
//! Nothing here reads a clock, opens a socket or draws a random number: time, randomness and new
//! ids come in as arguments, so that the simulator can drive the same code in virtual time.
//!
//! `engine` knows no product: any team's workflow is a [`workflow::Workflow`]. `whatsapp` is the
//! engine's first user: the Evolution API as a trait, and the workflow that gives every user a
//! ready instance.

mod engine;
pub mod whatsapp;

pub use engine::{breaker, calls, definition, faults, ids, outcome, policy, secret, state, workflow};
