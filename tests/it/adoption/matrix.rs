//! Who may read and write what, tried on everything that the catalog has of ours: a table, view,
//! function or sequence that is added later is tried, too.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{INSTANCES, QUEUE};
use crate::app::{App, Session, existing_user};

const REFUSED: &str = "42501";

/// What stands in schema sluice, and a statement for each thing that one may do with it:
/// `name<tab>verb<tab>statement`.
const THINGS: &str = "
    select concat_ws(e'\\t', class.oid::regclass, tried.verb, tried.statement)
    from pg_class as class
    cross join lateral (
      values
        ('select', format('select from %s limit 0', class.oid::regclass)),
        ('insert', format('insert into %s default values', class.oid::regclass)),
        ('update', format('update %s set %2$I = %2$I where false', class.oid::regclass, (
          select attname from pg_attribute
          where attrelid = class.oid and attnum > 0 and attidentity = '' and attgenerated = '' and not attisdropped
          order by attnum
          limit 1
        ))),
        ('delete', format('delete from %s where false', class.oid::regclass)),
        ('truncate', format('truncate %s', class.oid::regclass))
    ) as tried (verb, statement)
    where class.relnamespace = 'sluice'::regnamespace
      and class.relkind in ('r', 'p', 'v', 'm', 'f')
      and (class.relkind <> 'v' or tried.verb <> 'truncate')
    union all
    select concat_ws(e'\\t', class.oid::regclass, tried.verb, tried.statement)
    from pg_class as class
    cross join lateral (
      values
        ('nextval', format('select nextval(%L)', class.oid::regclass)),
        ('last_value', format('select last_value from %s', class.oid::regclass)),
        ('setval', format('select setval(%L, 1)', class.oid::regclass))
    ) as tried (verb, statement)
    where class.relnamespace = 'sluice'::regnamespace
      and class.relkind = 'S'
    union all
    select concat_ws(e'\\t', function.oid::regprocedure, 'call', format('select %s(%s)', function.oid::regproc, (
      select string_agg(format('null::%s', format_type(type, null)), ', ' order by place)
      from unnest(function.proargtypes::oid[]) with ordinality as arguments (type, place)
    )))
    from pg_proc as function
    where function.pronamespace = 'sluice'::regnamespace
      or function.oid = 'public.handle_profile_evolution_instance()'::regprocedure
    order by 1";

struct Thing {
    name: String,
    verb: String,
    statement: String,
}

async fn things(app: &App) -> Vec<Thing> {
    // As `sluice migrate` leaves it.
    app.owner()
        .await
        .run("create table if not exists sluice._sqlx_migrations (version bigint); select sluice.adapt()")
        .await;
    let lines: Vec<String> = app.superuser().await.all(THINGS).await;
    let thing = |line: &String| {
        let [name, verb, statement] = line.splitn(3, '\t').collect::<Vec<_>>().try_into().unwrap();
        let [name, verb, statement] = [name, verb, statement].map(str::to_owned);
        Thing { name, verb, statement }
    };
    lines.iter().map(thing).collect()
}

/// `ok`, or the SQLSTATE; what it did is undone.
async fn outcome(session: &mut Session, statement: &str) -> String {
    session.run("begin").await;
    let done = session.attempt(statement).await;
    session.run("rollback").await;
    let Err(error) = done else { return "ok".to_owned() };
    error.as_database_error().and_then(|error| error.code()).expect("the database says why").into_owned()
}

#[tokio::test]
async fn nobody_of_the_api_reads_writes_or_calls_anything_private() {
    for app in [App::migrated().await, App::adopted().await] {
        let things = things(&app).await;
        assert!(things.len() > 150, "{}", things.len());
        let callers = [
            ("anon", app.login("anon").await),
            ("a user", app.user(existing_user(1)).await),
            ("another user", app.user(existing_user(2)).await),
            ("service_role", app.login("service_role").await),
        ];
        for (who, mut session) in callers {
            for Thing { name, verb, statement } in &things {
                assert_eq!(outcome(&mut session, statement).await, REFUSED, "{who}: {verb} {name}");
            }
        }
    }
}

/// What the services need, and no more: what decides about them they only read, what was done stays
/// done, and a view is no way around that.
fn is_for_the_services(relation: &str, verb: &str) -> bool {
    match (relation.trim_start_matches("sluice."), verb) {
        (_, "select" | "nextval" | "last_value") => true,
        (_, "truncate" | "setval") => false,
        ("audit", verb) => verb == "insert",
        ("setting" | "_sqlx_migrations" | "adoption" | "announcement", _) => false,
        ("adoption_report" | "held_back" | "gate_now" | "shown_run", _) => false,
        _ => true,
    }
}

