//! Least privilege, also for ourselves.

use uuid::Uuid;

use super::{INSTANCES, QUEUE};
use crate::app::{App, Session, existing_user};

const REFUSED: &str = "42501";

/// What Supabase's linter (splinter, 0006) calls multiple permissive policies: for one role and command more than one.
const SEVERAL_POLICIES: &str = "
    select format('%s %s %s', class.relname, role.rolname, command)
    from pg_policy as policy
    join pg_class as class on class.oid = policy.polrelid
    join pg_roles as role on policy.polroles @> array[role.oid] or policy.polroles = array[0::oid]
    cross join lateral unnest(
      case policy.polcmd
        when 'r' then array['select'] when 'a' then array['insert'] when 'w' then array['update'] when 'd' then array['delete']
        else array['select', 'insert', 'update', 'delete']
      end
    ) as command
    where policy.polpermissive
      and role.rolname not like 'pg\\_%'
      and role.rolname not like 'supabase%admin'
      and not role.rolbypassrls
    group by 1
    having count(*) > 1
    order by 1";

#[tokio::test]
async fn the_services_cannot_write_what_decides_about_them() {
    for app in [App::migrated().await, App::adopted().await] {
        app.owner()
            .await
            .run("create table if not exists sluice._sqlx_migrations (version bigint); select sluice.adapt()")
            .await;
        let mut services = app.login("sluice_runtime").await;
        for table in ["sluice.setting", "sluice._sqlx_migrations", "sluice.adoption"] {
            services.run(&format!("select from {table}")).await;
            for attempt in [
                format!("insert into {table} select * from {table}"),
                format!("delete from {table}"),
                format!("truncate {table}"),
            ] {
                assert_eq!(services.refusal(&attempt).await, REFUSED, "{attempt}");
            }
        }
        for attempt in [
            "update sluice.setting set value = 'off'",
            "update sluice.audit set actor = 'nobody'",
            "select sluice.adapt()",
            "select sluice.decide('sign_up_trigger', 'off')",
            "select sluice.release_adopted(gen_random_uuid())",
            "select sluice.import_instance(gen_random_uuid(), 'n', '{}')",
            "select sluice.let_runtime_in()",
            "select sluice.fill_status(1)",
            "create function sluice.mine() returns int language sql as 'select 1'",
            "alter table sluice.run disable trigger all",
        ] {
            assert_eq!(services.refusal(attempt).await, REFUSED, "{attempt}");
        }
    }
}

#[tokio::test]
async fn our_policies_are_on_our_role_alone_and_stand_beside_none_of_the_apps() {
    let app = App::existing().await;
    let mut owner = app.owner().await;
    let before = owner.all::<String>(SEVERAL_POLICIES).await;

    app.migrate().await;

    assert_eq!(owner.all::<String>(SEVERAL_POLICIES).await, before);
    let elsewhere = "select policyname || ' to ' || roles::text from pg_policies where policyname like 'sluice:%' and roles <> '{sluice_runtime}'";
    assert_eq!(owner.all::<String>(elsewhere).await, [""; 0]);
}

/// Anon, another user, the service role, and ourselves, at everything that is private.
#[tokio::test]
async fn nobody_reaches_anything_private_over_the_api() {
    let app = App::adopted().await;
    let mut owner = app.owner().await;
    let relations: Vec<String> = owner
        .all("select oid::regclass::text from pg_class where relnamespace = 'sluice'::regnamespace and relkind in ('r', 'v', 'S')")
        .await;
    let functions: Vec<String> =
        owner.all("select proname::text from pg_proc where pronamespace = 'sluice'::regnamespace and pronargs = 0 and prorettype <> 'trigger'::regtype").await;
    assert!(relations.len() > 15 && functions.len() > 5);
    let mut callers: Vec<Session> = Vec::new();
    for role in ["anon", "service_role"] {
        callers.push(app.login(role).await);
    }
    callers.push(app.user(existing_user(1)).await);
    for caller in &mut callers {
        for relation in &relations {
            for attempt in [format!("select from {relation}"), format!("delete from {relation}")] {
                assert_eq!(caller.refusal(&attempt).await, REFUSED, "{attempt}");
            }
        }
        for function in &functions {
            assert_eq!(caller.refusal(&format!("select sluice.{function}()")).await, REFUSED, "{function}");
        }
    }
}

#[tokio::test]
async fn what_the_owner_grants_or_opens_later_is_not_taken_back() {
    let app = App::migrated().await;
    let mut owner = app.owner().await;
    app.sign_up(Uuid::new_v4()).await.unwrap();
    owner
        .run(&format!("grant select on {QUEUE} to anon; create policy open on {QUEUE} for select to anon using (true)"))
        .await;

    owner.run("select sluice.adapt()").await;

    assert_eq!(app.login("anon").await.all::<String>(&format!("select status from {QUEUE}")).await, ["pending"]);
    owner.run(&format!("alter table {INSTANCES} disable row level security")).await;
    let missing: Vec<String> = owner.all("select item from sluice.missing()").await;
    assert_eq!(missing, [format!("row level security on {INSTANCES}")]);
}
