#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::{
    chaos::{
        Options,
        record::{Frozen, Moment},
        stage::Layout,
    },
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
    insert into sluice.event (run_id, sequence, type, routing_key, payload, published_at) values
      ('00000000-0000-0000-0000-000000000001', 1, 'sluice.run.started.v1', 'provision-instance.started', '{}', now());
";

#[tokio::test(flavor = "multi_thread")]
async fn every_invariant_can_be_seen_broken() {
    let options = Options { users: None, seconds: None, seed: 0, say: |_| {} };
    let mut stage = Stage::start(&options, Layout::WholeWorkers { relays: 0, workers: 0 }, &[]).await.unwrap();
    stage.listen().await.unwrap();
    let before = Verdict::read(&stage).await.unwrap();

    let mut session = stage.fleet.connect().await.unwrap();
    sqlx::raw_sql(WRONG).execute(&mut session).await.unwrap();
    destroy_a_good_instance(&stage);
    create_twice_at_once(&stage, "twice").await;
    let after = Verdict::read(&stage).await.unwrap();

    assert!(before.violations.values().all(Vec::is_empty), "{before:#?}");
    let unseen: Vec<_> = INVARIANTS.into_iter().filter(|name| after.violations[name].is_empty()).collect();
    assert_eq!(unseen, Vec::<&str>::new(), "{after:#?}");
    assert_eq!(after.lost, 1);
    assert_eq!(after.creates_of_existing, 1);
}

/// What the worker of process 77 has in hand, what it had long before, and what its neighbour has.
const IN_HAND: &str = "
    insert into sluice.run (id, workflow, version, subject, resource, deadline_at) values
      ('00000000-0000-0000-0000-000000000001', 'provision-instance', 1, 'a', 'held', now()),
      ('00000000-0000-0000-0000-000000000002', 'provision-instance', 1, 'b', 'before', now()),
      ('00000000-0000-0000-0000-000000000003', 'provision-instance', 1, 'c', 'neighbour', now());
    insert into sluice.step (run_id, position, name, due_at, attempts) values
      ('00000000-0000-0000-0000-000000000001', 0, 'create-instance', now(), 1),
      ('00000000-0000-0000-0000-000000000002', 0, 'create-instance', now(), 1),
      ('00000000-0000-0000-0000-000000000003', 0, 'create-instance', now(), 1);
    insert into sluice.attempt (run_id, position, step, token, worker, started_at, ended_at, outcome, error) values
      ('00000000-0000-0000-0000-000000000001', 0, 'create-instance', 1, 'worker-a-77-0a', now() - interval '5 s',
        now() + interval '5 s', 'crashed', 'x'),
      ('00000000-0000-0000-0000-000000000002', 0, 'create-instance', 2, 'worker-a-77-0a', now() - interval '60 s',
        now() - interval '50 s', 'crashed', 'x'),
      ('00000000-0000-0000-0000-000000000003', 0, 'create-instance', 3, 'worker-77-78-0b', now() - interval '5 s',
        now() + interval '5 s', 'crashed', 'x');
";

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_explains_what_it_had_in_hand_and_nobody_elses_overlap() {
    let options = Options { users: None, seconds: None, seed: 0, say: |_| {} };
    let stage = Stage::start(&options, Layout::WholeWorkers { relays: 0, workers: 0 }, &[]).await.unwrap();
    let mut session = stage.fleet.connect().await.unwrap();
    sqlx::raw_sql(IN_HAND).execute(&mut session).await.unwrap();

    let from = Moment::now(&stage.fleet.api);
    for name in ["held", "before", "neighbour", "stranger"] {
        create_twice_at_once(&stage, name).await;
    }
    stage.record.frozen(Frozen { pid: 77, from, to: Moment::now(&stage.fleet.api) });
    let verdict = Verdict::read(&stage).await.unwrap();

    assert_eq!(verdict.overlaps_of_frozen, 1, "{verdict:#?}");
    assert_eq!(verdict.creates_of_existing, 3);
    for (name, is_explained) in [("held", true), ("before", false), ("neighbour", false), ("stranger", false)] {
        let blamed = verdict.violations["I3"].iter().any(|violation| violation.contains(&format!("calls for {name} ")));
        assert_eq!(blamed, !is_explained, "{name}: {verdict:#?}");
    }
}

fn destroy_a_good_instance(stage: &Stage) {
    stage.fleet.api.with(|world, now| {
        let planted = Planted::new("good", "t");
        world.plant(now, planted);
        assert!(world.remove(now, "good"));
    });
}

async fn create_twice_at_once(stage: &Stage, name: &str) {
    let _sockets = tokio::join!(create(stage, name), create(stage, name));
    let done = until(Duration::from_secs(10), async || {
        stage.fleet.api.with(|world, _| world.calls_under_way() == 0).then_some(())
    });
    assert!(done.await.is_some());
}

async fn create(stage: &Stage, name: &str) {
    let address = stage.fleet.api.base_url().strip_prefix("http://").unwrap();
    let body = format!(r#"{{"instanceName":"{name}","token":"t","integration":"WHATSAPP-BAILEYS"}}"#);
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