/// Functions that the services may not call: the owner's, and triggers.
const NOT_THEIRS: [&str; 22] = [
    "adapt()",
    "adapt_and_tell()",
    "announce_change()",
    "close_to_api(regclass)",
    "decide(text,text)",
    "fill_status(integer)",
    "import_instance(uuid,text,jsonb)",
    "keep_api_out()",
    "keep_status()",
    "let_runtime_in()",
    "make_sign_up_trigger()",
    "make_tables()",
    "note_adoption()",
    "note_closed_time()",
    "note_older_users()",
    "note_waits()",
    "plan_once(text[])",
    "release_adopted(uuid)",
    "slow_changes()",
    "take_command()",
    "take_confirmation()",
    "unfit()",
];

/// Functions that the services call with the owner's rights: each is a door, and says itself what
/// it lets through.
const DOORS: [&str; 16] = [
    "adopt_allow(text,text,text)",
    "adopt_leave(text,text,text)",
    "adopt_start(text,text,text,integer)",
    "gone_users(text[])",
    "lost_sign_ups(interval)",
    "missing()",
    "older_sign_ups()",
    "prune_audit(interval,integer)",
    "queue_sign_up(uuid)",
    "sign_up_traceparent(uuid)",
    "sign_up_trigger_arguments()",
    "sign_up_trigger_state()",
    "sign_ups_are_wanted()",
    "start(text,text,jsonb,text)",
    "wake_intake()",
    "wants_instance(uuid)",
];

#[tokio::test]
async fn the_services_do_what_they_need_and_nothing_else() {
    for app in [App::migrated().await, App::adopted().await] {
        let mut services = app.login("sluice_runtime").await;
        for Thing { name, verb, statement } in things(&app).await.iter().filter(|thing| thing.verb != "call") {
            let outcome = outcome(&mut services, statement).await;
            // A view that joins takes no writes from anybody.
            let refused = outcome == REFUSED || outcome == "55000";
            assert_eq!(refused, !is_for_the_services(name, verb), "{verb} {name}: {outcome}");
        }

        let functions = |which: &str| {
            format!(
                "select replace(oid::regprocedure::text, 'sluice.', '') from pg_proc
                 where pronamespace = 'sluice'::regnamespace and {which}"
            )
        };
        let mut owner = app.owner().await;
        let refused: BTreeSet<String> = owner
            .all(&functions("not has_function_privilege('sluice_runtime', oid, 'execute')"))
            .await
            .into_iter()
            .collect();
        let doors: BTreeSet<String> = owner
            .all(&functions("prosecdef and has_function_privilege('sluice_runtime', oid, 'execute')"))
            .await
            .into_iter()
            .collect();
        assert_eq!(refused, NOT_THEIRS.map(str::to_owned).into());
        assert_eq!(doors, DOORS.map(str::to_owned).into());
    }
}

/// What somebody may do with one user's rows in the public tables: `ok` and how many rows, or the
/// SQLSTATE.
async fn rights(session: &mut Session, table: &str, user: Uuid) -> String {
    let mut rights = Vec::new();
    let whose = format!("where user_id = '{user}'");
    for statement in [
        format!("select from {table} {whose}"),
        format!("update {table} set updated_at = now() {whose}"),
        format!("delete from {table} {whose}"),
        format!("insert into {table} select * from {table} {whose} on conflict do nothing"),
    ] {
        session.run("begin").await;
        let done = session.attempt(&statement).await;
        session.run("rollback").await;
        rights.push(match done {
            Ok(rows) => rows.to_string(),
            Err(error) => error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned(),
        });
    }
    rights.join(" ")
}

#[tokio::test]
async fn a_users_rows_are_theirs_the_app_servers_and_ours() {
    let user = existing_user(1);
    for (app, own_instance, own_queue, other_instance) in [
        (App::migrated().await, "1 42501 42501 42501", "1 42501 42501 42501", "0 42501 42501 42501"),
        // As the app has set it.
        (App::adopted().await, "1 1 0 42501", "1 0 0 42501", "0 0 0 0"),
    ] {
        let mut owner = app.owner().await;
        app.superuser()
            .await
            .run(&format!("insert into auth.users (id) values ('{user}') on conflict do nothing"))
            .await;
        owner
            .run(&format!(
                "insert into {INSTANCES} (user_id, instance_name, webhook_url) values ('{user}', 'user_{user}', 'u') on conflict do nothing"
            ))
            .await;
        let (mut own, mut other) = (app.user(user).await, app.user(existing_user(2)).await);
        let mut anon = app.login("anon").await;
        let mut server = app.login("service_role").await;
        let mut services = app.login("sluice_runtime").await;

        assert_eq!(rights(&mut own, INSTANCES, user).await, own_instance);
        assert_eq!(rights(&mut own, QUEUE, user).await, own_queue);
        assert_eq!(rights(&mut other, INSTANCES, user).await, other_instance);
        assert!(rights(&mut other, QUEUE, user).await.starts_with("0 "));
        for table in [QUEUE, INSTANCES] {
            assert_eq!(rights(&mut anon, table, user).await, "42501 42501 42501 42501", "{table}");
            assert_eq!(rights(&mut server, table, user).await, "1 1 1 0", "{table}");
            assert_eq!(rights(&mut services, table, user).await, "1 1 42501 0", "{table}");
        }
    }
}
