//! The pure core of Sluice: what a run is, how its state may change, how failures are judged, and the workflows.
//!
//! Nothing here reads a clock, opens a socket or draws a random number: time, randomness and new ids come in as
//! arguments, so that the simulator can drive the same code in virtual time.
//!
//! `ids` and `secret` are the words every other module speaks; `definition` says what a workflow is; `state` is the
//! only definition of the moves of a run and a step; `policy` turns counters into delays; `breaker` judges an API host;
//! `outcome` is what a step answers; `evolution` is the Evolution API as a step sees it; `provision` is the flagship
//! workflow.

pub mod breaker;
pub mod definition;
pub mod evolution;
pub mod ids;
pub mod outcome;
pub mod policy;
pub mod provision;
pub mod secret;
pub mod state;
