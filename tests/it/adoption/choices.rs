//! What the owner decides: whether sign-ups are queued at all, and which.

use uuid::Uuid;

use super::{NOBODY, TRIGGER, migrate, queued, sluice};
use crate::{
    app::{App, Session, another_workflows},
    program::{printed, said},
};

async fn trigger(session: &mut Session) -> String {
    session.one("select sluice.sign_up_trigger_state()").await
}

async fn lost(app: &App) -> Vec<Uuid> {
    app.login("sluice_runtime").await.all("select user_id from sluice.lost_sign_ups('100 years')").await
}

async fn recently_lost(app: &App) -> Vec<Uuid> {
    app.login("sluice_runtime").await.all("select user_id from sluice.lost_sign_ups('15 minutes')").await
}

async fn decide(app: &App, arguments: &[&str]) -> String {
    let arguments: Vec<_> = ["migrate"].iter().chain(arguments).copied().collect();
    let output = sluice(app, &arguments).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    printed(&output)
}

#[tokio::test]
async fn a_trigger_that_somebody_took_away_stays_away_and_nobody_is_queued_behind_it() {
    for (decision, state) in [
        (format!("drop trigger {TRIGGER} on public.profiles"), "dropped"),
        (format!("alter table public.profiles disable trigger {TRIGGER}"), "off"),
        (
            format!(
                "drop trigger {TRIGGER} on public.profiles;
                 create function public.mine() returns trigger language plpgsql as 'begin return null; end';
                 create trigger {TRIGGER} after insert on public.profiles for each row execute function public.mine()"
            ),
            "replaced",
        ),
    ] {
        let app = App::new().await;
        migrate(&app).await;
        let mut owner = app.owner().await;
        owner.run(&decision).await;

        let said = migrate(&app).await;
        app.sign_up(Uuid::new_v4()).await.unwrap();

        assert_eq!(trigger(&mut owner).await, state);
        assert!(
            said.contains(&format!("missing: trigger {TRIGGER}")) && said.contains("--sign-up-trigger on"),
            "{said}"
        );
        assert_eq!((queued(&mut owner).await, lost(&app).await), (vec![], vec![]), "{state}");
        // What is meant is said no more.
        assert!(!decide(&app, &["--sign-up-trigger", "off"]).await.contains("missing"), "{state}");
        decide(&app, &["--sign-up-trigger", "on"]).await;
        assert_eq!(trigger(&mut owner).await, "on", "{state}");
        assert_eq!(lost(&app).await, NOBODY, "who signed up while it was off is an older user");
        assert_eq!(owner.one::<i64>("select sluice.older_sign_ups()").await, 1);
    }
}

#[tokio::test]
async fn sign_ups_are_off_where_the_owner_says_so_from_the_first_day() {
    let app = App::new().await;

    decide(&app, &["--sign-up-trigger", "off"]).await;
    app.sign_up(Uuid::new_v4()).await.unwrap();
    migrate(&app).await;

    let mut owner = app.owner().await;
    assert_eq!((queued(&mut owner).await, lost(&app).await), (vec![], vec![]));
    assert_eq!(sluice(&app, &["migrate", "--check"]).await.status.code(), Some(0));
}

/// `auth.users` as a newer auth server has it.
async fn with_real_users() -> App {
    let app = App::new().await;
    app.superuser()
        .await
        .run(
            "alter table auth.users add column is_anonymous boolean not null default false,
               add column email_confirmed_at timestamptz, add column phone_confirmed_at timestamptz,
               add column updated_at timestamptz, add column last_sign_in_at timestamptz",
        )
        .await;
    app
}

async fn sign_up(app: &App, anonymous: bool, confirmed: bool) -> Uuid {
    let user = Uuid::new_v4();
    let at = if confirmed { "now()" } else { "null" };
    let mut auth = app.login("supabase_auth_admin").await;
    auth.run(&format!(
        "insert into auth.users (id, is_anonymous, email_confirmed_at) values ('{user}', {anonymous}, {at})"
    ))
    .await;
    user
}

