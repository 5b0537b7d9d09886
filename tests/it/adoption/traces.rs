//! Sign-ups that the trigger missed: the finder gives them what the trigger would have, and finds
//! them however old they look.

use uuid::Uuid;

use super::{NOBODY, QUEUE, TRIGGER, queued};
use crate::app::{App, existing_user};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn lost(app: &App, since: &str) -> Vec<Uuid> {
    let lost = format!("select user_id from sluice.lost_sign_ups('{since}')");
    app.login("sluice_runtime").await.all(&lost).await
}

/// A sign-up while the queue is locked: the trigger gives up.
async fn sign_up_unseen(app: &App, user: Uuid, metadata: &str) {
    let mut holder = app.owner().await;
    holder.run(&format!("begin; lock table {QUEUE} in access exclusive mode")).await;
    app.login("supabase_auth_admin").await.sign_up(user, metadata).await.unwrap();
    holder.run("rollback").await;
    assert_eq!(queued(&mut app.owner().await).await, NOBODY);
}

#[tokio::test]
async fn a_sign_up_that_the_finder_picks_up_keeps_its_trace() {
    let app = App::migrated().await;
    let user = Uuid::new_v4();
    sign_up_unseen(&app, user, &format!(r#"{{"traceparent":"{TRACE}"}}"#)).await;

    assert_eq!(lost(&app, "15 minutes").await, [user]);
    let mut services = app.login("sluice_runtime").await;
    let made = services.one::<i64>(&format!("select sluice.queue_sign_up('{user}')")).await;
    let again = services.one::<i64>(&format!("select sluice.queue_sign_up('{user}')")).await;

    assert_eq!((made, again), (1, 0));
    assert_eq!(services.one::<String>(&format!("select traceparent from {QUEUE}")).await, TRACE);
    assert_eq!(lost(&app, "100 years").await, NOBODY);
    assert_eq!(services.one::<i64>("select count(*) from sluice.audit").await, 0, "it is no hand-made SQL");
}

/// A user who is older than the adoption, and whose profile is made later, on profiles that keep no
/// moment.
#[tokio::test]
async fn an_old_users_profile_that_is_made_now_is_found() {
    let app = App::new().await;
    let mut owner = app.owner().await;
    let mut superuser = app.superuser().await;
    owner.run("alter table public.profiles drop column created_at").await;
    superuser.run("alter table auth.users disable trigger on_auth_user_created").await;
    let user = Uuid::new_v4();
    superuser
        .run(&format!("insert into auth.users (id, created_at) values ('{user}', now() - interval '2 years')"))
        .await;
    app.migrate().await;
    let mut holder = app.owner().await;
    holder.run(&format!("begin; lock table {QUEUE} in access exclusive mode")).await;
    owner.run(&format!("insert into public.profiles (id) values ('{user}')")).await;
    holder.run("rollback").await;

    assert_eq!(lost(&app, "100 years").await, [user]);
}

#[tokio::test]
async fn a_moment_that_a_user_forges_or_leaves_out_hides_nobody() {
    let app = App::migrated().await;
    let mut owner = app.owner().await;
    owner.run("alter table public.profiles alter column created_at drop not null").await;
    for (moment, since) in [("'0001-01-01'", "100 years"), ("'-infinity'", "100 years"), ("null", "15 minutes")] {
        let user = Uuid::new_v4();
        sign_up_unseen(&app, user, "{}").await;
        owner.run(&format!("update public.profiles set created_at = {moment}")).await;

        assert_eq!(lost(&app, since).await, [user], "{moment}");
        owner.run("delete from public.profiles").await;
    }
}

#[tokio::test]
async fn whom_the_first_migration_found_is_not_started_even_with_a_new_profile() {
    let app = App::existing().await;
    let mut owner = app.owner().await;
    owner.run(&format!("delete from {QUEUE}; delete from public.evolution_instances")).await;
    app.migrate().await;
    let user = existing_user(1);

    owner.run(&format!("alter table public.profiles disable trigger {TRIGGER}")).await;
    owner
        .run(&format!(
            "delete from public.profiles where id = '{user}'; insert into public.profiles (id) values ('{user}')"
        ))
        .await;
    owner.run(&format!("alter table public.profiles enable trigger {TRIGGER}")).await;

    assert_eq!(lost(&app, "15 minutes").await, NOBODY);
    assert_eq!(lost(&app, "100 years").await, NOBODY);
    assert_eq!(owner.one::<i64>("select sluice.older_sign_ups()").await, 11);
}
