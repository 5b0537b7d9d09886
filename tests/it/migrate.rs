//! The migrations on a new database, on one of the replaced set-up, and on ones that somebody changed by hand.

use uuid::Uuid;

use crate::app::{App, Session, existing_user};

/// All that the migrations may have made or changed in the catalogue, a line each. Grants are sorted: granting again
/// may move them.
const SHAPE: &str = "
    with relation as (
      select *
      from pg_class
      where relnamespace in ('public'::regnamespace, 'sluice'::regnamespace)
    ), line (text) as (
      select format('%s.%s %s', attrelid::regclass, attname, concat_ws(' ', atttypid::regtype, attnotnull, attgenerated, pg_get_expr(adbin, adrelid)))
      from pg_attribute
      left join pg_attrdef on adrelid = attrelid and adnum = attnum
      where attrelid in (select oid from relation) and attnum > 0
      union all
      select format('%s %s %s %s', conrelid::regclass, conname, convalidated, pg_get_constraintdef(oid))
      from pg_constraint
      where conrelid in (select oid from relation)
      union all
      select pg_get_indexdef(oid)
      from relation
      where relkind = 'i'
      union all
      select format('%s %s', tgenabled, pg_get_triggerdef(oid))
      from pg_trigger
      where not tgisinternal
      union all
      select concat_ws(' ', tablename, policyname, permissive, roles, cmd, qual, with_check)
      from pg_policies
      union all
      select format('%s %s %s', oid::regclass, relrowsecurity, reloptions)
      from relation
      union all
      select format('%s %s', oid::regclass, unnest(relacl))
      from relation
      union all
      select format('%s %s %s', oid::regprocedure, unnest(proacl), md5(prosrc))
      from pg_proc
      where pronamespace in ('public'::regnamespace, 'sluice'::regnamespace)
      union all
      select format('%s %s', nspname, unnest(nspacl))
      from pg_namespace
      union all
      select concat_ws(' ', name, value)
      from sluice.setting
      union all
      select concat_ws(' ', pubname, schemaname, tablename)
      from pg_publication_tables
    )
    select text
    from line
    order by text collate \"C\"";

/// The rows of the replaced set-up, all columns that it knew.
const ROWS: &str = "
    select string_agg(line, E'\\n' order by line)
    from (
      select row (id, user_id, request_id, status, error_message, retry_count, created_at, updated_at, processed_at)::text
      from public.evolution_instance_creation_queue
      union all
      select row (id, user_id, instance_name, instance_status, qr_code, phone_number, webhook_url, last_qr_update, created_at, updated_at, instance_token)::text
      from public.evolution_instances
      union all
      select conversations::text
      from public.conversations
    ) as rows (line)";

#[tokio::test]
async fn a_second_migration_changes_nothing() {
    for app in [App::new().await, App::existing().await] {
        app.migrate().await;
        let mut owner = app.owner().await;
        let first: Vec<String> = owner.all(SHAPE).await;

        app.migrate().await;

        let second: Vec<String> = owner.all(SHAPE).await;
        let changed: Vec<_> = first.iter().filter(|line| !second.contains(line)).collect();
        let added: Vec<_> = second.iter().filter(|line| !first.contains(line)).collect();
        assert!(changed.is_empty() && added.is_empty(), "changed: {changed:#?} added: {added:#?}");
    }
}

#[tokio::test]
async fn existing_rows_stay_as_they_are() {
    let app = App::existing().await;
    let mut owner = app.owner().await;
    let before: String = owner.one(ROWS).await;
    assert_eq!(before.lines().count(), 12 + 6 + 6);

    app.migrate().await;

    assert_eq!(owner.one::<String>(ROWS).await, before);
    assert_eq!(owner.one::<i64>("select count(*) from sluice.audit").await, 0);
}

#[tokio::test]
async fn both_kinds_of_database_have_the_columns_of_the_guide_and_the_front_end() {
    for app in [App::new().await, App::existing().await] {
        app.migrate().await;
        let mut owner = app.owner().await;

        owner
            .run(
                "select id, user_id, request_id, status, error_message, retry_count, created_at, updated_at, processed_at, traceparent
                from public.evolution_instance_creation_queue",
            )
            .await;
        owner
            .run(
                "select id, user_id, instance_name, instance_status, status, qr_code, phone_number, webhook_url, instance_token,
                last_qr_update, created_at, updated_at
                from public.evolution_instances",
            )
            .await;
    }
}

#[tokio::test]
async fn a_sign_up_after_the_adoption_is_queued_and_an_older_user_is_not_queued_again() {
    let app = App::existing().await;
    app.migrate().await;
    let user = Uuid::new_v4();

    app.sign_up(user).await.unwrap();

    let mut owner = app.owner().await;
    let pending: Vec<Uuid> = owner
        .all(
            "select user_id from public.evolution_instance_creation_queue where status = 'pending' order by created_at",
        )
        .await;
    assert_eq!(pending, [existing_user(12), existing_user(7), user]);
}

#[tokio::test]
async fn the_status_of_an_instance_follows_the_column_that_the_app_writes() {
    let app = App::existing().await;
    app.migrate().await;
    let mut user = app.user(existing_user(1)).await;

    user.run("update public.evolution_instances set instance_status = 'error'").await;

    assert_eq!(user.all::<String>("select status from public.evolution_instances").await, ["error"]);
}

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
    // The row of the user whose profile is gone can still be worked on; without it the key is whole.
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
async fn a_migration_gives_up_rather_than_queue_sign_ups_behind_itself() {
    let app = App::new().await;
    let mut reader = app.owner().await;
    reader.run("begin; insert into public.profiles select from generate_series(1, 0)").await;

    let migrated = app.try_migrate().await;

    let error = migrated.expect_err("profiles is in use");
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "55P03", "{error}");
    reader.run("rollback").await;
    app.migrate().await;
}

async fn setting(session: &mut Session, name: &str) -> String {
    session.one(&format!("select value from sluice.setting where name = '{name}'")).await
}
