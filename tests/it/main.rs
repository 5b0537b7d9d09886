//! The parts against real servers, one module per part: the migrations, the SQL that people and the
//! app write, the queue, the engine. Each test has a fresh database and a Redis prefix of its own;
//! nothing here waits for a fixed time.

#![allow(clippy::unwrap_used)]

mod access;
mod adoption;
mod app;
mod build_before;
mod cli;
mod clocks;
mod config;
mod conformance;
mod connections;
mod cost;
mod deployment;
mod disasters;
mod engine;
mod events;
mod failover;
mod guide;
mod hand_made_sql;
mod metrics;
mod migrate;
mod odd_databases;
mod plans;
mod pooler;
mod processes;
mod program;
mod promises;
mod queue;
mod retention;
mod secrets_in_logs;
mod sign_up;
mod sql_guards;
mod tls;
mod unreadable;
mod waiting;
