//! Who may see and do what: users their own rows, anon nothing, the services what they need and no
//! more.

use uuid::Uuid;

use crate::app::{App, existing_user};

const QUEUE: &str = "public.evolution_instance_creation_queue";
const INSTANCES: &str = "public.evolution_instances";
const REFUSED: &str = "42501";

#[tokio::test]
async fn a_user_sees_only_their_own_rows_and_changes_none_on_a_new_database() {
    let app = App::migrated().await;
    let (alice, bob) = (Uuid::new_v4(), Uuid::new_v4());
    for user in [alice, bob] {
        app.sign_up(user).await.unwrap();
        app.owner()
            .await
            .run(&format!("insert into {INSTANCES} (user_id, instance_name, webhook_url) values ('{user}', 'user_{user}', 'https://x')"))
            .await;
    }

    let mut session = app.user(alice).await;

    for table in [QUEUE, INSTANCES] {
        assert_eq!(session.all::<Uuid>(&format!("select user_id from {table}")).await, [alice], "{table}");
        for change in [
            format!("update {table} set updated_at = now()"),
            format!("delete from {table}"),
            format!("truncate {table}"),
        ] {
            assert_eq!(session.refusal(&change).await, REFUSED, "{change}");
        }
    }
    assert_eq!(session.refusal(&format!("insert into {QUEUE} (user_id) values ('{alice}')")).await, REFUSED);
}

#[tokio::test]
async fn a_user_keeps_what_the_app_allows_on_an_existing_database() {
    let app = App::adopted().await;
    let mut session = app.user(existing_user(1)).await;

    assert_eq!(session.all::<Uuid>(&format!("select user_id from {QUEUE}")).await, [existing_user(1)]);
    assert_eq!(session.run(&format!("update {INSTANCES} set instance_status = 'connected'")).await, 1);
    assert_eq!(session.run(&format!("update {QUEUE} set status = 'pending'")).await, 0);
    assert_eq!(session.run(&format!("delete from {QUEUE}")).await, 0);
}

#[tokio::test]
async fn a_table_that_was_open_to_everyone_is_so_no_more() {
    let app = App::existing().await;
    let mut owner = app.owner().await;
    for table in [QUEUE, INSTANCES] {
        let drop = format!(
            "do $$
            declare
              p record;
            begin
              for p in select policyname from pg_policies where schemaname || '.' || tablename = '{table}' loop
                execute format('drop policy %I on {table}', p.policyname);
              end loop;
            end $$"
        );
        owner.run(&drop).await;
        owner.run(&format!("alter table {table} disable row level security")).await;
    }

    app.migrate().await;

    let mut session = app.user(existing_user(1)).await;
    for table in [QUEUE, INSTANCES] {
        assert_eq!(session.all::<Uuid>(&format!("select user_id from {table}")).await, [existing_user(1)], "{table}");
    }
}

