//! What the starters of private servers promise, tried on real servers.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod orphans;
mod postgres;
mod process;
mod rabbitmq;
mod redis;

use std::net::TcpListener;

use tests::servers::{free_port, prefix, shared};

#[test]
fn a_free_port_can_be_bound_even_while_other_threads_fork() {
    for _ in 0..2000 {
        let port = free_port().unwrap();

        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
}

#[tokio::test]
async fn all_tests_of_a_binary_share_one_postgres_and_one_redis() {
    let (one, other) = tokio::join!(shared(), shared());

    assert_eq!(one.postgres.pid(), other.postgres.pid());
    assert_eq!(one.redis.pid(), other.redis.pid());
    assert_ne!(prefix(), prefix());
}
