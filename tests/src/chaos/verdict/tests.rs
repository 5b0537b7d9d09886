#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::{
    chaos::{Options, stage::Layout},
    evolution::Planted,
    servers::until,
};

/// One thing wrong for each invariant that rows can show.
const WRONG: &str = "
    insert into auth.users (id, email) values (gen_random_uuid(), 'lost@example.org');
    insert into sluice.run (id, workflow, version, subject, resource, deadline_at, state, ended_at) values
      ('00000000-0000-0000-0000-000000000001', 'provision-instance', 1, 'a', 'shared', now(), 'active', null),
      ('00000000-0000-0000-0000-000000000002', 'provision-instance', 1, 'b', 'shared', now(), 'active', null);
    insert into sluice.step (run_id, position, name, due_at, failures, attempts) values
      ('00000000-0000-0000-0000-000000000001', 0, 'create-instance', now(), 31, 2),
      ('00000000-0000-0000-0000-000000000002', 0, 'create-instance', now(), 0, 1);
    insert into sluice.attempt (run_id, position, step, token, worker, started_at, ended_at, outcome, error) values
      ('00000000-0000-0000-0000-000000000001', 0, 'create-instance', 1, 'w', '2026-01-01 10:00', '2026-01-01 10:02', 'failed', 'x'),
      ('00000000-0000-0000-0000-000000000001', 0, 'create-instance', 2, 'w', '2026-01-01 10:01', '2026-01-01 10:03', 'failed', 'x');
";

#[tokio::test(flavor = "multi_thread")]
async fn every_invariant_can_be_seen_broken() {
    let options = Options { users: None, seconds: None, seed: 0, say: |_| {} };
    let stage = Stage::start(&options, Layout::WholeWorkers { relays: 0, workers: 0 }, &[]).await.unwrap();
    let before = Verdict::read(&stage).await.unwrap();

    let mut session = stage.fleet.connect().await.unwrap();
    sqlx::raw_sql(WRONG).execute(&mut session).await.unwrap();
    destroy_a_good_instance(&stage);
    create_one_name_twice_at_once(&stage).await;
    let after = Verdict::read(&stage).await.unwrap();

    assert!(before.violations.values().all(Vec::is_empty), "{before:#?}");
    let unseen: Vec<_> = INVARIANTS.into_iter().filter(|name| after.violations[name].is_empty()).collect();
    assert_eq!(unseen, Vec::<&str>::new(), "{after:#?}");
    assert_eq!(after.lost, 1);
    assert_eq!(after.creates_of_existing, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlap_while_a_worker_was_frozen_is_counted_apart() {
    let options = Options { users: None, seconds: None, seed: 0, say: |_| {} };
    let stage = Stage::start(&options, Layout::WholeWorkers { relays: 0, workers: 0 }, &[]).await.unwrap();

    create_one_name_twice_at_once(&stage).await;
    stage.record.frozen(Duration::ZERO, stage.fleet.api.with(|_, now| now));
    let verdict = Verdict::read(&stage).await.unwrap();

    assert_eq!(verdict.overlaps_of_frozen, 1);
    assert_eq!(verdict.violations["I3"], Vec::<String>::new());
}

fn destroy_a_good_instance(stage: &Stage) {
    stage.fleet.api.with(|world, now| {
        let planted =
            Planted { name: "good".into(), token: "t".into(), settings: true, answered_201: true, webhook: None };
        world.plant(now, planted);
        assert!(world.remove(now, "good"));
    });
}

async fn create_one_name_twice_at_once(stage: &Stage) {
    let _sockets = tokio::join!(create(stage), create(stage));
    let done = until(Duration::from_secs(10), async || {
        stage.fleet.api.with(|world, _| world.calls_under_way() == 0).then_some(())
    });
    assert!(done.await.is_some());
}

async fn create(stage: &Stage) {
    let address = stage.fleet.api.base_url().strip_prefix("http://").unwrap();
    let body = r#"{"instanceName":"twice","token":"t","integration":"WHATSAPP-BAILEYS"}"#;
    let (key, length) = (stage.fleet.api.key(), body.len());
    let head = format!(
        "POST /instance/create HTTP/1.1\r\nhost: {address}\r\napikey: {key}\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
}
