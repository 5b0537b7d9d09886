//! What docs/operating.md says of a database that is restored, and of two clusters on one database.

use std::time::Duration;

use sqlx::{Connection, PgConnection, query, query_scalar};
use tests::{
    evolution::Config,
    fleet::{Fleet, STEPS},
    servers::{postgres, redis, until},
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn fleet() -> Fleet {
    Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap()
}

async fn sign_up(fleet: &Fleet, names: &[&str]) {
    let mut session = fleet.connect().await.unwrap();
    for name in names {
        query("insert into auth.users (email) values ($1)").bind(name).execute(&mut session).await.unwrap();
    }
    session.close().await.unwrap();
}

/// Waits until so many users are ready, and nobody waits.
async fn until_ready(fleet: &Fleet, users: i64) {
    let mut session = fleet.connect().await.unwrap();
    let mut seen = vec![];
    let ready = until(PATIENCE, async || {
        seen =
            query_scalar("select status from evolution_instance_creation_queue").fetch_all(&mut session).await.unwrap();
        (seen.len() as i64 == users && seen.iter().all(|status: &String| status == "completed")).then_some(())
    });
    assert!(ready.await.is_some(), "after {PATIENCE:?}: {seen:?}");
    session.close().await.unwrap();
}

/// Of each name: how often the API has made it.
fn made(fleet: &Fleet) -> Vec<u32> {
    fleet.api.with(|world, _| world.instances_made().values().copied().collect())
}

async fn kill_all(fleet: &mut Fleet) {
    for process in fleet.parts().processes.values_mut() {
        process.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_a_restored_database_has_forgotten_adopt_what_they_had_made() {
    let mut fleet = fleet().await;
    fleet.start_roles().await.unwrap();
    sign_up(&fleet, &["before@example.org"]).await;
    until_ready(&fleet, 1).await;
    kill_all(&mut fleet).await;
    sign_up(&fleet, &["waiting@example.org"]).await;
    let mut superuser = PgConnection::connect(&fleet.postgres.url("postgres")).await.unwrap();
    let copied = until(PATIENCE, async || {
        query("create database backup template app owner app_postgres").execute(&mut superuser).await.ok()
    });
    assert!(copied.await.is_some(), "somebody is still connected");
    for name in fleet.names() {
        fleet.process(&name).unwrap().start_again().unwrap();
    }
    sign_up(&fleet, &["lost@example.org"]).await;
    until_ready(&fleet, 3).await;
    kill_all(&mut fleet).await;

    query("drop database app with (force)").execute(&mut superuser).await.unwrap();
    query("alter database backup rename to app").execute(&mut superuser).await.unwrap();
    for name in fleet.names() {
        fleet.process(&name).unwrap().start_again().unwrap();
    }

    until_ready(&fleet, 2).await;
    assert_eq!(made(&fleet), [1, 1, 1], "the third is nobody's, and stays");
    let mut session = fleet.connect().await.unwrap();
    let known: Vec<String> =
        query_scalar("select instance_name from evolution_instances where instance_token is not null")
            .fetch_all(&mut session)
            .await
            .unwrap();
    assert_eq!(known.len(), 2, "{known:?}");
    let failed: i64 = query_scalar("select count(*) from sluice.attempt where outcome = 'failed'")
        .fetch_one(&mut session)
        .await
        .unwrap();
    assert_eq!(failed, 0);
    session.close().await.unwrap();
    superuser.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_fleets_with_a_redis_each_share_one_database_and_make_each_instance_once() {
    let mut fleet = fleet().await;
    for cluster in ["east", "west"] {
        fleet.set("REDIS_PREFIX", cluster);
        fleet.start(&format!("relay-{cluster}"), &["relay"]).await.unwrap();
        for step in STEPS {
            fleet.start(&format!("worker-{step}-{cluster}"), &["worker", step]).await.unwrap();
        }
    }
    let names: Vec<String> = (0..60).map(|number| format!("user{number}@example.org")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();

    sign_up(&fleet, &names[..30]).await;
    until_ready(&fleet, 30).await;
    for name in fleet.names().iter().filter(|name| name.ends_with("-east")) {
        fleet.process(name).unwrap().kill().await.unwrap();
    }
    sign_up(&fleet, &names[30..]).await;

    until_ready(&fleet, 60).await;
    assert_eq!(made(&fleet), vec![1; 60]);
    let mut session = fleet.connect().await.unwrap();
    let counted: i64 = query_scalar("select count(*) from sluice.attempt where outcome = 'failed'")
        .fetch_one(&mut session)
        .await
        .unwrap();
    assert_eq!(counted, 0);
    session.close().await.unwrap();
}
