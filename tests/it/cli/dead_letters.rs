//! `sluice dead-letters`.

use serde_json::json;
use sluice::ledger::{Changed, OperatorLedger};
use workflows::{
    ids::RunId,
    outcome::{Class, Failure, Outcome},
    state::{RunState, StepState},
};

use super::Cli;
use crate::conformance::{
    bench::{LIMITS, LONG, PROVISION, by, retry, success_with, user},
    world::World,
};

/// Its second step failed too often.
async fn exhausted(cli: &Cli) -> RunId {
    let run = cli.bench.start(PROVISION, user()).await;
    cli.bench.work(run, "create-instance", success_with(json!({ "made": 1 }))).await;
    for _ in 0..LIMITS.failures {
        cli.bench.work(run, "configure-webhooks", retry()).await;
        cli.bench.world.advance(LONG).await;
    }
    run
}

#[tokio::test]
async fn the_list_says_what_failed_where_and_why() {
    let cli = Cli::new().await;
    exhausted(&cli).await;
    cli.bench.dead_run(user()).await;

    let listed = cli.run(&["dead-letters", "list"]).await.expect(0);
    let filtered = cli.run(&["dead-letters", "list", "--reason", "attempts_exhausted", "--json"]).await.expect(0);

    assert_eq!(
        listed.table(),
        "ID | RUN | STEP | REASON | CLASS | DIED | RESOLVED | SUBJECT | ERROR\n\
         2 | <run> | create-instance | permanent_error | rejected | <ago> | - | <user> | the server refuses it\n\
         1 | <run> | configure-webhooks | attempts_exhausted | server_error | <ago> | - | <user> | the server answered 500"
    );
    let document = filtered.json();
    assert_eq!(document["more"], json!(false));
    assert_eq!(document["dead_letters"].as_array().unwrap().len(), 1);
    let letter = &document["dead_letters"][0];
    assert_eq!((&letter["id"], &letter["step"]), (&json!(1), &json!("configure-webhooks")));
    assert_eq!((&letter["class"], &letter["resolved_at"]), (&json!("server_error"), &json!(null)));
    chrono::DateTime::parse_from_rfc3339(letter["died_at"].as_str().unwrap()).unwrap();
}

