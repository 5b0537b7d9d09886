//! What needs real servers: the migrations, and the SQL that people and the app write on a database that Sluice
//! manages. Each test has a fresh database; nothing here waits for a fixed time.

#![allow(clippy::unwrap_used)]

mod access;
mod app;
mod guide;
mod hand_made_sql;
mod migrate;
mod sign_up;
