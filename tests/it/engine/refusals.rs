//! What the app's own schema or sessions refuse us: it is tried again, and neither loops nor
//! overwrites what came later.

use sluice::ledger::{By, Intake, OperatorLedger, RelayLedger};

use super::*;

const QUEUE: &str = "public.evolution_instance_creation_queue";

async fn idle() -> Engine {
    Engine::idle(App::migrated().await, Options::default()).await
}

async fn write_what_is_pending(engine: &Engine) {
    let written =
        servers::until(PATIENCE, async || (engine.ledger.project_pending(10).await.unwrap() == 0).then_some(()));
    assert!(written.await.is_some(), "public rows are still pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_row_that_the_app_refuses_is_taken_in_once() {
    let engine = idle().await;
    let mut owner = engine.app.owner().await;
    owner.run(&format!("alter table {QUEUE} add constraint no_work check (status <> 'processing')")).await;
    engine.app.sign_up(Uuid::new_v4()).await.unwrap();

    let first = engine.ledger.intake(10).await.unwrap();
    let later = [engine.ledger.intake(10).await.unwrap(), engine.ledger.intake(10).await.unwrap()];

    assert_eq!((first.started.len(), later), (1, [Intake::default(), Intake::default()]));
    let noted: bool = owner.one("select taken from sluice.projection_pending").await;
    assert!(noted, "nobody would write the row again");
    owner.run(&format!("alter table {QUEUE} drop constraint no_work")).await;
    write_what_is_pending(&engine).await;
    assert_eq!(owner.one::<String>(&format!("select status from {QUEUE}")).await, "processing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_row_that_is_written_late_says_what_is_true_by_then() {
    let engine = idle().await;
    let mut owner = engine.app.owner().await;
    engine.app.sign_up(Uuid::new_v4()).await.unwrap();
    let mut user = engine.app.owner().await;
    user.run(&format!("begin; select from {QUEUE} for update")).await;
    let run: Uuid = {
        // The row is locked: intake passes over it, a start by the front end does not.
        assert_eq!(engine.ledger.intake(10).await.unwrap(), Intake::default());
        user.run("rollback").await;
        engine.ledger.intake(10).await.unwrap();
        owner.one("select id from sluice.run").await
    };

    owner.run(&format!("alter table {QUEUE} add constraint no_end check (status <> 'failed')")).await;
    let ana = By { actor: "ana".to_owned(), note: Some("left us".to_owned()) };
    engine.ledger.cancel(RunId::new(run), &ana).await.unwrap();
    assert_eq!(owner.one::<String>(&format!("select status from {QUEUE}")).await, "processing");
    // Meanwhile the run is asked for again, and a new one starts.
    owner.run(&format!("update {QUEUE} set status = 'pending'")).await;
    assert_eq!(engine.ledger.intake(10).await.unwrap().started.len(), 1);
    owner.run(&format!("alter table {QUEUE} drop constraint no_end")).await;
    write_what_is_pending(&engine).await;

    let shown: String = owner.one(&format!("select concat_ws(' ', status, error_message) from {QUEUE}")).await;
    assert_eq!(shown, "processing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_given_while_a_row_waited_to_be_written_is_not_written_over() {
    let engine = idle().await;
    let mut owner = engine.app.owner().await;
    engine.app.sign_up(Uuid::new_v4()).await.unwrap();
    engine.ledger.intake(10).await.unwrap();
    let run: Uuid = owner.one("select id from sluice.run").await;
    let mut user = engine.app.owner().await;
    user.run(&format!("begin; update {QUEUE} set status = 'pending'")).await;

    let ana = By { actor: "ana".to_owned(), note: None };
    engine.ledger.cancel(RunId::new(run), &ana).await.unwrap();
    let waits: i64 = owner.one("select count(*) from sluice.projection_pending").await;
    user.run("commit").await;
    write_what_is_pending(&engine).await;

    assert_eq!(waits, 1);
    assert_eq!(owner.one::<String>(&format!("select status from {QUEUE}")).await, "pending");
    assert_eq!(engine.ledger.intake(10).await.unwrap().started.len(), 1);
}

/// Users whose sign-ups the trigger missed.
async fn lose_three(engine: &Engine) -> [Uuid; 3] {
    let mut owner = engine.app.owner().await;
    owner.run("alter table profiles disable trigger on_profile_created_create_evolution_instance").await;
    let users = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
    for user in users {
        engine.app.sign_up(user).await.unwrap();
    }
    owner.run("alter table profiles enable trigger on_profile_created_create_evolution_instance").await;
    users
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lost_sign_up_that_the_app_refuses_does_not_keep_the_others() {
    let engine = idle().await;
    let mut owner = engine.app.owner().await;
    let users = lose_three(&engine).await;
    owner.run(&format!("alter table {QUEUE} add constraint not_this_one check (user_id <> '{}')", users[1])).await;

    let found = supabase::find_once(&engine.ledger, Duration::from_secs(900)).await.unwrap();
    let again = supabase::find_once(&engine.ledger, Duration::from_secs(900)).await.unwrap();

    assert_eq!((found, again), (2, 0));
    assert_eq!(engine.ledger.intake(10).await.unwrap().started.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_search_for_lost_sign_ups_holds_nothing_while_the_app_holds_one() {
    let engine = idle().await;
    let mut owner = engine.app.owner().await;
    let users = lose_three(&engine).await;
    owner.run(&format!("begin; delete from profiles where id = '{}'", users[1])).await;

    let found = supabase::find_once(&engine.ledger, Duration::from_secs(900)).await.unwrap();

    assert_eq!(found, 2);
    owner.run("rollback").await;
    assert_eq!(supabase::find_once(&engine.ledger, Duration::from_secs(900)).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_count_that_is_null_is_a_fresh_budget() {
    let app = App::new().await;
    let mut owner = app.owner().await;
    owner
        .run(&format!(
            "create table {QUEUE} (
               id uuid primary key default gen_random_uuid(), user_id uuid not null unique,
               status text not null default 'pending', retry_count int, created_at timestamptz default now())"
        ))
        .await;
    app.migrate().await;
    let engine = Engine::idle(app, Options::default()).await;
    engine.app.sign_up(Uuid::new_v4()).await.unwrap();
    owner.run(&format!("update {QUEUE} set retry_count = null")).await;

    assert_eq!(engine.ledger.intake(10).await.unwrap().started.len(), 1);

    let shown: String = owner.one(&format!("select concat_ws(' ', status, retry_count) from {QUEUE}")).await;
    assert_eq!(shown, "processing 0");
}
