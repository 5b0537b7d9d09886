//! Starters of private real servers: Postgres, PgBouncer, Redis, RabbitMQ and our own programs,
//! each in a temporary directory of its own, on a free port of the loopback address. Tests share
//! one Postgres and one Redis per test binary (`shared`), each with a fresh database and a Redis
//! prefix; a test that kills, pauses or wipes a server starts its own. Never leaves anything
//! behind, not even when the process that started it is killed (see `guard`), and never touches a
//! server that it did not start.

mod binary;
mod directory;
mod guard;
mod identity;
pub mod pgbouncer;
mod port;
pub mod postgres;
mod process;
mod proxy;
pub mod rabbitmq;
pub mod redis;
mod shared;
mod tree;

use std::time::Duration;

use tokio::time::Instant;

pub use binary::binary;
pub use identity::{Authority, Certificates, Identity};
pub use pgbouncer::PgBouncer;
pub use port::free_port;
pub use postgres::{Database, Postgres};
pub use process::{Process, Program};
pub use proxy::Proxy;
pub use rabbitmq::RabbitMq;
pub use redis::{Redis, Sentinel};
pub use shared::{Servers, fresh_database, fresh_database_from, prefix, shared};

/// Asks `condition` again and again until it answers; `None` once `within` has gone by.
pub async fn until<T>(within: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = condition().await {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
