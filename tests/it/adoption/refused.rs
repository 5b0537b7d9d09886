//! A database that cannot be built on: all of it is said at once, and nothing is changed. And rows
//! that are not as expected: whatever became of the tables, no trigger of ours raises.

use uuid::Uuid;

use super::{INSTANCES, QUEUE, migrate, queued, sluice};
use crate::{app::App, program::said};

/// All of ours that could stand in the database or be at work there.
const TRACES_OF_US: &str = "
    select concat_ws(' ',
      (select count(*) from pg_namespace where nspname = 'sluice'),
      (select count(*) from pg_class where relname like 'evolution%'),
      (select count(*) from pg_proc where proname = 'handle_profile_evolution_instance'),
      (select count(*) from pg_trigger where not tgisinternal),
      (select string_agg(attrelid::regclass || '.' || attname, ' ' order by attrelid, attnum)
       from pg_attribute where attrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)))";

#[tokio::test]
async fn a_database_that_does_not_fit_is_refused_whole_and_sign_ups_go_on() {
    let cases = [
        (
            "create table public.profiles (id bigint generated always as identity primary key, email text)",
            "insert into public.profiles (email) values ('a')",
            "no column that holds the user's id as uuid (id is bigint)",
        ),
        (
            "create table public.profiles (id text primary key, email text)",
            "insert into public.profiles (id) values ('a')",
            "no column that holds the user's id as uuid (id is text)",
        ),
        (
            "create table public.people (id uuid); create view public.profiles as select * from public.people",
            "insert into public.profiles (id) values (gen_random_uuid())",
            "public.profiles is no table",
        ),
        (
            "create table public.profiles (id uuid primary key); reset role; alter table public.profiles owner to supabase_auth_admin",
            "insert into public.profiles (id) values (gen_random_uuid())",
            "grant trigger, references, select on public.profiles to app_postgres",
        ),
        (
            "create table public.profiles (id uuid primary key);
             create table public.evolution_instances (user_id text, instance_name text, wanted int not null)",
            "insert into public.profiles (id) values (gen_random_uuid())",
            "public.evolution_instances.user_id is text",
        ),
        (
            "create table public.profiles (id uuid primary key);
             create type public.state as enum ('pending', 'processing', 'completed', 'failed');
             create table public.evolution_instance_creation_queue (user_id uuid, status public.state)",
            "insert into public.profiles (id) values (gen_random_uuid())",
            "public.evolution_instance_creation_queue.status is public.state. To mend it: make it text",
        ),
    ];
    for (table, sign_up, problem) in cases {
        let app = App::new().await;
        let mut superuser = app.superuser().await;
        superuser.run("drop table public.profiles cascade; drop trigger on_auth_user_created on auth.users").await;
        superuser.run(&table.replace("create table", "set role app_postgres; create table")).await;
        superuser.run("reset role").await;
        let before: String = superuser.one(TRACES_OF_US).await;

        let refused = sluice(&app, &["migrate"]).await;

        assert_eq!(refused.status.code(), Some(1), "{table}");
        assert!(said(&refused).contains(problem), "{table}: {}", said(&refused));
        assert_eq!(superuser.one::<String>(TRACES_OF_US).await, before, "{table}");
        superuser.run(sign_up).await;
    }
}

#[tokio::test]
async fn everything_that_does_not_fit_is_said_at_once_and_each_once() {
    let app = App::new().await;
    app.owner()
        .await
        .run(
            "drop table public.profiles cascade;
             create table public.profiles (id int);
             create table public.evolution_instances (user_id text, instance_name text, wanted int not null)",
        )
        .await;

    let refused = said(&sluice(&app, &["migrate"]).await);

    let problems = [
        "public.profiles has no column that holds the user's id as uuid (id is integer)",
        "public.evolution_instances has no column webhook_url",
        "public.evolution_instances.user_id is text",
        "public.evolution_instances.wanted may not be null and has no default",
    ];
    for problem in problems {
        assert_eq!(refused.matches(problem).count(), 1, "{problem} in: {refused}");
    }
    assert!(!refused.contains("line "), "{refused}");
}

#[tokio::test]
async fn a_file_that_fails_in_the_middle_leaves_nothing_of_any_file() {
    let app = App::new().await;
    let mut owner = app.owner().await;
    owner.run("create schema sluice; create table sluice.audit (id int)").await;

    let failed = sluice(&app, &["migrate"]).await;

    assert_eq!(failed.status.code(), Some(1));
    assert!(
        said(&failed).contains("migration 20261122000004 hand made sql: the database answered"),
        "{}",
        said(&failed)
    );
    let left: Vec<String> =
        owner.all("select relname::text from pg_class where relnamespace = 'sluice'::regnamespace").await;
    assert_eq!(left, ["audit"]);
    app.sign_up(Uuid::new_v4()).await.unwrap();
    owner.run("drop schema sluice cascade").await;
    migrate(&app).await;
}

#[tokio::test]
async fn profiles_with_a_key_of_another_name_are_built_on() {
    for (key, refers) in [("user_id", ""), ("owner", "references auth.users (id)")] {
        let app = App::new().await;
        let mut superuser = app.superuser().await;
        superuser.run("drop table public.profiles cascade; drop trigger on_auth_user_created on auth.users").await;
        let mut owner = app.owner().await;
        let grant = "grant references on auth.users to app_postgres";
        superuser.run(grant).await;
        owner.run(&format!("create table public.profiles ({key} uuid primary key {refers}, email text)")).await;
        migrate(&app).await;
        let user = Uuid::new_v4();
        superuser.run(&format!("insert into auth.users (id) values ('{user}')")).await;

        owner.run(&format!("insert into public.profiles ({key}) values ('{user}')")).await;

        assert_eq!(queued(&mut owner).await, [user], "{key}");
        owner.run(&format!("delete from {QUEUE}")).await;
        let lost = "select user_id from sluice.lost_sign_ups('1 hour')";
        assert_eq!(app.login("sluice_runtime").await.all::<Uuid>(lost).await, [user], "{key}");
    }
}

#[tokio::test]
async fn no_trigger_of_ours_raises_whatever_was_renamed_since() {
    let renames = [
        ("alter table public.profiles rename id to person", 1),
        (&*format!("alter table {QUEUE} rename user_id to person"), 0),
        (&*format!("alter table {QUEUE} rename status to state"), 1),
        (&*format!("alter table {QUEUE} rename retry_count to tries"), 1),
        (&*format!("alter table {INSTANCES} rename instance_status to state"), 1),
        (&*format!("alter table {INSTANCES} rename status to old_status"), 1),
    ];
    for (rename, rows) in renames {
        let app = App::migrated().await;
        let mut owner = app.owner().await;
        let mut superuser = app.superuser().await;
        superuser.run("drop trigger on_auth_user_created on auth.users").await;
        owner.run(rename).await;
        let user = Uuid::new_v4();
        superuser.run(&format!("insert into auth.users (id) values ('{user}')")).await;

        owner.run(&format!("insert into public.profiles values ('{user}')")).await;

        let there = format!("select count(*) from {QUEUE}");
        assert_eq!(superuser.one::<i64>(&there).await, rows, "after {rename}");
        owner.run(&format!("update {QUEUE} set error_message = 'by hand'")).await;
        owner.run(&format!("delete from {QUEUE}")).await;
        owner
            .run(&format!("insert into {INSTANCES} (user_id, instance_name, webhook_url) values ('{user}', 'n', 'u')"))
            .await;
        owner.run(&format!("update {INSTANCES} set webhook_url = 'v'")).await;
    }
}
