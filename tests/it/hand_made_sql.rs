//! SQL that somebody writes on the queue table: it is kept who did it, a budget set to zero is
//! passed on, intake wakes, and the statement itself neither fails nor waits because of that. And
//! on a gate: it counts as closed from then on.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use uuid::Uuid;

use crate::app::{App, existing_user};

const QUEUE: &str = "public.evolution_instance_creation_queue";

#[tokio::test]
async fn every_change_by_hand_is_kept_with_who_and_what() {
    let app = App::adopted().await;
    let mut owner = app.owner().await;
    let user = existing_user(4);
    owner.run("set application_name = 'SQL editor'").await;

    owner.run(&format!("update {QUEUE} set status = 'pending', error_message = 'hush' where user_id = '{user}'")).await;
    owner.run(&format!("delete from {QUEUE} where user_id = '{user}'")).await;
    owner.run(&format!("insert into {QUEUE} (user_id) values ('{user}')")).await;

    let kept: Vec<Value> = owner
        .all("select jsonb_build_object('actor', actor, 'action', action, 'subject', subject, 'detail', detail) from sluice.audit order by id")
        .await;
    let entry = |action: &str, change: Value| {
        let mut detail = json!({"application_name": "SQL editor", "session_user": "app_postgres"});
        detail.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"actor": "app_postgres", "action": action, "subject": user, "detail": detail})
    };
    let failed = json!({"status": "failed", "retry_count": 3});
    let pending = json!({"status": "pending", "retry_count": 3});
    assert_eq!(
        kept,
        [
            entry("queue.update", json!({"before": failed, "after": pending})),
            entry("queue.delete", json!({"before": pending})),
            entry("queue.insert", json!({"after": {"status": "pending", "retry_count": 0}})),
        ]
    );
}

