//! The migrations on databases that are not as expected: changed by hand, half there, or not
//! Supabase's at all. What is the app's stays, what is broken is reported, and sign-ups are queued
//! all the same.

use uuid::Uuid;

use crate::{
    app::{App, Session, existing_user},
    program::{printed, run, said, url_of},
};

#[tokio::test]
async fn a_status_column_of_the_apps_own_is_left_alone_and_noted() {
    let app = App::existing().await;
    let mut owner = app.owner().await;
    owner.run("alter table public.evolution_instances add column status text default 'mine'").await;

    app.migrate().await;

    owner.run("update public.evolution_instances set instance_status = 'connected'").await;
    assert_eq!(owner.one::<String>("select distinct status from public.evolution_instances").await, "mine");
    assert_eq!(setting(&mut owner, "instances_status_column").await, "of the app");
}

#[tokio::test]
async fn an_instances_table_that_says_only_status_gets_the_other_column() {
    let app = App::new().await;
    let mut owner = app.owner().await;
    owner
        .run(
            "create table public.evolution_instances (
                id uuid primary key,
                user_id uuid not null,
                instance_name text not null,
                status text,
                webhook_url text not null
            )",
        )
        .await;

    app.migrate().await;

    let user = Uuid::new_v4();
    app.sign_up(user).await.unwrap();
    owner
        .run(&format!(
            "insert into public.evolution_instances (user_id, instance_name, webhook_url) values ('{user}', 'n', 'u')"
        ))
        .await;
    assert_eq!(owner.one::<String>("select instance_status from public.evolution_instances").await, "creating");
    let twice = format!(
        "insert into public.evolution_instances (user_id, instance_name, webhook_url) values ('{user}', 'm', 'u')"
    );
    assert_eq!(owner.refusal(&twice).await, "23505");
}

#[tokio::test]
async fn a_check_that_forbids_a_status_of_the_guide_is_replaced_and_a_wider_one_stays() {
    let queue = "public.evolution_instance_creation_queue";
    let check = "evolution_instance_creation_queue_status_check";
    for (states, kept) in [
        ("'pending', 'completed', 'failed'", false),
        ("'pending', 'processing', 'completed', 'failed', 'skipped'", true),
    ] {
        let app = App::new().await;
        let mut owner = app.owner().await;
        owner
            .run(&format!("create table {queue} (id uuid, user_id uuid not null, status text constraint {check} check (status in ({states})))"))
            .await;

        app.migrate().await;

        let user = Uuid::new_v4();
        app.sign_up(user).await.unwrap();
        owner.run(&format!("update {queue} set status = 'processing'")).await;
        let skipped = owner.attempt(&format!("update {queue} set status = 'skipped'")).await;
        assert_eq!(skipped.is_ok(), kept, "with check ({states})");
    }
}

#[tokio::test]
async fn rows_that_break_a_key_or_a_check_stay_and_new_ones_may_not() {
    let app = App::existing().await;
    let mut owner = app.owner().await;
    let queue = "public.evolution_instance_creation_queue";
    owner.run(&format!("alter table {queue} drop constraint evolution_instance_creation_queue_status_check")).await;
    owner.run(&format!("update {queue} set status = 'odd' where user_id = '{}'", existing_user(10))).await;

    app.migrate().await;

    assert_eq!(owner.one::<i64>(&format!("select count(*) from {queue}")).await, 12);
    assert_eq!(owner.refusal(&format!("insert into {queue} (user_id) values (gen_random_uuid())")).await, "23503");
    assert_eq!(owner.refusal(&format!("update {queue} set status = 'odd'")).await, "23514");
    // The row of the user whose profile is gone can still be worked on; without it the key is
    // whole.
    let key =
        "select convalidated from pg_constraint where conname = 'evolution_instance_creation_queue_profiles_fkey'";
    assert!(!owner.one::<bool>(key).await);
    owner.run(&format!("update {queue} set status = 'failed' where user_id = '{}'", existing_user(12))).await;
    owner.run(&format!("delete from {queue} where user_id = '{}'", existing_user(12))).await;
    app.migrate().await;
    assert!(owner.one::<bool>(key).await);
}

#[tokio::test]
async fn two_rows_of_one_user_do_not_stop_the_migration_nor_later_sign_ups() {
    let app = App::existing().await;
    let mut owner = app.owner().await;
    let queue = "public.evolution_instance_creation_queue";
    owner.run(&format!("alter table {queue} drop constraint evolution_instance_creation_queue_user_id_key")).await;
    owner
        .run(&format!(
            "insert into {queue} (user_id, request_id, status) select user_id, request_id, status from {queue}"
        ))
        .await;

    app.migrate().await;

    app.sign_up(Uuid::new_v4()).await.unwrap();
    assert_eq!(owner.one::<i64>(&format!("select count(*) from {queue}")).await, 25);
}

#[tokio::test]
async fn without_profiles_the_migration_waits_for_a_second_run() {
    let app = App::new().await;
    let mut owner = app.owner().await;
    owner.run("alter table public.profiles rename to people").await;
    app.migrate().await;
    let key = "select confrelid::regclass::text from pg_constraint where contype = 'f' and conrelid = 'public.evolution_instances'::regclass";
    assert_eq!(owner.all::<String>(key).await, ["auth.users"]);
    let adopted_at = setting(&mut owner, "adopted_at").await;

    owner.run("alter table public.people rename to profiles").await;
    app.migrate().await;

    let user = Uuid::new_v4();
    app.sign_up(user).await.unwrap();
    assert_eq!(owner.all::<Uuid>("select user_id from public.evolution_instance_creation_queue").await, [user]);
    assert_eq!(setting(&mut owner, "adopted_at").await, adopted_at);
}

