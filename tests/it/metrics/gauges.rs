//! How the whole system stands: that the numbers are true, taken once for all who ask, and cheap.

use std::{sync::Arc, time::Duration};

use sluice::{
    database::{Database, Pooling},
    ledger::postgres::{
        Postgres,
        read::{COUNTED, Gauges, STEPS, Steps, gauges},
    },
};
use workflows::{
    definition::{Definition, Registry},
    policy::Retry,
    whatsapp::provision,
};

use super::PATIENCE;
use crate::app::App;

const HOST: &str = "evolution.example.com";
const NEVER: Duration = Duration::from_secs(3600);

/// A database with the queues of two workflows that share a step, and its ledger, which works as
/// the services' own role.
async fn ledger() -> (App, Postgres) {
    let app = App::migrated().await;
    let ledger = ledger_of(&app).await;
    (app, ledger)
}

async fn ledger_of(app: &App) -> Postgres {
    let options = app.options().options([("role", "sluice_runtime")]);
    let (timeout, deadline) = (Duration::from_secs(90), Duration::from_secs(86_400));
    let provision = provision::definition(Retry::default(), timeout, deadline, HOST);
    let verify = provision.steps.last().unwrap().clone();
    let another = Definition { name: "another".parse().unwrap(), steps: vec![verify], ..provision.clone() };
    let ledger = Postgres::over(
        Database::open(options, Pooling::Session, 20),
        Arc::new(Registry::new(vec![provision, another])),
    );
    ledger.register().await.unwrap();
    ledger
}

/// Steps in a state that became due `due` seconds from now, each of a run of its own.
async fn insert(app: &App, count: u32, workflow: &str, step: &str, state: &str, due: &str) {
    let (token, lease, worker, started) = match state {
        "running" => ("1", "now()", "'w'", "now()"),
        _ => ("null", "null", "null", "null"),
    };
    app.superuser()
        .await
        .run(&format!(
            "with made as (
               insert into sluice.run (id, workflow, version, subject, resource, deadline_at)
               select gen_random_uuid(), '{workflow}', 1, gen_random_uuid()::text, 'r', now() + interval '1 day'
               from generate_series(1, {count})
               returning id
             )
             insert into sluice.step (run_id, position, name, state, due_at, started_at, token, lease_until, worker)
             select id, 0, '{step}', '{state}', now() + make_interval(secs => {due}), {started}, {token}, {lease}, {worker}
             from made"
        ))
        .await;
}

async fn take(ledger: &Postgres) -> Gauges {
    gauges(ledger, Duration::ZERO).await.unwrap()
}

fn of<'a>(gauges: &'a Gauges, step: &str) -> &'a Steps {
    gauges.taken.steps.iter().find(|steps| steps.step == step).unwrap()
}

/// Due, held, scheduled, running.
fn counts(gauges: &Gauges, step: &str) -> [i64; 4] {
    let Steps { due, held, scheduled, running, .. } = of(gauges, step);
    [*due, *held, *scheduled, *running]
}

/// How old the oldest unfinished step is, in seconds.
fn oldest(gauges: &Gauges, step: &str) -> Option<i64> {
    of(gauges, step).oldest_unfinished_at.map(|at| (gauges.now - at).num_seconds())
}

/// Of each workflow, how many of the step's are unfinished.
fn unfinished<'a>(gauges: &'a Gauges, step: &str) -> Vec<(&'a str, i64)> {
    of(gauges, step).unfinished.iter().map(|share| (share.workflow.as_str(), share.count)).collect()
}

