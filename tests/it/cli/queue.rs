//! `sluice queue`.

use serde_json::{Value, json};
use tests::servers;

use super::Cli;
use crate::conformance::bench::{HOST, PROVISION, user};

fn line<'a>(stats: &'a Value, list: &str, key: &str, name: &str) -> &'a Value {
    let lines = stats[list].as_array().unwrap();
    lines.iter().find(|line| line[key] == name).unwrap_or_else(|| panic!("{name} is not in {stats}"))
}

#[tokio::test]
async fn stats_say_what_waits_and_what_is_dead() {
    let cli = Cli::new().await;
    cli.one_of_each().await;

    let stats = cli.run(&["queue", "stats", "--json"]).await.expect(0).json();
    let table = cli.run(&["queue", "stats"]).await.expect(0).table();

    let create = line(&stats, "steps", "step", "create-instance");
    for (name, count) in [("due", 1), ("held", 0), ("scheduled", 0), ("waiting", 0), ("running", 1)] {
        assert_eq!(create[name], json!(count), "{name}");
    }
    assert!(create["oldest_unfinished_at"].is_string());
    assert_eq!((&create["passes"], &create["capped"]), (&json!(true), &json!(false)));
    assert_eq!(create["redis_depth"], json!(null));
    assert_eq!(line(&stats, "steps", "step", "verify")["due"], json!(0));
    assert_eq!(stats["dead_letters"][0]["reason"], json!("permanent_error"));
    assert_eq!(stats["projections_pending"]["count"], json!(0));
    assert!(table.contains("create-instance | pass | 1 | 0 | 0 | 0 | 1 | <ago> | -"), "{table}");
    assert!(table.contains("step | create-instance | passes | - | -"), "{table}");
    assert!(table.contains("permanent_error | create-instance | 1 | <ago>"), "{table}");
}

#[tokio::test]
async fn stats_say_what_a_gate_holds_and_why() {
    let cli = Cli::new().await;
    cli.bench.start(PROVISION, user()).await;
    cli.run(&["queue", "pause", "--host", HOST]).await.expect(0);

    let stats = cli.run(&["queue", "stats", "--json"]).await.expect(0).json();
    let table = cli.run(&["queue", "stats"]).await.expect(0).table();

    let create = line(&stats, "steps", "step", "create-instance");
    assert_eq!((&create["due"], &create["held"]), (&json!(0), &json!(1)));
    assert_eq!((&create["passes"], &create["reason"]), (&json!(false), &json!("paused by ana")));
    assert_eq!(line(&stats, "gates", "name", HOST)["passes"], json!(false));
    assert!(table.contains("create-instance | closed: paused by ana | 0 | 1 | 0 | 0 | 0 | - | -"), "{table}");
    assert!(table.contains(&format!("host | {HOST} | closed: paused by ana ")), "{table}");
}

#[tokio::test]
async fn a_host_that_nobody_calls_any_more_is_shown_only_while_a_person_has_set_its_gate() {
    let cli = Cli::new().await;
    let gate = "insert into sluice.gate (scope, name) values ('host', 'old.example')";
    cli.superuser().await.run(gate).await;
    let is_shown = async || {
        let stats = cli.run(&["queue", "stats", "--json"]).await.expect(0).json();
        stats["gates"].as_array().unwrap().iter().any(|gate| gate["name"] == "old.example")
    };

    let before = is_shown().await;
    cli.run(&["queue", "pause", "--host", "old.example"]).await.expect(0);
    let paused = is_shown().await;
    cli.run(&["queue", "resume", "--host", "old.example"]).await.expect(0);

    assert_eq!((before, paused, is_shown().await), (false, true, false));
}

#[tokio::test]
async fn stats_count_what_redis_holds_and_do_without_it() {
    let cli = Cli::new().await;
    let (redis, prefix) = (servers::shared().await.redis.url(), servers::prefix().replace(':', ""));
    let away = format!("redis://127.0.0.1:{}", servers::free_port().unwrap());
    let stats = async |url: &str| {
        let variables = [("REDIS_URL", url), ("REDIS_PREFIX", &prefix)];
        cli.run_with(&["queue", "stats", "--json"], &variables).await.expect(0)
    };

    let (there, gone) = (stats(&redis).await, stats(&away).await);

    assert_eq!(line(&there.json(), "steps", "step", "verify")["redis_depth"], json!(0), "{}", there.err);
    assert_eq!(line(&gone.json(), "steps", "step", "verify")["redis_depth"], json!(null));
    assert!(gone.err.contains("Redis is left out: cannot read the depth"), "{}", gone.err);
}

