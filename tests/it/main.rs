//! What needs a whole ledger, and real servers where one is in Postgres. Each test has a fresh database; nothing here
//! waits for a fixed time.

#![allow(clippy::unwrap_used)]

mod conformance;