#[tokio::test]
async fn steps_are_counted_by_state_and_held_work_apart() {
    let (app, ledger) = ledger().await;
    insert(&app, 3, "provision-instance", "verify", "due", "-100").await;
    insert(&app, 2, "another", "verify", "due", "-50").await;
    insert(&app, 4, "provision-instance", "verify", "due", "100").await;
    insert(&app, 1, "provision-instance", "verify", "due", "null").await;
    let mut session = app.superuser().await;

    let open = take(&ledger).await;
    session
        .run(
            "insert into sluice.gate (scope, name, paused_at) values ('workflow', 'provision-instance', now())
             on conflict (scope, name) do update set paused_at = now()",
        )
        .await;
    let workflow_paused = take(&ledger).await;
    session.run("update sluice.gate set paused_at = null").await;
    session.run("update sluice.gate set hold_until = now() + interval '1 hour' where name = 'verify'").await;
    let step_held = take(&ledger).await;
    session.run("update sluice.gate set hold_until = null").await;
    session.run("update sluice.gate set breaker = 'open', breaker_cause = 'outage' where scope = 'host'").await;
    let breaker = take(&ledger).await;

    assert_eq!((counts(&open, "verify"), of(&open, "verify").waiting), ([5, 0, 4, 0], 1));
    assert!((100..160).contains(&oldest(&open, "verify").unwrap()), "{open:?}");
    assert_eq!((counts(&open, "create-instance"), oldest(&open, "create-instance")), ([0; 4], None));
    assert_eq!(unfinished(&open, "verify"), [("another", 2), ("provision-instance", 3)]);
    assert_eq!(unfinished(&open, "create-instance"), [("provision-instance", 0)]);
    let age = |share: usize| (open.now - of(&open, "verify").unfinished[share].oldest_at.unwrap()).num_seconds();
    assert!((50..99).contains(&age(0)) && (100..160).contains(&age(1)), "{open:?}");
    assert_eq!(counts(&workflow_paused, "verify"), [2, 3, 4, 0]);
    assert_eq!(unfinished(&workflow_paused, "verify"), [("another", 2), ("provision-instance", 0)]);
    assert!((50..99).contains(&oldest(&workflow_paused, "verify").unwrap()), "{workflow_paused:?}");
    assert_eq!((counts(&step_held, "verify"), oldest(&step_held, "verify")), ([0, 5, 4, 0], None));
    assert!(!of(&step_held, "verify").passes && of(&step_held, "create-instance").passes, "{step_held:?}");
    assert_eq!(counts(&breaker, "verify"), [0, 5, 4, 0]);
    let host = breaker.taken.gates.iter().find(|gate| gate.scope == "host").unwrap();
    assert_eq!((host.name.as_str(), host.breaker.as_str(), host.passes), (HOST, "open", false));
    assert_eq!((host.paused_at, host.hold_until), (None, None));
}

#[tokio::test]
async fn of_a_half_open_breaker_all_work_is_held_but_the_run_that_is_let_through() {
    let (app, ledger) = ledger().await;
    insert(&app, 3, "provision-instance", "verify", "due", "-100").await;
    insert(&app, 1, "another", "verify", "due", "-50").await;
    let mut session = app.superuser().await;

    session.run("update sluice.gate set breaker = 'half_open', breaker_cause = 'outage' where scope = 'host'").await;
    let nobody = take(&ledger).await;
    session
        .run(
            "update sluice.gate set probe_run = (select id from sluice.run where workflow = 'another')
             where scope = 'host'",
        )
        .await;
    let one = take(&ledger).await;

    assert_eq!(counts(&nobody, "verify"), [0, 4, 0, 0]);
    assert_eq!(counts(&one, "verify"), [1, 3, 0, 0]);
    assert!((50..99).contains(&oldest(&one, "verify").unwrap()), "{one:?}");
    assert!(one.taken.gates.iter().all(|gate| gate.passes), "{one:?}");
}

/// Issue 15: with hundreds of steps in Redis and in workers' hands, age and depth said that there
/// was nothing to do.
#[tokio::test]
async fn the_scaling_signal_sees_what_workers_hold() {
    let (app, ledger) = ledger().await;
    insert(&app, 6, "provision-instance", "verify", "running", "-300").await;
    insert(&app, 2, "provision-instance", "verify", "due", "-10").await;
    let mut session = app.superuser().await;

    let seen = take(&ledger).await;
    session.run("update sluice.gate set breaker = 'open', breaker_cause = 'outage' where scope = 'host'").await;
    let in_outage = take(&ledger).await;

    assert_eq!(counts(&seen, "verify"), [2, 0, 0, 6]);
    assert_eq!(unfinished(&seen, "verify"), [("another", 0), ("provision-instance", 8)]);
    assert!((300..360).contains(&oldest(&seen, "verify").unwrap()), "{seen:?}");
    assert_eq!(counts(&in_outage, "verify"), [0, 2, 0, 6]);
}