#[tokio::test]
async fn nothing_may_start_between_pause_and_resume() {
    let cli = Cli::new().await;
    cli.bench.start(PROVISION, user()).await;

    let paused = cli.run(&["queue", "pause", "create-instance", "--note", "the API moves"]).await.expect(0);
    let again = cli.run(&["queue", "pause", "create-instance", "--json"]).await.expect(0);
    assert_eq!(cli.bench.due("create-instance").await.len(), 0);
    let table = cli.run(&["queue", "stats"]).await.expect(0).out;
    let resumed = cli.run(&["queue", "resume", "create-instance", "--by", "bob"]).await.expect(0);

    assert_eq!(cli.bench.due("create-instance").await.len(), 1);
    assert_eq!(paused.out, "step create-instance is paused\n");
    assert_eq!(
        again.json(),
        json!({ "action": "pause", "scope": "step", "name": "create-instance", "changed": false })
    );
    assert!(table.contains("paused by ana"), "{table}");
    assert_eq!(resumed.out, "step create-instance is resumed\n");
    assert_eq!(
        cli.audited().await,
        ["ana gate.pause create-instance the API moves", "bob gate.resume create-instance"]
    );
}

#[tokio::test]
async fn a_workflow_and_a_host_are_paused_by_name() {
    let cli = Cli::new().await;
    cli.bench.start(PROVISION, user()).await;

    cli.run(&["queue", "pause", "--workflow", PROVISION]).await.expect(0);
    assert_eq!(cli.bench.due("create-instance").await.len(), 0);
    cli.run(&["queue", "resume", "--workflow", PROVISION]).await.expect(0);
    cli.run(&["queue", "pause", "--host", HOST]).await.expect(0);
    assert_eq!(cli.bench.due("create-instance").await.len(), 0);
    cli.run(&["queue", "resume", "--host", HOST]).await.expect(0);

    let stats = cli.run(&["queue", "stats", "--json"]).await.expect(0).json();
    assert_eq!(line(&stats, "gates", "name", HOST)["paused_at"], json!(null));
    assert_eq!(line(&stats, "gates", "name", PROVISION)["paused_by"], json!(null));
}

#[tokio::test]
async fn rate_and_concurrency_are_set_and_lifted() {
    let cli = Cli::new().await;
    let gate = async || {
        let stats = cli.run(&["queue", "stats", "--json"]).await.expect(0).json();
        let gate = line(&stats, "gates", "name", "verify").clone();
        (gate["rate"].clone(), gate["concurrency"].clone())
    };

    let rate = cli.run(&["queue", "rate", "verify", "2.5"]).await.expect(0);
    let concurrency = cli.run(&["queue", "concurrency", "verify", "7"]).await.expect(0);
    assert_eq!(gate().await, (json!(2.5), json!(7)));
    cli.run(&["queue", "rate", "verify", "off"]).await.expect(0);
    cli.run(&["queue", "concurrency", "verify", "off"]).await.expect(0);

    assert_eq!(gate().await, (json!(null), json!(null)));
    assert_eq!(rate.out, "step verify starts at most 2.5 a second\n");
    assert_eq!(concurrency.out, "step verify runs at most 7 at once\n");
    assert_eq!(cli.audited().await.len(), 4);
}

#[tokio::test]
async fn a_mistyped_gate_is_refused_and_a_missing_one_too() {
    let cli = Cli::new().await;
    let before = cli.state().await;

    let mistyped = cli.run(&["queue", "pause", "create-instanc"]).await.expect(4);
    let unknown = cli.run(&["queue", "rate", "--host", "elsewhere.test", "5"]).await.expect(4);
    for arguments in [
        &["queue", "pause"][..],
        &["queue", "rate", "5"],
        &["queue", "rate", "verify", "0"],
        &["queue", "concurrency", "verify", "many"],
        &["queue", "rate", "--workflow", "provision-instance", "5"],
        &["queue", "pause", "verify", "--host", "elsewhere.test"],
    ] {
        cli.run(arguments).await.expect(2);
    }

    let known = "there is no step create-instanc; those that are there: configure-webhooks, create-instance";
    assert!(mistyped.err.contains(known), "{}", mistyped.err);
    let known = format!("there is no host elsewhere.test; those that are there: {HOST}");
    assert!(unknown.err.contains(&known), "{}", unknown.err);
    assert_eq!(cli.state().await, before);
}

#[tokio::test]
async fn a_database_that_no_role_has_seen_says_so() {
    let cli = Cli::new().await;
    cli.superuser().await.run("delete from sluice.definition; delete from sluice.gate").await;

    let stats = cli.run(&["queue", "stats"]).await.expect(0);
    let unknown = cli.run(&["queue", "pause", "verify"]).await.expect(4);

    assert!(stats.out.contains("no workflow is registered yet"), "{}", stats.out);
    assert!(unknown.err.contains("those that are there: none yet"), "{}", unknown.err);
}
