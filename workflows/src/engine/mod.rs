//! The engine's words and rules. Nothing here names a product.
//!
//! `ids` and `secret` are the words every other module speaks; `definition` is a workflow as data,
//! `faults` what is wrong with it, `workflow` the trait that runs it; `state` is the only
//! definition of the moves of a run and a step; `policy` turns counters into delays; `breaker`
//! judges an API host; `calls` decides about calls that create or delete; `outcome` is what a step
//! answers.

pub mod breaker;
pub mod calls;
pub mod definition;
pub mod faults;
pub mod ids;
pub mod outcome;
pub mod policy;
pub mod secret;
pub mod state;
pub mod workflow;