#[tokio::test]
async fn a_database_that_is_not_supabases_is_migrated_too() {
    let app = App::bare().await;
    let mut superuser = app.superuser().await;
    // The role is the cluster's and may have been made by a test beside this one.
    superuser.run("do $$ begin create role app_postgres login createrole createdb bypassrls; exception when others then null; end $$").await;
    let database: String = superuser.one("select current_database()::text").await;
    superuser.run(&format!("alter database {database} owner to app_postgres")).await;

    app.migrate().await;
    app.migrate().await;

    superuser.run("insert into public.evolution_instance_creation_queue (user_id) values (gen_random_uuid())").await;
    assert_eq!(superuser.all::<String>("select action from sluice.audit").await, ["queue.insert"]);
}

#[tokio::test]
async fn a_trigger_that_somebody_disabled_stays_so_and_a_foreign_one_of_its_name_is_replaced() {
    let app = App::existing().await;
    let mut owner = app.owner().await;
    let name = "on_profile_created_create_evolution_instance";
    owner.run(&format!("alter table public.profiles disable trigger {name}")).await;
    app.migrate().await;
    assert_eq!(owner.one::<i8>(&format!("select tgenabled from pg_trigger where tgname = '{name}'")).await, b'D' as i8);

    owner.run(&format!("drop trigger {name} on public.profiles")).await;
    owner.run(&format!("create trigger {name} after insert on public.profiles for each row execute function public.handle_new_user()")).await;
    app.migrate().await;

    let user = Uuid::new_v4();
    app.sign_up(user).await.unwrap();
    let queued = format!("select count(*) from public.evolution_instance_creation_queue where user_id = '{user}'");
    assert_eq!(owner.one::<i64>(&queued).await, 1);
}

#[tokio::test]
async fn instances_without_a_moment_or_with_an_unknown_status_are_adopted_with_name_and_token() {
    let app = App::new().await;
    let mut owner = app.owner().await;
    let users = [Uuid::new_v4(), Uuid::new_v4()];
    owner
        .run(
            "create table public.evolution_instances (
                id uuid primary key default gen_random_uuid(),
                user_id uuid not null unique,
                instance_name text not null unique,
                instance_status text,
                instance_token text,
                webhook_url text not null
            )",
        )
        .await;
    for (user, status) in users.iter().zip(["'weird'", "null"]) {
        app.superuser().await.sign_up(*user, "{}").await.unwrap();
        owner
            .run(&format!(
                "insert into public.evolution_instances (user_id, instance_name, instance_status, instance_token, webhook_url)
                 values ('{user}', 'user_{user}', {status}, 'token-of-{user}', 'u')"
            ))
            .await;
    }

    app.migrate().await;
    app.migrate().await;

    let mut adopted: Vec<String> = owner
        .all("select concat_ws(' ', name, secret, memory ->> 'status', memory ->> 'imported') from sluice.resource")
        .await;
    adopted.sort();
    let mut expected = users.map(|user| format!("user_{user} token-of-{user} creating true"));
    expected.sort();
    assert_eq!(adopted, expected);
}

async fn setting(session: &mut Session, name: &str) -> String {
    session.one(&format!("select value from sluice.setting where name = '{name}'")).await
}

/// `to_regclass('auth.users')` raises for a role without usage of the schema.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_owner_may_not_use_schema_auth_is_migrated_and_serves_sign_ups_and_says_what_is_missing() {
    for profiles_have_moments in [true, false] {
        let app = App::new().await;
        let mut superuser = app.superuser().await;
        superuser.run("revoke usage on schema auth from public, app_postgres").await;
        if !profiles_have_moments {
            superuser.run("alter table public.profiles drop column created_at").await;
        }
        let (queued, lost) = (Uuid::new_v4(), Uuid::new_v4());

        let migrated = run(&["migrate", "--provision-when", "created"], &[("DATABASE_URL", &url_of(&app))]).await;
        app.sign_up(queued).await.unwrap();
        app.sign_up(lost).await.unwrap();
        superuser.run(&format!("delete from public.evolution_instance_creation_queue where user_id = '{lost}'")).await;

        assert_eq!(migrated.status.code(), Some(0), "{}{}", printed(&migrated), said(&migrated));
        let mend = "as its owner: grant usage on schema auth to app_postgres";
        assert!(printed(&migrated).contains("missing: usage of schema auth: "), "{}", printed(&migrated));
        assert!(printed(&migrated).contains(mend), "{}", printed(&migrated));
        let rows = "select user_id from public.evolution_instance_creation_queue";
        assert_eq!(superuser.all::<Uuid>(rows).await, [queued]);
        let mut services = app.login("sluice_runtime").await;
        let found: Vec<Uuid> = services.all("select user_id from sluice.lost_sign_ups('15 minutes')").await;
        assert_eq!(found, [lost]);
        assert_eq!(services.one::<i64>(&format!("select sluice.queue_sign_up('{lost}')")).await, 1);
        let gone = format!("select sluice.gone_users(array['{queued}'])");
        assert_eq!(services.one::<Vec<String>>(&gone).await, [""; 0]);

        superuser.run("grant usage on schema auth to app_postgres").await;
        let again = run(&["migrate"], &[("DATABASE_URL", &url_of(&app))]).await;
        assert!(!printed(&again).contains("missing"), "{}", printed(&again));
    }
}
