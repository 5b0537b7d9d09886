//! How the whole system stands: that the numbers are true, taken once for all who ask, and cheap.

use std::{sync::Arc, time::Duration};

use sluice::ledger::{
    Setup,
    postgres::{
        Pooling, Postgres,
        read::{COUNTED, Gauges, StepGauges, TAKE_GAUGES, gauges},
    },
};
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;
use workflows::{definition::Registry, ids::RunId, policy::Retry, provision, secret::Secret};

use super::PATIENCE;
use crate::app::App;

const HOST: &str = "evolution.example.com";
const NEVER: Duration = Duration::from_secs(3600);

/// A database with the queues of a relay, and its ledger.
async fn ledger() -> (App, Postgres) {
    let app = App::migrated().await;
    let pool = PgPoolOptions::new().max_connections(20).connect_with(app.options()).await.unwrap();
    let definition = provision::definition(Retry::default(), Duration::from_secs(90), Duration::from_secs(86_400));
    let registry = Registry::new(vec![definition]);
    let setup = Setup {
        registry: Arc::new(registry.clone()),
        draw_run: Arc::new(|| RunId::new(Uuid::now_v7())),
        draw_token: Arc::new(|| Secret::new(Uuid::new_v4().to_string())),
        on_sign_up: "provision-instance".parse().unwrap(),
    };
    let ledger = Postgres::new(pool, Pooling::Session, setup);
    ledger.ensure_gates(&registry, Some(HOST)).await.unwrap();
    (app, ledger)
}

/// Steps in a state, `due` seconds from now, each of a run of its own.
async fn insert(app: &App, count: u32, workflow: &str, step: &str, state: &str, due: &str) {
    let leased = state == "running";
    let (token, lease, worker) = match state {
        "due" => ("null", "null", "null"),
        _ => ("1", if leased { "now()" } else { "null" }, "'w'"),
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
             insert into sluice.step (run_id, position, name, state, due_at, token, lease_until, worker)
             select id, 0, '{step}', '{state}', now() + make_interval(secs => {due}), {token}, {lease}, {worker}
             from made"
        ))
        .await;
}

async fn take(ledger: &Postgres) -> Gauges {
    gauges(ledger, Some(HOST), Duration::ZERO).await.unwrap()
}

fn of<'a>(gauges: &'a Gauges, step: &str) -> &'a StepGauges {
    gauges.steps.iter().find(|gauges| gauges.step == step).unwrap()
}

fn counts(gauges: &Gauges, step: &str) -> [u64; 5] {
    let StepGauges { due, held, scheduled, dispatched, running, .. } = of(gauges, step);
    [*due, *held, *scheduled, *dispatched, *running]
}

#[tokio::test]
async fn steps_are_counted_by_state_and_held_work_apart() {
    let (app, ledger) = ledger().await;
    insert(&app, 3, "provision-instance", "verify", "due", "-100").await;
    insert(&app, 2, "another", "verify", "due", "-50").await;
    insert(&app, 4, "provision-instance", "verify", "due", "100").await;
    insert(&app, 1, "provision-instance", "verify", "due", "null").await;
    insert(&app, 5, "provision-instance", "verify", "dispatched", "0").await;
    insert(&app, 6, "provision-instance", "verify", "running", "0").await;
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
    session.run("update sluice.gate set breaker = 'half_open', breaker_cause = 'outage' where scope = 'host'").await;
    let breaker = take(&ledger).await;

    assert_eq!(counts(&open, "verify"), [5, 0, 4, 5, 6]);
    assert!((100.0..160.0).contains(&of(&open, "verify").oldest), "{open:?}");
    assert_eq!((counts(&open, "create-instance"), of(&open, "create-instance").oldest), ([0; 5], 0.0));
    assert_eq!(counts(&workflow_paused, "verify"), [2, 3, 4, 5, 6]);
    assert!((50.0..99.0).contains(&of(&workflow_paused, "verify").oldest), "{workflow_paused:?}");
    assert_eq!((counts(&step_held, "verify"), of(&step_held, "verify").oldest), ([0, 5, 4, 5, 6], 0.0));
    assert_eq!(counts(&breaker, "verify"), [0, 5, 4, 5, 6]);
    let host = breaker.gates.iter().find(|gate| gate.scope == "host").unwrap();
    assert_eq!((host.name.as_str(), host.breaker.as_str(), host.paused, host.held), (HOST, "half_open", false, false));
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
             insert into sluice.event (run_id, sequence, routing_key, payload, created_at, published_at)
             values (gen_random_uuid(), 1, 'x', '{}', now() - interval '1 hour', now()),
               (gen_random_uuid(), 1, 'x', '{}', now() - interval '200 seconds', null);
             insert into sluice.projection_pending (subject, error) values ('a', 'x'), ('b', 'x')",
        )
        .await;

    let seen = take(&ledger).await;

    assert_eq!((seen.letters.len(), seen.letters[0].reason.as_str(), seen.letters[0].count), (1, "worker_lost", 2));
    assert!((200.0..260.0).contains(&seen.event_lag), "{}", seen.event_lag);
    assert_eq!(seen.projections_pending, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_they_are_taken_once() {
    let (app, ledger) = ledger().await;
    let mut session = app.superuser().await;
    session
        .run(
            "create table public.taken (at timestamptz);
             create function public.note_taken() returns trigger language plpgsql as
               $$ begin insert into public.taken values (now()); return null; end $$;
             create trigger note_taken after update on sluice.gauges
               for each row execute function public.note_taken()",
        )
        .await;
    let ask = async || {
        let asking = (0..50).map(|_| gauges(&ledger, Some(HOST), NEVER));
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
async fn a_long_queue_is_counted_up_to_a_bound_through_its_indexes() {
    let (app, ledger) = ledger().await;
    let mut session = app.superuser().await;
    // Neither its runs nor its triggers matter here.
    session
        .run(
            "set session_replication_role = replica;
             insert into sluice.step (run_id, position, name, due_at)
             select gen_random_uuid(), 0, 'verify', now() - interval '1 hour' from generate_series(1, 250000);
             insert into sluice.step (run_id, position, name, state)
             select gen_random_uuid(), 0, 'verify', 'succeeded' from generate_series(1, 250000);
             analyze sluice.step",
        )
        .await;

    let seen = take(&ledger).await;
    let sql = TAKE_GAUGES.replace("$1", "0").replace("$2", "'h'").replace("$3", &COUNTED.to_string());
    let plan: Vec<String> = session.all(&format!("explain {sql}")).await;

    assert_eq!(of(&seen, "verify").due, u64::try_from(COUNTED).unwrap());
    let of_steps: Vec<&String> = plan.iter().filter(|line| line.contains(" on step")).collect();
    assert_eq!(of_steps.len(), 2, "{plan:#?}");
    assert!(of_steps.iter().all(|line| line.contains("Index")), "{plan:#?}");
}

#[tokio::test]
async fn the_services_role_may_take_them() {
    let (app, _) = ledger().await;
    let mut session = app.superuser().await;

    let may: bool =
        session.one("select has_table_privilege('sluice_runtime', 'sluice.gauges', 'select, update')").await;

    assert!(may);
}
