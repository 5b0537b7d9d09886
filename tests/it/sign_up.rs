//! The sign-up trigger: it queues, wakes and keeps the trace, and never fails or holds up a
//! sign-up.

use std::time::{Duration, Instant};

use sqlx::postgres::PgListener;
use uuid::Uuid;

use crate::app::{App, Session};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[tokio::test]
async fn a_sign_up_is_queued_once_and_is_no_hand_made_sql() {
    let app = App::migrated().await;
    let user = Uuid::new_v4();

    app.sign_up(user).await.unwrap();

    let mut owner = app.owner().await;
    let queued: String = owner
        .one("select concat_ws(' ', user_id, status, retry_count, request_id is not null) from public.evolution_instance_creation_queue")
        .await;
    assert_eq!(queued, format!("{user} pending 0 t"));
    assert_eq!(owner.one::<i64>("select count(*) from sluice.audit").await, 0);
}

#[tokio::test]
async fn a_profile_made_again_changes_nothing_in_the_queue() {
    let app = App::migrated().await;
    let user = Uuid::new_v4();
    app.sign_up(user).await.unwrap();
    let mut owner = app.owner().await;
    owner.run("alter table public.evolution_instance_creation_queue drop constraint evolution_instance_creation_queue_profiles_fkey").await;
    owner.run("update public.evolution_instance_creation_queue set status = 'completed'").await;

    owner.run("delete from public.profiles").await;
    owner.run(&format!("insert into public.profiles (id) values ('{user}')")).await;

    let status: Vec<String> = owner.all("select status from public.evolution_instance_creation_queue").await;
    assert_eq!(status, ["completed"]);
}

#[tokio::test]
async fn what_follows_a_sign_up_in_its_transaction_counts_as_hand_made_again() {
    let app = App::migrated().await;
    let user = Uuid::new_v4();
    let mut owner = app.owner().await;

    owner.run("begin").await;
    owner.sign_up(user, "{}").await.unwrap();
    owner.run("update public.evolution_instance_creation_queue set status = 'failed'").await;
    owner.run("commit").await;

    assert_eq!(owner.all::<String>("select action from sluice.audit").await, ["queue.update"]);
}

#[tokio::test]
async fn a_sign_up_wakes_a_relay_that_sleeps_unless_that_is_turned_off() {
    let app = App::migrated().await;
    let mut owner = app.owner().await;
    let mut listener = listen(&app).await;
    let mut relay = app.login("sluice_runtime").await;
    relay.run("select pg_advisory_lock_shared(7318, 1)").await;

    app.sign_up(Uuid::new_v4()).await.unwrap();
    assert_eq!(next(&mut listener).await, "");

    owner.run("update sluice.setting set value = 'off' where name = 'intake_notify'").await;
    app.sign_up(Uuid::new_v4()).await.unwrap();
    owner.run("notify sluice_intake, 'the first after the silence'").await;
    assert_eq!(next(&mut listener).await, "the first after the silence");
}

#[tokio::test]
async fn a_sign_up_notifies_nobody_where_no_relay_sleeps() {
    let app = App::migrated().await;
    let mut listener = listen(&app).await;
    let mut auth = app.login("supabase_auth_admin").await;

    auth.sign_up(Uuid::new_v4(), "{}").await.unwrap();

    app.owner().await.run("notify sluice_intake, 'the first'").await;
    assert_eq!(next(&mut listener).await, "the first");
    let kept: i64 =
        auth.one("select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()").await;
    assert_eq!(kept, 0, "the doorbell's lock was not given back");
}

#[tokio::test]
async fn a_relay_that_goes_to_sleep_misses_no_sign_up_that_is_under_way() {
    let app = App::migrated().await;
    let mut listener = listen(&app).await;
    let mut relay = app.login("sluice_runtime").await;
    let mut early = app.owner().await;
    early.run("begin").await;
    early.sign_up(Uuid::new_v4(), "{}").await.unwrap();

    relay.run("select pg_advisory_lock_shared(7318, 1)").await;
    let passed_by_the_early_one = relay.one::<bool>("select pg_try_advisory_lock(7318, 2)").await;
    early.run("commit").await;
    let waited = relay.one::<bool>("select pg_try_advisory_lock(7318, 2)").await;
    relay.run("select pg_advisory_unlock_shared(7318, 1)").await;
    app.sign_up(Uuid::new_v4()).await.unwrap();

    assert!(!passed_by_the_early_one, "a sign-up that notifies nobody is not committed yet");
    assert!(waited);
    assert_eq!(next(&mut listener).await, "", "a sign-up while a relay lies down notifies");
}

