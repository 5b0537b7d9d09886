//! What is kept and what is not.

use std::{sync::Arc, time::Duration};

use sluice::{
    database::{Database, Pooling},
    ledger::{Pruned, postgres::Postgres},
};
use workflows::definition::Registry;

use crate::app::App;

const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// One run in each state, ended 40 days ago, and one that succeeded a minute ago.
const RUNS: &str = "
    insert into sluice.run (id, workflow, version, subject, resource, state, deadline_at, ended_at, cancel_by)
    select gen_random_uuid(), 'w', 1, state || age, state || age, state, now(),
      case when state <> 'active' then now() - age end, 'me'
    from (values ('active', interval '40 days'), ('succeeded', '40 days'), ('cancelled', '40 days'), ('dead', '40 days'),
      ('succeeded', '1 minute')) as runs (state, age);
    insert into sluice.dead_letter (run_id, position, step, reason)
    select id, 0, 's', 'permanent_error' from sluice.run where state = 'dead';
    insert into sluice.dead_letter (run_id, position, step, reason, resolved_at, resolution)
    select id, 0, 's', 'permanent_error', now(), 'discarded' from sluice.run where state = 'cancelled';
    insert into sluice.step (run_id, position, name) select id, 0, 's' from sluice.run;
    insert into sluice.attempt (run_id, position, step, token, worker, started_at, outcome)
    select id, 0, 's', 1, 'w', now(), 'succeeded' from sluice.run;
    insert into sluice.closed_time (scope, name, cause, closed_at, passed_at)
    select 'run', id, 'limit', now(), now() from sluice.run;
    insert into sluice.event (run_id, sequence, type, routing_key, payload, published_at)
    select id, sequence, 't', 'w.ended', '{}', case when sequence = 1 then now() - interval '40 days' end
    from sluice.run, generate_series(1, 2) as sequence where state = 'cancelled';
    insert into sluice.event (run_id, sequence, type, routing_key, payload, created_at)
    select id, 3, 't', 'w.ended', '{}', now() - interval '40 days'
    from sluice.run where state = 'cancelled';
    insert into sluice.heartbeat (worker, beat_at) values ('old', now() - interval '2 hours'),
      ('new', now());
    insert into sluice.audit (actor, action, subject, at) values ('me', 'a', 's', now() - interval '40 days'),
      ('me', 'b', 's', now());";

#[tokio::test]
async fn what_ended_well_long_ago_goes_and_what_needs_a_person_stays() {
    let app = App::migrated().await;
    let mut session = app.superuser().await;
    session.run(RUNS).await;
    let ledger = ledger_of(&app);

    let first = ledger.prune(MONTH, 100).await.unwrap();
    let second = ledger.prune(MONTH, 100).await.unwrap();

    assert_eq!(first, Pruned { rows: 6, unpublished: 1 });
    assert_eq!(second, Pruned::default());
    let kept: Vec<String> = session.all("select subject from sluice.run order by subject").await;
    assert_eq!(kept, ["active40 days", "dead40 days", "succeeded00:01:00"]);
    let rest: String = session
        .one(
            "select concat_ws(' ',
               (select count(*) from sluice.dead_letter),
               (select string_agg(sequence::text, ',') from sluice.event where published_at is null),
               (select string_agg(worker, ',') from sluice.heartbeat),
               (select string_agg(action, ',') from sluice.audit))",
        )
        .await;
    assert_eq!(rest, "1 2 new b");
    for child in ["step", "attempt", "dead_letter"] {
        let orphans = format!("select count(*) from sluice.{child} where run_id not in (select id from sluice.run)");
        assert_eq!(session.one::<i64>(&orphans).await, 0, "{child}");
    }
    let runs = "select count(*) from sluice.closed_time";
    assert_eq!(session.one::<i64>(runs).await, 3);
}

#[tokio::test]
async fn one_round_deletes_no_more_than_a_batch() {
    let app = App::migrated().await;
    let mut session = app.superuser().await;
    session
        .run(
            "insert into sluice.run (id, workflow, version, subject, resource, state, deadline_at, ended_at)
             select gen_random_uuid(), 'w', 1, n, n, 'succeeded', now(), now() - interval '40 days'
             from generate_series(1, 25) as n",
        )
        .await;
    let ledger = ledger_of(&app);

    let rounds = [ledger.prune(MONTH, 10).await, ledger.prune(MONTH, 10).await, ledger.prune(MONTH, 10).await];

    assert_eq!(rounds.map(|round| round.unwrap().rows), [10, 10, 5]);
}

fn ledger_of(app: &App) -> Postgres {
    Postgres::over(Database::open(app.options(), Pooling::Session, 1), Arc::new(Registry::default()))
}

#[tokio::test]
async fn an_old_event_that_is_replayed_waits_for_a_whole_retention_again() {
    let app = App::migrated().await;
    let mut session = app.superuser().await;
    session
        .run(
            "insert into sluice.event (id, run_id, sequence, type, routing_key, payload, created_at, published_at)
             select gen_random_uuid(), gen_random_uuid(), 1, 't', 'w.ended', '{}', now() - interval '40 days',
               now() - interval '29 days'",
        )
        .await;
    let ledger = ledger_of(&app);
    let events: Vec<uuid::Uuid> = session.all("select id from sluice.event").await;
    let by = sluice::ledger::By { actor: "ana".to_owned(), note: None };

    let replayed = ledger.replay(&events, &by).await.unwrap();
    let soon = ledger.prune(MONTH, 100).await.unwrap();
    session.run("update sluice.event set replayed_at = replayed_at - interval '31 days'").await;
    let later = ledger.prune(MONTH, 100).await.unwrap();

    assert_eq!((replayed, soon), (1, Pruned::default()));
    assert_eq!(later, Pruned { rows: 1, unpublished: 1 });
}
