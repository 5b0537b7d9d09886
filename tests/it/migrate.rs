//! The migrations on a new database and on one of the replaced set-up: what they make, and that
//! they lose nothing.

use std::time::Duration;

use tests::servers::{Postgres, postgres, until};
use uuid::Uuid;

use crate::app::{App, existing_user};

/// All that the migrations may have made or changed in the catalogue, a line each. Grants are
/// sorted: granting again may move them.
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
async fn a_migration_gives_up_rather_than_queue_sign_ups_behind_itself() {
    let app = App::new().await;
    let mut reader = app.owner().await;
    reader.run("begin; insert into public.profiles select from generate_series(1, 0)").await;

    let migrated = tokio::time::timeout(Duration::from_secs(20), app.try_migrate()).await;

    let error = migrated.expect("the migration does not wait").expect_err("profiles is in use");
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "55P03", "{error}");
    reader.run("rollback").await;
    app.migrate().await;
}

#[tokio::test]
async fn sign_ups_go_on_while_foreign_keys_are_validated() {
    let app = App::adopted().await;
    let mut owner = app.owner().await;
    owner.run("delete from public.evolution_instance_creation_queue as queue where not exists (select from profiles where id = user_id)").await;
    let key = "evolution_instance_creation_queue_profiles_fkey";
    owner.run(&format!("alter table public.evolution_instance_creation_queue drop constraint {key}")).await;
    owner.run("select * from sluice.adapt()").await;
    let validation: Vec<String> =
        owner.all(&format!("select change from sluice.slow_changes() where item like '%{key}'")).await;
    owner.run(&format!("begin; {}", validation.join(";"))).await;

    let signed_up = tokio::time::timeout(Duration::from_secs(20), app.sign_up(Uuid::new_v4())).await;

    signed_up.expect("a sign-up does not wait for the validation").unwrap();
    let queued = "select count(*) from public.evolution_instance_creation_queue where created_at > now() - interval '1 minute' and status = 'pending'";
    assert_eq!(app.superuser().await.one::<i64>(queued).await, 1, "the trigger gave up on a lock");
    owner.run("commit").await;
    let whole = format!("select convalidated from pg_constraint where conname = '{key}'");
    assert!(owner.one::<bool>(&whole).await);
}

/// Roles belong to the cluster, grants to the database: who comes second to the role must still
/// grant.
#[tokio::test]
async fn two_databases_of_a_cluster_that_are_migrated_at_the_same_moment_both_let_the_services_in() {
    let server = Postgres::start(postgres::Options::default()).await.unwrap();
    let [first, second] = ["first", "second"].map(|name| (name, server.url(name)));
    for (name, url) in [&first, &second] {
        server.create_named_database(name).await.unwrap();
        App::at(url.parse().unwrap()).become_supabase().await;
    }
    let (first, second) = (App::at(first.1.parse().unwrap()), App::at(second.1.parse().unwrap()));
    let (mut makes_the_role, mut session) = (first.owner().await, second.superuser().await);

    // A machine that stands still meanwhile makes the migration give up on a lock: then it is tried
    // again.
    for left in (0..5).rev() {
        makes_the_role.run("begin; create role sluice_runtime nologin").await;
        let commit = async {
            let waits = "select exists (select from pg_stat_activity where wait_event = 'transactionid')";
            let waited = until(Duration::from_secs(20), async || session.one::<bool>(waits).await.then_some(())).await;
            makes_the_role.run("commit").await;
            waited.expect("the migration comes to the role");
        };
        match tokio::join!(second.try_migrate(), commit).0 {
            Ok(()) => break,
            Err(error) if left > 0 && error.to_string().contains("lock timeout") => {
                makes_the_role.run("drop role sluice_runtime").await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    first.migrate().await;

    for app in [first, second] {
        let granted = "select has_schema_privilege('sluice_runtime', 'sluice', 'usage')";
        assert!(app.superuser().await.one::<bool>(granted).await, "a database does not let the services in");
    }
}
