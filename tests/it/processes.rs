//! The roles as separate processes, as Kubernetes runs them.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tests::{
    evolution::Config,
    fleet::Fleet,
    servers::{postgres, redis, until},
};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_into_auth_users_becomes_a_ready_instance_through_separate_processes() {
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    let mut session = fleet.connect().await.unwrap();
    let mut states = vec![];

    sqlx::query("insert into auth.users (email) values ('ada@example.org')").execute(&mut session).await.unwrap();
    states.push(state(&mut session).await);
    fleet.start_roles().await.unwrap();
    let ready = until(PATIENCE, async || {
        let now = state(&mut session).await;
        if states.last() != Some(&now) {
            states.push(now);
        }
        (states.last()?.as_str() == "completed").then_some(())
    });

    assert!(ready.await.is_some(), "after {PATIENCE:?}: {states:?}");
    assert_eq!(states, ["pending", "processing", "completed"]);
    let row: (String, bool, bool) =
        sqlx::query_as("select status, qr_code is not null, webhook_url <> '' from evolution_instances")
            .fetch_one(&mut session)
            .await
            .unwrap();
    assert_eq!(row, ("connecting".to_owned(), true, true));
    session.close().await.unwrap();
}

async fn state(session: &mut PgConnection) -> String {
    sqlx::query_scalar("select status from evolution_instance_creation_queue").fetch_one(session).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_says_what_was_taken_away_since_the_migration_and_the_mend() {
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    let mut session = fleet.connect().await.unwrap();
    sqlx::query("drop trigger on_profile_created_create_evolution_instance on public.profiles")
        .execute(&mut session)
        .await
        .unwrap();

    fleet.start("relay", &["relay"]).await.unwrap();

    let relay = fleet.process("relay").unwrap();
    relay.wait_for_log("missing in the database", PATIENCE).await.unwrap();
    let said = relay.log();
    assert!(
        said.contains("on_profile_created_create_evolution_instance") && said.contains("--sign-up-trigger on"),
        "{said}"
    );
    session.close().await.unwrap();
}