#[tokio::test]
async fn only_whom_the_owner_wants_is_queued_at_the_sign_up_and_found_later() {
    for (arguments, wanted) in [
        (vec![], [true, true, true, true]),
        (vec!["--provision-anonymous", "off"], [true, true, false, false]),
        (vec!["--provision-when", "confirmed"], [true, false, true, false]),
        (vec!["--provision-when", "confirmed", "--provision-anonymous", "off"], [true, false, false, false]),
    ] {
        let app = with_real_users().await;
        decide(&app, &arguments).await;
        let mut owner = app.owner().await;
        let mut expected = Vec::new();
        for (number, (anonymous, confirmed)) in
            [(false, true), (false, false), (true, true), (true, false)].into_iter().enumerate()
        {
            let user = sign_up(&app, anonymous, confirmed).await;
            expected.extend(wanted[number].then_some(user));
        }
        expected.sort();

        assert_eq!(queued(&mut owner).await, expected, "{arguments:?}");
        owner.run("delete from public.evolution_instance_creation_queue").await;
        let mut found = lost(&app).await;
        found.sort();
        assert_eq!(found, expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn who_confirms_later_is_queued_at_that_moment_and_found_where_the_trigger_is_not_allowed() {
    for allowed in [true, false] {
        let app = with_real_users().await;
        if !allowed {
            app.superuser().await.run("revoke trigger on auth.users from app_postgres").await;
        }
        let said = decide(&app, &["--provision-when", "confirmed"]).await;
        let user = sign_up(&app, false, false).await;
        let mut auth = app.login("supabase_auth_admin").await;
        auth.run(&format!("update auth.users set last_sign_in_at = now(), updated_at = now() where id = '{user}'"))
            .await;
        let before = queued(&mut app.owner().await).await;

        // They signed up long ago, as far as the finder's window goes.
        app.owner().await.run("update public.profiles set created_at = now() - interval '3 days'").await;
        let lost_before = recently_lost(&app).await;
        auth.run(&format!("update auth.users set email_confirmed_at = now(), updated_at = now() where id = '{user}'"))
            .await;

        let now = queued(&mut app.owner().await).await;
        assert_eq!((before, lost_before), (vec![], vec![]));
        if allowed {
            assert_eq!(now, [user]);
        } else {
            assert!(said.contains("missing: trigger sluice_take_confirmation on auth.users"), "{said}");
            assert_eq!((now, recently_lost(&app).await), (vec![], vec![user]), "it looks each half minute");
        }
    }
}

/// The app has started another workflow for the same user.
#[tokio::test]
async fn who_has_a_run_of_another_workflow_is_queued_all_the_same() {
    let app = with_real_users().await;
    decide(&app, &["--provision-when", "confirmed"]).await;
    let mut owner = app.owner().await;
    let user = sign_up(&app, false, false).await;
    owner.run(&another_workflows(user)).await;

    let mut auth = app.login("supabase_auth_admin").await;
    auth.run(&format!("update auth.users set email_confirmed_at = now(), updated_at = now() where id = '{user}'"))
        .await;

    assert_eq!(queued(&mut owner).await, [user]);
    owner.run("delete from public.evolution_instance_creation_queue").await;
    assert_eq!(lost(&app).await, [user]);
}

/// What cannot be read cannot be judged: everybody gets an instance, and `migrate` says so.
#[tokio::test]
async fn where_the_auth_servers_users_cannot_be_read_nobody_is_left_out() {
    let app = with_real_users().await;
    app.superuser().await.run("revoke select on auth.users from app_postgres").await;

    let said = decide(&app, &["--provision-when", "confirmed"]).await;
    let user = sign_up(&app, false, false).await;

    assert!(said.contains("missing: the right to read auth.users: "), "{said}");
    assert_eq!(queued(&mut app.owner().await).await, [user]);
}

#[tokio::test]
async fn a_choice_that_is_not_given_stays_and_one_that_is_taken_back_is_gone() {
    let app = with_real_users().await;
    decide(&app, &["--provision-anonymous", "off"]).await;
    let mut owner = app.owner().await;

    migrate(&app).await;
    sign_up(&app, true, true).await;
    let kept = queued(&mut owner).await;
    decide(&app, &["--provision-anonymous", "on"]).await;
    let user = sign_up(&app, true, true).await;

    assert_eq!(kept, NOBODY);
    assert_eq!(queued(&mut owner).await, [user]);
    let arguments: String =
        owner.one(&format!("select pg_get_triggerdef(oid) from pg_trigger where tgname = '{TRIGGER}'")).await;
    assert!(arguments.ends_with("handle_profile_evolution_instance()"), "the sign-up looks up nothing: {arguments}");
}
