//! How Postgres executes the statements of a running Sluice when much lies behind it: auto_explain
//! writes the plan of each one, with the rows that were read, while real processes serve sign-ups.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tests::bench::{Fill, Given, Roles, Setup, Stage, filled, stream};

use crate::app::App;

const FINISHED: usize = 20_000;
const WAITING: usize = 5_000;

/// Rows that one scan may read: no more than the largest batch has.
const AT_MOST: f64 = 200.0;

/// A part of each statement that must have been seen.
const PARTS: [&str; 16] = [
    "from sluice.take_sign_ups($1)",
    "array_agg(pending.user_id order by pending.user_id)",
    "with begun as",
    "with shown as materialized",
    "with given as (",
    "with moved as (",
    "with ended as (",
    "sluice.renew(",
    "min(running.started_at) as since",
    "with over as materialized",
    "step.lease_until < now()",
    "select over.run_id",
    "sum(upper(span) - lower(span))",
    "from sluice.waiting(",
    "held.doubted_at",
    "array_agg(old.id)",
];

/// What runs once in a while and may read more: retention, whose index knows blocks and no rows,
/// and the finder's look at all profiles, at a relay's start and each hour.
const RARE: [&str; 2] = ["array_agg(old.id)", "select lost.id, lost.made_at"];

/// The tables that grow with the users.
const LARGE: [&str; 12] = [
    "run",
    "step",
    "attempt",
    "resource",
    "event",
    "dead_letter",
    "request",
    "profiles",
    "users",
    "evolution_instances",
    "evolution_instance_creation_queue",
    "audit",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_of_a_running_sluice_reads_more_because_much_lies_behind() {
    let mut stage = Stage::open(&Given::default(), |_| {}).await.unwrap();
    let database = stage.new_database().await.unwrap();
    filled(&stage, &database, Fill::Finished, 0..FINISHED).await.unwrap();
    filled(&stage, &database, Fill::Waiting, FINISHED..FINISHED + WAITING).await.unwrap();
    let settings = [
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_nested_statements", "on"),
        ("auto_explain.log_analyze", "on"),
        ("auto_explain.log_timing", "off"),
        ("auto_explain.log_format", "json"),
    ];
    for (name, value) in settings {
        stage.site.set_for(&database, name, value).await.unwrap();
    }

    stream(&mut stage, &Setup::new(Roles::USUAL, &database), 10.0, 3.0).await.unwrap();
    // Asked by a relay only where there is something to find.
    let mut session = PgConnection::connect(&database.url).await.unwrap();
    sqlx::raw_sql(
        "select sluice.end_leases(); select sluice.expired('{provision-instance:1}', 200); select sluice.exceed(200)",
    )
    .execute(&mut session)
    .await
    .unwrap();
    session.close().await.unwrap();

    let log = stage.site.postgres_log().unwrap();
    let (mut statements, mut too_many) = (BTreeSet::new(), BTreeSet::new());
    for plan in plans(&log) {
        let statement = plan["Query Text"].as_str().unwrap();
        if let Some(part) = PARTS.iter().find(|part| statement.contains(*part)) {
            statements.insert(*part);
        }
        for (scan, read) in scans(&plan["Plan"]) {
            if read > AT_MOST && !RARE.iter().any(|rare| statement.contains(rare)) {
                too_many.insert(format!("{read} rows by {scan} in {statement}"));
            }
        }
    }
    assert_eq!(statements, BTreeSet::from(PARTS), "the statements whose plans were seen");
    assert!(too_many.is_empty(), "{too_many:#?}");
}

/// What a gate has announced in years stands before what it announces now.
#[tokio::test]
async fn a_gate_that_has_announced_much_costs_a_claim_of_its_next_event_nothing() {
    let app = App::migrated().await;
    let mut session = app.superuser().await;
    let claim = "select count(*) from sluice.claim_events('me', 30, 100)";
    // Planned while the ledger is empty.
    session.run(claim).await;
    session
        .run(
            "insert into sluice.event (run_id, sequence, type, routing_key, payload, published_at)
             select md5('host/api.example')::uuid, n, 'sluice.gate.closed.v1', 'gate.closed', '{\"subject\": \"host/api.example\"}',
               case when n <= 100000 then now() end
             from generate_series(1, 100001) as n",
        )
        .await;

    session.run("begin").await;
    let claimed: i64 = session.one(claim).await;
    let read: i64 = session
        .one(
            "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables
             where relid = 'sluice.event'::regclass",
        )
        .await;
    session.run("commit").await;

    assert_eq!(claimed, 1);
    assert!(read < 20, "{read} events were read to claim one");
}

/// Among millions of events with random ids each new one would need a page of its own of the index.
#[tokio::test]
async fn the_ids_of_events_sort_by_their_moment() {
    let app = App::migrated().await;
    let mut session = app.superuser().await;

    session
        .run(
            "do $$
             begin
               for n in 1 .. 20 loop
                 insert into sluice.event (run_id, sequence, type, routing_key, payload)
                 values (gen_random_uuid(), n, 't', 'x', '{}');
                 perform pg_sleep(0.002);
               end loop;
             end
             $$",
        )
        .await;

    let sequences: Vec<i32> = session.all("select sequence from sluice.event order by id").await;
    assert_eq!(sequences, (1..=20).collect::<Vec<_>>());
}

/// The plans in a server's log: JSON on lines that begin with a tab, below the line that says how
/// long the statement took.
fn plans(log: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        if !line.ends_with("plan:") {
            continue;
        }
        let mut json = String::new();
        while let Some(line) = lines.next_if(|line| line.starts_with('\t')) {
            json.push_str(line);
            json.push('\n');
        }
        all.push(serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}")));
    }
    all
}

/// The scans of large tables in a plan, with the rows that each read over all its loops.
fn scans(node: &Value) -> Vec<(String, f64)> {
    let mut all = Vec::new();
    let (kind, table, index) = (&node["Node Type"], &node["Relation Name"], &node["Index Name"]);
    if LARGE.iter().any(|large| table == large) && kind != "ModifyTable" {
        let number = |name: &str| node[name].as_f64().unwrap_or_default();
        let kept_and_not =
            number("Actual Rows") + number("Rows Removed by Filter") + number("Rows Removed by Index Recheck");
        all.push((format!("{kind} of {table} through {index}"), kept_and_not * number("Actual Loops")));
    }
    for below in node["Plans"].as_array().into_iter().flatten() {
        all.extend(scans(below));
    }
    all
}