#[tokio::test]
async fn a_list_says_when_there_is_more() {
    let cli = Cli::new().await;
    cli.bench.dead_run(user()).await;
    cli.bench.dead_run(user()).await;

    let listed = cli.run(&["dead-letters", "list", "--limit", "1", "--json"]).await.expect(0);

    assert_eq!(listed.json()["more"], json!(true));
    assert_eq!(listed.json()["dead_letters"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn one_is_shown_with_every_attempt() {
    let cli = Cli::new().await;
    let run = exhausted(&cli).await;

    let shown = cli.run(&["dead-letters", "show", "1"]).await.expect(0);
    let document = cli.run(&["dead-letters", "show", &run.to_string(), "--json"]).await.expect(0).json();

    for part in ["reason      attempts_exhausted", "step        configure-webhooks", "sluice dead-letters retry 1"] {
        assert!(shown.out.contains(part), "{part} is not in:\n{}", shown.out);
    }
    assert!(!shown.out.contains("dead-letters show"), "it names itself as the mend:\n{}", shown.out);
    assert_eq!(shown.table().matches("configure-webhooks | failed | server_error | 500").count(), 3, "{}", shown.out);
    assert_eq!(document["dead_letter"]["reason"], json!("attempts_exhausted"));
    assert_eq!(document["attempts"].as_array().unwrap().len(), 4);
    assert_eq!(document["steps"][1]["state"], json!("dead"));
    assert_eq!(document["run"]["state"], json!("dead"));
}

#[tokio::test]
async fn a_retry_resumes_at_the_failed_step_and_says_who_did_it() {
    let cli = Cli::new().await;
    let run = exhausted(&cli).await;

    let retried = cli.run(&["dead-letters", "retry", "1", "--note", "the API is mended"]).await.expect(0);

    assert_eq!(
        retried.table(),
        "ID | RUN | STEP | RESULT | WHY\n\
         1 | <run> | configure-webhooks | revived | -\n\
         1 revived, 0 skipped, 0 failed"
    );
    let (done, failed) = (cli.bench.step(run, 0).await, cli.bench.step(run, 1).await);
    assert_eq!((done.state, done.output), (StepState::Succeeded, Some(json!({ "made": 1 }))));
    assert_eq!((failed.state, failed.spent), (StepState::Due, Default::default()));
    assert_eq!(cli.audited().await, [format!("ana run.revive {run} the API is mended")]);
    let listed = cli.run(&["dead-letters", "list", "--resolved"]).await.expect(0);
    assert!(listed.out.contains("revived by ana"), "{}", listed.out);
}

#[tokio::test]
async fn a_run_that_is_alive_is_not_retried() {
    let cli = Cli::new().await;
    let run = cli.bench.dead_run(user()).await.to_string();
    cli.run(&["dead-letters", "retry", &run]).await.expect(0);
    let before = cli.state().await;

    let again = cli.run(&["dead-letters", "retry", &run]).await.expect(1);
    let discarded = cli.run(&["dead-letters", "discard", &run, "--json"]).await.expect(1);

    let why = format!("run {run} is active, and only a dead one is revived: see `sluice runs show {run}`");
    assert!(again.out.contains(&why), "{}", again.out);
    assert_eq!(discarded.json()["skipped"].as_array().unwrap().len(), 1);
    assert_eq!(cli.state().await, before);
}

#[tokio::test]
async fn of_several_named_those_that_can_be_retried_are() {
    let cli = Cli::new().await;
    let (one, other) = (cli.bench.dead_run(user()).await, cli.bench.dead_run(user()).await);

    let report = cli.run(&["dead-letters", "retry", "1", "77", "2", &one.to_string(), "--json"]).await.expect(1).json();

    assert_eq!(report["matched"], json!(2));
    assert_eq!(report["done"].as_array().unwrap().len(), 2);
    assert_eq!(
        report["skipped"],
        json!([{ "id": 77, "run": null, "step": null, "why": "there is no such dead letter" }])
    );
    for run in [one, other] {
        assert_eq!(cli.bench.world.run(run).await, RunState::Active);
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let cli = Cli::new().await;
    cli.bench.dead_run(user()).await;
    cli.bench.dead_run(user()).await;
    let before = cli.state().await;

    let retry = cli.run(&["dead-letters", "retry", "--all", "--dry-run", "--json"]).await.expect(0);
    let discard = cli.run(&["dead-letters", "discard", "1", "--dry-run"]).await.expect(0);

    assert_eq!((&retry.json()["dry_run"], &retry.json()["action"]), (&json!(true), &json!("revive")));
    assert_eq!(retry.json()["done"].as_array().unwrap().len(), 2);
    assert!(discard.out.contains("1 would be discarded, 0 skipped"), "{}", discard.out);
    assert_eq!(cli.state().await, before);
}

#[tokio::test]
async fn a_filter_retries_what_fits_one_after_the_other_and_in_somebodys_name() {
    let cli = Cli::new().await;
    let mut fitting = Vec::new();
    for _ in 0..3 {
        fitting.push(cli.bench.dead_run(user()).await);
    }
    let other = cli.bench.start(PROVISION, user()).await;
    let taken = Outcome::Permanent(Failure::new(Class::NameTaken, "the name is taken"));
    cli.bench.work(other, "create-instance", taken).await;

    let arguments =
        ["dead-letters", "retry", "--class", "rejected", "--rate", "2/s", "--by", "bob", "--note", "why", "--json"];
    let report = cli.run(&arguments).await.expect(0).json();

    assert_eq!((&report["matched"], report["done"].as_array().unwrap().len()), (&json!(3), 3));
    let expected: Vec<_> = fitting.iter().map(|run| format!("bob run.revive {run} why")).collect();
    assert_eq!(cli.audited().await, expected);
    assert_eq!(cli.bench.world.run(other).await, RunState::Dead);
    let spread = "select extract(epoch from max(at) - min(at))::float8 from sluice.audit where actor = 'bob'";
    let seconds: f64 = cli.superuser().await.one(spread).await;
    assert!(seconds > 0.6, "three at 2/s took {seconds} s");
}

#[tokio::test]
async fn a_discarded_run_has_ended_with_who_and_why() {
    let cli = Cli::new().await;
    let run = cli.bench.dead_run(user()).await;

    cli.run(&["dead-letters", "discard", "1", "--note", "a test account"]).await.expect(0);

    assert_eq!(cli.bench.world.run(run).await, RunState::Cancelled);
    assert_eq!(cli.audited().await, [format!("ana run.discard {run} a test account")]);
    let shown = cli.run(&["dead-letters", "show", "1", "--json"]).await.expect(0).json();
    assert_eq!(shown["dead_letter"]["resolution"], json!("discarded"));
    assert_eq!(shown["dead_letter"]["note"], json!("a test account"));
}

#[tokio::test]
async fn a_run_that_somebody_revived_meanwhile_is_not_discarded() {
    let cli = Cli::new().await;
    let run = cli.bench.dead_run(user()).await;
    cli.bench.ledger().revive(run, &by("bob")).await.unwrap();

    let changed = cli.bench.ledger().discard(run, &by("ana")).await.unwrap();

    assert_eq!(changed, Changed::No(RunState::Active));
    assert_eq!(cli.bench.world.run(run).await, RunState::Active);
}

#[tokio::test]
async fn exit_codes_tell_nothing_matched_from_bad_arguments() {
    let cli = Cli::new().await;

    for arguments in [
        &["dead-letters", "list"][..],
        &["dead-letters", "list", "--json"],
        &["dead-letters", "show", "1"],
        &["dead-letters", "retry", "1"],
        &["dead-letters", "retry", "--all"],
        &["dead-letters", "discard", "--since", "1h"],
    ] {
        cli.run(arguments).await.expect(4);
    }
    for arguments in [
        &["dead-letters", "retry"][..],
        &["dead-letters", "retry", "1", "--all"],
        &["dead-letters", "retry", "1", "--step", "verify"],
        &["dead-letters", "retry", "--all", "--rate", "0"],
        &["dead-letters", "list", "--reason", "bad_luck"],
        &["dead-letters", "discard", "1", "--note", " "],
    ] {
        cli.run(arguments).await.expect(2);
    }
    let nowhere = [("DATABASE_URL", "postgres://ada:hunter2@127.0.0.1:1/app")];
    let away = cli.run_with(&["dead-letters", "list"], &nowhere).await.expect(1);
    assert!(away.err.contains("cannot connect to Postgres") && !away.err.contains("hunter2"), "{}", away.err);
}