#[tokio::test]
async fn the_trace_of_the_app_is_kept_only_in_its_plain_form() {
    let app = App::migrated().await;
    let mut auth = app.login("supabase_auth_admin").await;
    let sampled = TRACE.replace("b7-00", "b7-01");
    let cases = [
        (TRACE.to_owned(), Some(TRACE.to_owned())),
        (sampled.clone(), Some(sampled)),
        (TRACE.to_uppercase(), None),
        (TRACE.replacen("00-", "01-", 1), None),
        (TRACE.replacen("00-", "ff-", 1), None),
        (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), None),
        (format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16)), None),
        (format!("{TRACE}-more"), None),
        (format!("{TRACE}\\n"), None),
        (String::new(), None),
        ("'; drop table public.profiles; --".to_owned(), None),
        ("x".repeat(1 << 20), None),
    ];

    for (given, kept) in cases {
        let user = Uuid::new_v4();
        auth.sign_up(user, &format!(r#"{{"traceparent":"{given}"}}"#)).await.unwrap();
        assert_eq!(traceparent(&app, user).await, kept, "given {given:.80}");
    }
    for metadata in ["null", "[]", "7", r#"{"traceparent":{"a":1}}"#, r#"{"traceparent":null}"#] {
        let user = Uuid::new_v4();
        auth.sign_up(user, metadata).await.unwrap();
        assert_eq!(traceparent(&app, user).await, None, "metadata {metadata}");
    }
}

#[tokio::test]
async fn the_trace_comes_from_the_metadata_else_the_headers_else_the_setting() {
    let app = App::migrated().await;
    let trace = |span: u8| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000{span:02}-01");
    let metadata = format!(r#"{{"traceparent":"{}"}}"#, trace(1));
    let headers = format!(r#"{{"host":"x","traceparent":"{}"}}"#, trace(2));
    let cases = [
        (metadata.as_str(), headers.as_str(), trace(3), Some(trace(1))),
        ("{}", headers.as_str(), trace(3), Some(trace(2))),
        (r#"{"traceparent":"nonsense"}"#, headers.as_str(), trace(3), Some(trace(2))),
        ("{}", "not json", trace(3), Some(trace(3))),
        ("{}", "", trace(3), Some(trace(3))),
        ("{}", "{}", "nonsense".to_owned(), None),
        ("{}", "{}", String::new(), None),
    ];

    for (metadata, headers, setting, kept) in cases {
        let user = Uuid::new_v4();
        let mut auth = app.login("supabase_auth_admin").await;
        auth.run(&format!("set request.headers = '{headers}'; set app.traceparent = '{setting}'")).await;
        auth.sign_up(user, metadata).await.unwrap();
        assert_eq!(traceparent(&app, user).await, kept, "metadata {metadata}, headers {headers}, setting {setting}");
    }
}

#[tokio::test]
async fn a_sign_up_waits_for_no_lock_on_the_queue() {
    let app = App::migrated().await;
    let mut holder = hold(&app, "lock table public.evolution_instance_creation_queue in access exclusive mode").await;
    let user = Uuid::new_v4();

    sign_up_promptly(&app, user).await;

    holder.run("rollback").await;
    assert_eq!(queued(&app, user).await, 0, "the finder's work");
}

#[tokio::test]
async fn a_sign_up_waits_for_no_lock_on_our_tables_and_is_queued() {
    let app = App::migrated().await;
    let mut holder = hold(&app, "lock table sluice.setting, sluice.audit in access exclusive mode").await;
    let user = Uuid::new_v4();

    sign_up_promptly(&app, user).await;

    holder.run("rollback").await;
    assert_eq!(queued(&app, user).await, 1);
}

#[tokio::test]
async fn a_sign_up_waits_for_no_uncommitted_row_of_the_same_user() {
    let app = App::migrated().await;
    let user = Uuid::new_v4();
    app.owner()
        .await
        .run("alter table public.evolution_instance_creation_queue drop constraint evolution_instance_creation_queue_profiles_fkey")
        .await;
    let row = format!("insert into public.evolution_instance_creation_queue (user_id) values ('{user}')");
    let mut holder = hold(&app, &row).await;

    sign_up_promptly(&app, user).await;

    holder.run("commit").await;
    assert_eq!(queued(&app, user).await, 1);
}

#[tokio::test]
async fn a_sign_up_survives_the_loss_of_what_is_ours() {
    let losses = [
        ("drop schema sluice cascade", 1),
        ("revoke all on schema sluice from app_postgres", 1),
        ("drop table sluice.setting", 1),
        ("drop function sluice.wake_intake()", 1),
        ("drop function sluice.sign_up_traceparent(uuid)", 1),
        ("revoke all on auth.users from app_postgres", 1),
        ("drop table public.evolution_instance_creation_queue", 0),
        ("alter table public.evolution_instance_creation_queue drop column traceparent", 0),
        ("alter table public.evolution_instance_creation_queue add column wanted int not null", 0),
        ("revoke all on public.evolution_instance_creation_queue from app_postgres", 0),
    ];
    for (loss, rows) in losses {
        let app = App::migrated().await;
        let user = Uuid::new_v4();
        app.superuser().await.run(loss).await;

        let signed_up = app.sign_up(user).await;

        assert!(signed_up.is_ok(), "after {loss}: {signed_up:?}");
        assert_eq!(profiles(&app, user).await, 1, "after {loss}");
        if !loss.starts_with("drop table public.") {
            assert_eq!(queued(&app, user).await, rows, "after {loss}");
        }
    }
}

#[tokio::test]
async fn the_rest_of_a_sign_up_keeps_its_own_settings() {
    let app = App::migrated().await;
    let mut owner = app.owner().await;
    owner.run("set lock_timeout = '7s'; begin").await;

    owner.sign_up(Uuid::new_v4(), "{}").await.unwrap();

    assert_eq!(owner.one::<String>("show lock_timeout").await, "7s");
    assert_eq!(owner.one::<String>("select current_setting('sluice.projecting')").await, "");
}

async fn sign_up_promptly(app: &App, user: Uuid) {
    let mut auth = app.login("supabase_auth_admin").await;
    let began = Instant::now();

    let signed_up = tokio::time::timeout(Duration::from_secs(20), auth.sign_up(user, "{}")).await;

    signed_up.expect("the sign-up does not wait for the lock").unwrap();
    // Three attempts of 50 ms at most, and the rest is for a busy machine; a lock's deadlock check
    // comes after 1 s.
    assert!(began.elapsed() < Duration::from_millis(900), "the sign-up took {:?}", began.elapsed());
    assert_eq!(profiles(app, user).await, 1);
}

/// A transaction that has run `statement` and stays open.
async fn hold(app: &App, statement: &str) -> Session {
    let mut holder = app.owner().await;
    holder.run("begin").await;
    holder.run(statement).await;
    holder
}

async fn queued(app: &App, user: Uuid) -> i64 {
    let count = format!("select count(*) from public.evolution_instance_creation_queue where user_id = '{user}'");
    app.superuser().await.one(&count).await
}

async fn profiles(app: &App, user: Uuid) -> i64 {
    app.superuser().await.one(&format!("select count(*) from public.profiles where id = '{user}'")).await
}

async fn traceparent(app: &App, user: Uuid) -> Option<String> {
    let kept = format!("select traceparent from public.evolution_instance_creation_queue where user_id = '{user}'");
    app.superuser().await.one(&kept).await
}

async fn listen(app: &App) -> PgListener {
    let pool = sqlx::PgPool::connect_with(app.options()).await.unwrap();
    let mut listener = PgListener::connect_with(&pool).await.unwrap();
    listener.listen("sluice_intake").await.unwrap();
    listener
}

async fn next(listener: &mut PgListener) -> String {
    let notification = tokio::time::timeout(Duration::from_secs(10), listener.recv()).await;
    notification.expect("a notification comes").unwrap().payload().to_owned()
}
