//! The recorded contract of Evolution API 2.3.6: our simulated API answers as it did, our classifier judges every answer.

#![allow(clippy::unwrap_used)]

mod classifier;
mod replay;
