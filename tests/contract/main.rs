//! The recorded contract of the real Evolution API, held against what this project has in its place.

mod faults;
mod races;
mod replay;
mod series;
mod server;
