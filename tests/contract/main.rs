//! The recorded contract of the real Evolution API, held against what this project has in its
//! place: the simulated API answers as it did, and our classifier judges every answer that it gave.

#![allow(clippy::unwrap_used)]

mod classifier;
mod faults;
mod races;
mod replay;
mod series;
mod server;
mod steps;