#[tokio::test]
async fn the_actor_is_whom_the_api_verified_else_who_logged_in() {
    let user = existing_user(4);
    let cases = [
        (format!(r#"{{"sub":"{user}","role":"authenticated"}}"#), user.to_string()),
        (r#"{"role":"service_role"}"#.to_owned(), "service_role".to_owned()),
        (r#"{"sub":"","role":""}"#.to_owned(), "app_postgres".to_owned()),
        ("not json".to_owned(), "app_postgres".to_owned()),
        ("[]".to_owned(), "app_postgres".to_owned()),
        (String::new(), "app_postgres".to_owned()),
    ];
    let app = App::adopted().await;

    for (claims, actor) in cases {
        let mut session = app.owner().await;
        session.run("truncate sluice.audit").await;
        session.run(&format!("set request.jwt.claims = '{claims}'")).await;
        session.run(&format!("update {QUEUE} set status = 'failed' where user_id = '{user}'")).await;

        assert_eq!(session.all::<String>("select actor from sluice.audit").await, [actor], "claims {claims}");
    }
}

#[tokio::test]
async fn what_sluice_writes_itself_is_not_kept_as_hand_made() {
    let app = App::adopted().await;
    let mut owner = app.owner().await;

    owner
        .run(&format!(
            "begin; set local sluice.projecting = 'on'; update {QUEUE} set status = 'pending', retry_count = 0; commit"
        ))
        .await;
    let ours: i64 =
        owner.one("select (select count(*) from sluice.audit) + (select count(*) from sluice.budget_reset)").await;
    owner.run(&format!("update {QUEUE} set status = 'failed'")).await;

    assert_eq!(ours, 0);
    assert_eq!(owner.one::<i64>("select count(*) from sluice.audit").await, 12);
}

#[tokio::test]
async fn a_budget_set_to_zero_is_passed_on_where_something_was_spent() {
    let app = App::adopted().await;
    let mut owner = app.owner().await;

    owner.run(&format!("update {QUEUE} set retry_count = 2 where user_id = '{}'", existing_user(11))).await;
    owner
        .run(&format!(
            "update {QUEUE} set retry_count = 0 where user_id in ('{}', '{}')",
            existing_user(5),
            existing_user(11)
        ))
        .await;
    owner.run(&format!("update {QUEUE} set retry_count = null where user_id = '{}'", existing_user(4))).await;

    let reset: Vec<Uuid> = owner.all("select subject from sluice.budget_reset order by id").await;
    assert_eq!(reset, [existing_user(11), existing_user(4)]);
}

#[tokio::test]
async fn pending_by_hand_wakes_intake_and_nothing_else_does() {
    let app = App::adopted().await;
    let mut owner = app.owner().await;
    let pool = sqlx::PgPool::connect_with(app.options()).await.unwrap();
    let mut listener = PgListener::connect_with(&pool).await.unwrap();
    listener.listen("sluice_intake").await.unwrap();
    let mut relay = app.login("sluice_runtime").await;
    relay.run("select pg_advisory_lock_shared(7318, 1)").await;

    owner.run(&format!("update {QUEUE} set status = 'failed' where user_id = '{}'", existing_user(8))).await;
    owner.run(&format!("delete from {QUEUE} where user_id = '{}'", existing_user(12))).await;
    owner.run("notify sluice_intake, 'nothing before'").await;
    owner.run(&format!("update {QUEUE} set status = 'pending' where user_id = '{}'", existing_user(8))).await;

    for expected in ["nothing before", ""] {
        let heard = tokio::time::timeout(Duration::from_secs(10), listener.recv()).await;
        assert_eq!(heard.expect("a notification comes").unwrap().payload(), expected);
    }
}

#[tokio::test]
async fn a_statement_by_hand_survives_the_loss_of_what_is_ours() {
    let losses = [
        "drop schema sluice cascade",
        "drop table sluice.audit",
        "drop table sluice.budget_reset",
        "drop function sluice.wake_intake()",
        "revoke all on schema sluice from app_postgres",
        "alter table sluice.audit add column wanted int not null",
    ];
    for loss in losses {
        let app = App::adopted().await;
        app.superuser().await.run(loss).await;

        let mut owner = app.owner().await;
        let reset = owner.attempt(&format!("update {QUEUE} set status = 'pending', retry_count = 0")).await;

        assert_eq!(reset.expect(loss), 12, "after {loss}");
    }
}

#[tokio::test]
async fn a_statement_by_hand_waits_for_no_lock_on_our_tables() {
    let app = App::adopted().await;
    let mut holder = app.owner().await;
    holder.run("begin; lock table sluice.setting, sluice.audit, sluice.budget_reset in access exclusive mode").await;
    let mut owner = app.owner().await;
    let reset =
        format!("update {QUEUE} set status = 'pending', retry_count = 0 where user_id = '{}'", existing_user(11));

    let done = tokio::time::timeout(Duration::from_secs(20), owner.attempt(&reset)).await;

    assert_eq!(done.expect("the statement does not wait for our tables").unwrap(), 1);
    holder.run("rollback").await;
}

#[tokio::test]
async fn a_user_who_goes_takes_the_rows_along_and_it_is_kept_who_said_so() {
    let app = App::adopted().await;
    let user = existing_user(1);

    app.login("supabase_auth_admin").await.run(&format!("delete from auth.users where id = '{user}'")).await;

    let mut owner = app.owner().await;
    let left = format!(
        "select (select count(*) from {QUEUE} where user_id = '{user}') + (select count(*) from public.evolution_instances where user_id = '{user}')"
    );
    assert_eq!(owner.one::<i64>(&left).await, 0);
    let kept: String = owner.one("select concat_ws(' ', actor, action, subject) from sluice.audit").await;
    assert_eq!(kept, format!("supabase_auth_admin queue.delete {user}"));
}

#[tokio::test]
async fn a_gate_that_is_put_in_closed_counts_as_closed_until_it_is_opened() {
    let app = App::adopted().await;
    let mut owner = app.owner().await;

    owner
        .run(
            "insert into sluice.gate (scope, name, paused_at, hold_until, breaker, breaker_cause) values
               ('workflow', 'paused', now(), null, 'closed', null),
               ('step', 'held', null, now() + interval '1 hour', 'closed', null),
               ('host', 'broken', null, null, 'open', 'outage'),
               ('host', 'open', null, null, 'closed', null)",
        )
        .await;

    let closures =
        "select name || ' ' || cause || ' ' || coalesce(passed_at > now(), true) from sluice.closed_time order by 1";
    let closed: Vec<String> = owner.all(closures).await;
    assert_eq!(closed, ["broken breaker true", "held hold true", "paused pause true"]);
    owner
        .run("update sluice.gate set paused_at = null, hold_until = null, breaker = 'closed', breaker_cause = null")
        .await;
    let closed: Vec<String> = owner.all(closures).await;
    assert_eq!(closed, ["broken breaker false", "held hold false", "paused pause false"]);
}