#[tokio::test]
async fn dead_letters_events_and_pending_rows_are_counted() {
    let (app, ledger) = ledger().await;
    insert(&app, 2, "provision-instance", "verify", "due", "0").await;
    let mut session = app.superuser().await;
    session
        .run(
            "insert into sluice.dead_letter (run_id, position, step, reason)
             select run_id, 0, 'verify', 'worker_lost' from sluice.step;
             insert into sluice.event (run_id, sequence, type, routing_key, payload, created_at, published_at)
             values (gen_random_uuid(), 1, 't', 'x', '{}', now() - interval '1 hour', now()),
               (gen_random_uuid(), 1, 't', 'x', '{}', now() - interval '200 seconds', null);
             insert into sluice.projection_pending (workflow, subject, run_id, error)
             values ('w', 'a', gen_random_uuid(), 'x'), ('w', 'b', gen_random_uuid(), 'x')",
        )
        .await;

    let Gauges { now, taken } = take(&ledger).await;

    assert_eq!((taken.letters.len(), taken.letters[0].reason.as_str(), taken.letters[0].count), (1, "worker_lost", 2));
    let lag = (now - taken.oldest_event_at.unwrap()).num_seconds();
    assert!((200..260).contains(&lag), "{lag}");
    assert_eq!(taken.pending.count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_they_are_taken_once() {
    let (app, ledger) = ledger().await;
    let mut session = app.superuser().await;
    session
        .run(
            "create table public.taken (at timestamptz);
             create function public.note_taken() returns trigger language plpgsql security definer as
               $$ begin insert into public.taken values (now()); return null; end $$;
             create trigger note_taken after update on sluice.gauges
               for each row execute function public.note_taken()",
        )
        .await;
    let ask = async || {
        let asking = (0..50).map(|_| gauges(&ledger, NEVER));
        futures::future::join_all(asking).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    };

    ask().await;
    ask().await;
    let first: i64 = session.one("select count(*) from public.taken").await;
    session.run("update sluice.gauges set taken_at = now() - interval '2 hours'").await;
    ask().await;

    let both: i64 = session.one("select count(*) from public.taken").await;
    // Ours above is one more.
    assert_eq!((first, both), (1, 3));
}

#[tokio::test]
async fn who_finds_another_taking_them_waits_for_nobody() {
    let (app, ledger) = ledger().await;
    insert(&app, 1, "provision-instance", "verify", "due", "0").await;
    let before = take(&ledger).await;
    insert(&app, 1, "provision-instance", "verify", "due", "0").await;
    let mut other = app.superuser().await;
    other.run("begin; select from sluice.gauges for update").await;

    let during = tokio::time::timeout(PATIENCE, take(&ledger)).await.unwrap();
    other.run("rollback").await;

    assert_eq!(counts(&during, "verify"), counts(&before, "verify"));
    assert_eq!(counts(&take(&ledger).await, "verify")[0], 2);
}

#[tokio::test]
async fn what_a_relay_of_another_version_has_kept_is_not_needed() {
    let (app, ledger) = ledger().await;
    insert(&app, 2, "provision-instance", "verify", "due", "0").await;
    let mut session = app.superuser().await;
    session.run(r#"update sluice.gauges set taken_at = now(), taken = '{"steps": [{"step": "verify"}]}'"#).await;

    let seen = gauges(&ledger, NEVER).await.unwrap();

    assert_eq!(counts(&seen, "verify")[0], 2);
}

#[tokio::test]
async fn a_long_queue_is_counted_up_to_a_bound_through_its_indexes() {
    let (app, _) = ledger().await;
    let mut session = app.superuser().await;
    let name: String = session.one("select current_database()::text").await;
    // Neither its runs nor its triggers matter here. A Postgres that compiled the statement would
    // need longer than it is given.
    session
        .run(&format!(
            "alter database {name} set jit = on;
             alter database {name} set jit_above_cost = 0;
             alter database {name} set jit_inline_above_cost = 0;
             alter database {name} set jit_optimize_above_cost = 0;
             set session_replication_role = replica;
             insert into sluice.step (run_id, position, name, due_at)
             select gen_random_uuid(), 0, 'verify', now() - interval '1 hour' from generate_series(1, 250000);
             insert into sluice.step (run_id, position, name, state)
             select gen_random_uuid(), 0, 'verify', 'succeeded' from generate_series(1, 250000);
             analyze sluice.step",
        ))
        .await;
    let ledger = ledger_of(&app).await;

    let seen = take(&ledger).await;
    let plan: Vec<String> = session.all(&format!("explain {}", STEPS.replace("$1", &COUNTED.to_string()))).await;

    assert_eq!((of(&seen, "verify").due, of(&seen, "verify").capped), (i64::from(COUNTED), true));
    let of_steps: Vec<&String> = plan.iter().filter(|line| line.contains(" on step")).collect();
    assert_eq!(of_steps.len(), 2, "{plan:#?}");
    assert!(of_steps.iter().all(|line| line.contains("Index")), "{plan:#?}");
    let of_runs: Vec<&String> = plan.iter().filter(|line| line.contains(" on run")).collect();
    assert!(of_runs.iter().all(|line| line.contains("Index Scan using run_pkey")), "{plan:#?}");
}

/// All of the above is done as that role; here it is said.
#[tokio::test]
async fn the_services_role_may_take_them() {
    let (app, ledger) = ledger().await;
    let mut session = app.superuser().await;

    let may: Vec<bool> = session
        .all("select has_table_privilege('sluice_runtime', 'sluice.gauges', right_) from unnest(array['select', 'update']) as right_")
        .await;

    assert_eq!(may, [true, true]);
    assert!(!take(&ledger).await.taken.steps.is_empty());
}