#[tokio::test]
async fn anon_gets_nothing() {
    for app in [App::migrated().await, App::adopted().await] {
        let mut anon = app.login("anon").await;
        anon.run(r#"set request.jwt.claims = '{"role":"anon"}'"#).await;

        for table in [QUEUE, INSTANCES] {
            for attempt in [
                format!("select from {table}"),
                format!("update {table} set updated_at = now()"),
                format!("delete from {table}"),
            ] {
                assert_eq!(anon.refusal(&attempt).await, REFUSED, "{attempt}");
            }
        }
    }
}

#[tokio::test]
async fn the_roles_of_the_api_reach_nothing_private_and_call_no_function_of_ours() {
    let app = App::adopted().await;
    let mut owner = app.owner().await;
    let callable = "
        select format('%s by %s', function.oid::regprocedure, role.rolname)
        from pg_proc as function
        cross join pg_roles as role
        where role.rolname in ('anon', 'authenticated', 'service_role')
          and (function.pronamespace = 'sluice'::regnamespace or function.proname = 'handle_profile_evolution_instance')
          and has_function_privilege(role.oid, function.oid, 'execute')";
    assert_eq!(owner.all::<String>(callable).await, [""; 0]);
    let readable = "
        select format('%s by %s', relation.oid::regclass, role.rolname)
        from pg_class as relation
        cross join pg_roles as role
        where role.rolname in ('anon', 'authenticated', 'service_role')
          and relation.relnamespace = 'sluice'::regnamespace
          and relation.relkind in ('r', 'v')
          and has_table_privilege(role.oid, relation.oid, 'select, insert, update, delete')";
    assert_eq!(owner.all::<String>(readable).await, [""; 0]);

    for role in ["anon", "authenticated", "service_role"] {
        let mut session = app.login(role).await;
        assert_eq!(session.refusal("select from sluice.setting").await, REFUSED, "{role}");
        assert_eq!(session.refusal("select public.handle_profile_evolution_instance()").await, REFUSED, "{role}");
    }
}

#[tokio::test]
async fn definer_functions_pin_an_empty_search_path() {
    let app = App::adopted().await;
    let loose = "
        select oid::regprocedure::text
        from pg_proc
        where (pronamespace = 'sluice'::regnamespace or proname = 'handle_profile_evolution_instance')
          and not coalesce(proconfig @> array['search_path=\"\"'], false)";

    assert_eq!(app.owner().await.all::<String>(loose).await, [""; 0]);
}

#[tokio::test]
async fn the_services_role_sees_all_rows_and_owns_none() {
    for app in [App::migrated().await, App::adopted().await] {
        app.sign_up(Uuid::new_v4()).await.unwrap();
        let mut owner = app.owner().await;
        let there: i64 = owner.one(&format!("select count(*) from {QUEUE}")).await;
        let profiles: i64 = owner.one("select count(*) from public.profiles").await;
        let mut services = app.login("sluice_runtime").await;

        assert_eq!(services.one::<i64>(&format!("select count(*) from {QUEUE}")).await, there);
        assert_eq!(services.one::<i64>("select count(created_at) from public.profiles").await, profiles);
        assert_eq!(services.run(&format!("update {QUEUE} set status = 'processing'")).await, there as u64);
        services
            .run(&format!(
                "insert into {INSTANCES} (user_id, instance_name, webhook_url)
                select id, 'user_' || id, 'https://x' from public.profiles on conflict do nothing"
            ))
            .await;
        services.run("insert into sluice.audit (actor, action) values ('cli', 'queue.pause')").await;
        services.run("delete from sluice.budget_reset").await;

        let refused = [
            format!("delete from {QUEUE}"),
            format!("delete from {INSTANCES}"),
            "select full_name from public.profiles".to_owned(),
            "delete from public.profiles where id is null".to_owned(),
            "update sluice.audit set actor = 'nobody'".to_owned(),
            "delete from sluice.audit".to_owned(),
            "select from auth.users".to_owned(),
            "create table sluice.mine ()".to_owned(),
        ];
        for attempt in refused {
            assert_eq!(services.refusal(&attempt).await, REFUSED, "{attempt}");
        }
    }
}

/// docs/adding-a-workflow.md
#[tokio::test]
async fn a_login_of_the_apps_starts_runs_by_two_grants_and_does_nothing_else() {
    let app = App::migrated().await;
    let mut owner = app.owner().await;
    owner
        .run(
            "insert into sluice.workflow (name, version, first_step, deadline) values ('welcome', 1, 'greet', '1 day')",
        )
        .await;
    let role = format!("shop_{}", Uuid::new_v4().simple());
    app.superuser().await.run(&format!("create role {role}")).await;
    let start = r#"select sluice.start('welcome', 'ada', '{"list": "news"}')"#;
    let mut shop = app.login(&role).await;
    assert_eq!(shop.refusal(start).await, REFUSED);

    owner
        .run(&format!(
            "grant usage on schema sluice to {role};
             grant execute on function sluice.start(text, text, jsonb, text) to {role}"
        ))
        .await;
    shop.run(start).await;

    assert_eq!(owner.all::<String>("select subject from sluice.request").await, ["ada"]);
    for refused in ["select from sluice.request", "delete from sluice.run", "select sluice.intake(1)"] {
        assert_eq!(shop.refusal(refused).await, REFUSED, "{refused}");
    }
}

#[tokio::test]
async fn the_services_role_reaches_tables_that_later_migrations_add() {
    let app = App::migrated().await;
    app.owner().await.run("create table sluice.later (id bigint generated by default as identity, note text)").await;

    let mut services = app.login("sluice_runtime").await;

    services.run("insert into sluice.later (note) values ('x'); delete from sluice.later").await;
}

#[tokio::test]
async fn both_tables_are_live_in_the_app() {
    let published = "
        select tablename::text
        from pg_publication_tables
        where pubname = 'supabase_realtime'
          and tablename like 'evolution%'
        order by 1";
    for app in [App::new().await, App::existing().await] {
        app.migrate().await;
        assert_eq!(
            app.owner().await.all::<String>(published).await,
            ["evolution_instance_creation_queue", "evolution_instances"]
        );
    }
}

#[tokio::test]
async fn a_publication_that_needs_nothing_or_allows_nothing_is_left_alone() {
    let cases = [
        "drop publication supabase_realtime; create publication supabase_realtime for all tables",
        "alter publication supabase_realtime owner to postgres",
        "drop publication supabase_realtime",
    ];
    for case in cases {
        let app = App::new().await;
        app.superuser().await.run(case).await;

        app.migrate().await;

        let members = "select count(*) from pg_publication_rel";
        assert_eq!(app.owner().await.one::<i64>(members).await, 0, "{case}");
    }
}
