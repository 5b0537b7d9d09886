//! What a relay says and does where it hears nothing.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::net::TcpListener;
use uuid::Uuid;

use super::*;
use crate::app::RELAY_LISTENS;

const POLLS: &str = "LISTEN does not work now: requests are found by polling";
/// A relay calls no API.
const NO_API: &str = "http://127.0.0.1:9";

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_told_to_listen_through_a_transaction_pooler_says_so_and_polls() {
    let pooler = shared().await;
    let mut fleet = Fleet::behind(pooler, NO_API, "a-key").await;
    fleet.set("LISTEN_DATABASE_URL", pooler.url(&database(&fleet.app)));

    let relay = fleet.start(&["relay"]).await;
    relay.wait_for_log(POLLS, PATIENCE).await.unwrap();
    fleet.app.sign_up(Uuid::new_v4()).await.unwrap();

    fleet.until("it is found", "select status = 'processing' from evolution_instance_creation_queue").await;
    let log = fleet.processes[0].log();
    assert!(
        log.contains("a transaction pooler answers") && log.contains("give LISTEN_DATABASE_URL the address"),
        "{log}"
    );
    // What a LISTEN that is left on a shared backend does to others.
    assert_eq!(occurrences(&log, "NotificationResponse"), 0, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_behind_a_transaction_pooler_hears_on_a_connection_around_it() {
    let mut fleet = Fleet::behind(shared().await, NO_API, "a-key").await;
    let direct = servers::shared().await.postgres.url(&database(&fleet.app));
    fleet.set("LISTEN_DATABASE_URL", direct);
    fleet.set("INTAKE_POLL", "60s");
    fleet.start(&["relay"]).await;
    fleet.until("it listens", RELAY_LISTENS).await;

    fleet.app.sign_up(Uuid::new_v4()).await.unwrap();

    let taken = "select status = 'processing' from evolution_instance_creation_queue";
    let mut session = fleet.app.superuser().await;
    let heard = servers::until(PATIENCE / 2, async || session.one::<bool>(taken).await.then_some(())).await;
    assert!(heard.is_some(), "it was not heard:\n{}", fleet.processes[0].log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_cannot_connect_is_spoken_of_once_however_often_it_is_tried() {
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = door.local_addr().unwrap().port();
    let knocks = Arc::new(AtomicUsize::new(0));
    let counted = knocks.clone();
    tokio::spawn(async move {
        while let Ok((visitor, _)) = door.accept().await {
            drop(visitor);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut fleet = Fleet::behind(shared().await, NO_API, "a-key").await;
    fleet.set("LISTEN_DATABASE_URL", format!("postgres://ada@127.0.0.1:{port}/app"));

    fleet.start(&["relay"]).await;
    let tried = servers::until(PATIENCE, async || (knocks.load(Ordering::Relaxed) >= 4).then_some(())).await;

    let log = fleet.processes[0].log();
    assert!(tried.is_some(), "it was not tried again:\n{log}");
    assert_eq!(occurrences(&log, POLLS), 1, "{log}");
}
