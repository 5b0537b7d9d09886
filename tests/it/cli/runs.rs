//! `sluice runs`.

use serde_json::{Value, json};
use sluice::ledger::{
    RelayLedger, WorkerLedger,
    scenario::{FORMAT, Met, Scenario},
    settlement::Quiet,
};
use tests::ledger::Ledger;
use workflows::{ids::RunId, outcome::Class, state::RunState};

use super::Cli;
use crate::{
    app::App,
    conformance::{
        bench::{LONG, PROVISION, RECONFIGURE, new_run, refusal, retry, success, user},
        world::World,
    },
    program,
};

#[tokio::test]
async fn the_list_says_where_each_run_stands() {
    let cli = Cli::new().await;
    let [_, dead, ..] = cli.one_of_each().await;

    let listed = cli.run(&["runs", "list"]).await.expect(0);
    let filtered = cli.run(&["runs", "list", "--state", "dead", "--json"]).await.expect(0).json();

    assert_eq!(
        listed.table(),
        "RUN | STATE | WORKFLOW | STEP | STEP STATE | WAITS FOR | FAILURES | STARTED | ENDED | SUBJECT | ERROR\n\
         <run> | active | provision-instance | create-instance | due | a worker | 0 | <ago> | - | <user> | -\n\
         <run> | active | provision-instance | create-instance | running | - | 0 | <ago> | - | <user> | -\n\
         <run> | cancelled | provision-instance | create-instance | cancelled | - | 0 | <ago> | <ago> | <user> | -\n\
         <run> | dead | provision-instance | create-instance | dead | - | 0 | <ago> | <ago> | <user> | the server refuses it\n\
         <run> | succeeded | provision-instance | verify | succeeded | - | 0 | <ago> | <ago> | <user> | -"
    );
    assert_eq!(filtered["runs"].as_array().unwrap().len(), 1);
    assert_eq!(filtered["runs"][0]["id"], json!(dead));
}

#[tokio::test]
async fn a_users_runs_are_found_by_id_and_by_address() {
    let cli = Cli::new().await;
    let (ada, other) = (user(), user());
    cli.bench.world.sign_up(ada).await;
    let run = cli.bench.start(PROVISION, ada).await;
    cli.bench.start(PROVISION, other).await;

    for subject in [ada.to_string(), format!("{ada}@example.org")] {
        let found = cli.run(&["runs", "list", "--subject", &subject, "--json"]).await.expect(0).json();
        assert_eq!(found["runs"].as_array().unwrap().len(), 1, "{subject}");
        assert_eq!(found["runs"][0]["id"], json!(run));
    }
    let nobody = cli.run(&["runs", "list", "--subject", "nobody@example.org"]).await.expect(4);
    assert!(nobody.err.contains("no profile has the address nobody@example.org"), "{}", nobody.err);
}

/// The profiles are not asked: another workflow's subject may look like an address, and be one that
/// somebody has.
#[tokio::test]
async fn a_subject_with_an_at_sign_goes_before_an_address() {
    let cli = Cli::new().await;
    let ada = user();
    cli.bench.world.sign_up(ada).await;
    cli.bench.start(PROVISION, ada).await;
    let address = format!("{ada}@example.org");
    let mut of_the_shop = new_run(RECONFIGURE, user());
    of_the_shop.subject = address.parse().unwrap();
    cli.bench.ledger().start(&[of_the_shop]).await.unwrap();

    let found = cli.run(&["runs", "list", "--subject", &address, "--json"]).await.expect(0).json();
    let dead = cli.run(&["runs", "list", "--subject", &address, "--state", "dead"]).await.expect(4);

    let subjects: Vec<_> = found["runs"].as_array().unwrap().iter().map(|run| &run["subject"]).collect();
    assert_eq!(subjects, [&json!(address)]);
    assert!(!dead.err.contains("profile"), "{}", dead.err);
}

#[tokio::test]
async fn an_address_is_found_under_another_key_and_profiles_without_addresses_are_said() {
    let cli = Cli::new().await;
    let ada = user();
    cli.bench.world.sign_up(ada).await;
    cli.bench.start(PROVISION, ada).await;
    let mut superuser = cli.superuser().await;
    let address = format!("{ada}@example.org");

    superuser.run("alter table public.profiles rename column id to owner").await;
    superuser.run("alter table public.profiles drop column created_at").await;
    let found = cli.run(&["runs", "list", "--subject", &address, "--json"]).await.expect(0).json();
    superuser.run("alter table public.profiles rename column email to contact").await;
    let without = cli.run(&["runs", "list", "--subject", &address]).await.expect(1);

    assert_eq!(found["runs"].as_array().unwrap().len(), 1);
    let expected = "give the user's id instead: the ledger's database answered: public.profiles has no column email\n";
    assert!(without.err.contains(expected), "{}", without.err);
}

#[tokio::test]
async fn a_search_that_takes_too_long_is_given_up_and_says_how_to_narrow_it() {
    let cli = Cli::new().await;
    cli.bench.start(PROVISION, user()).await;
    let slow = "alter table sluice.run rename to slow_run;
         create view sluice.run as select slow_run.* from sluice.slow_run cross join lateral (select pg_sleep(20)) as slow;
         grant select on sluice.run to sluice_runtime";
    cli.superuser().await.run(slow).await;

    let listed = cli.run(&["runs", "list"]).await.expect(1);

    let said = "the search was given up after two seconds: narrow it by --state active, --since or --subject";
    assert!(listed.err.contains(said), "{}", listed.err);
}

#[tokio::test]
async fn a_run_is_shown_with_its_steps_attempts_and_announcements() {
    let cli = Cli::new().await;
    let run = cli.bench.start(PROVISION, user()).await;
    cli.bench.succeed(run, &["create-instance", "configure-webhooks", "verify"]).await;

    let shown = cli.run(&["runs", "show", &run.to_string()]).await.expect(0);
    let document = cli.run(&["runs", "show", &run.to_string(), "--json"]).await.expect(0).json();

    for part in ["state       succeeded", "ATTEMPT OF", "provision-instance.succeeded"] {
        assert!(shown.out.contains(part), "{part} is not in:\n{}", shown.out);
    }
    for row in [" | succeeded | - | - | 0 | ", " | succeeded | - | - | <ago> | "] {
        assert_eq!(shown.table().matches(row).count(), 3, "{row} is not there three times in:\n{}", shown.out);
    }
    assert_eq!(document["steps"].as_array().unwrap().len(), 3);
    assert_eq!(document["attempts"][2]["step"], json!("verify"));
    let events = document["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap());
    let expected = ["sluice.run.started.v1", "sluice.run.succeeded.v1", "sluice.instance.ready.v1"];
    assert_eq!(events.collect::<Vec<_>>(), expected);
    assert_eq!(document["dead_letter"], json!(null));
    assert_eq!(document["steps"][0].get("output"), None);
}

/// What the run's first step that is not done waits for, for machines and for people.
async fn waits(cli: &Cli, run: RunId) -> (Value, String) {
    let run = run.to_string();
    let document = cli.run(&["runs", "show", &run, "--json"]).await.expect(0).json();
    let step = document["steps"].as_array().unwrap().iter().find(|step| step["state"] == "due").unwrap();
    (step["waits_for"].clone(), cli.run(&["runs", "show", &run]).await.expect(0).out)
}

#[tokio::test]
async fn a_due_step_says_what_it_waits_for() {
    let cli = Cli::new().await;
    let user = user();
    let run = cli.bench.start(PROVISION, user).await;

    let (free, said) = waits(&cli, run).await;
    assert_eq!(free, json!([{ "for": "worker" }]));
    assert!(said.contains("a worker"), "{said}");

    cli.run(&["queue", "pause", "create-instance", "--by", "bob"]).await.expect(0);
    let (paused, said) = waits(&cli, run).await;
    assert_eq!(paused, json!([{ "for": "gate", "reason": "paused by bob" }]));
    assert!(said.contains("a gate: paused by bob"), "{said}");
    cli.run(&["queue", "resume", "create-instance"]).await.expect(0);

    cli.run(&["queue", "concurrency", "create-instance", "5"]).await.expect(0);
    assert_eq!(waits(&cli, run).await.0, json!([{ "for": "limit" }]));
    cli.run(&["queue", "concurrency", "create-instance", "off"]).await.expect(0);

    cli.bench.work(run, "create-instance", retry()).await;
    // Longer than a slow machine takes to start a program twice.
    let later = format!("update sluice.step set due_at = due_at + interval '1 minute' where run_id = '{run}'");
    cli.superuser().await.run(&later).await;
    let (later, said) = waits(&cli, run).await;
    assert_eq!((later.as_array().unwrap().len(), &later[0]["for"]), (1, &json!("backoff")));
    assert!(later[0]["until"].is_string() && said.contains("its delay, over in "), "{said}");

    let other = cli.bench.start(RECONFIGURE, user).await;
    let (turn, said) = waits(&cli, other).await;
    assert_eq!(turn, json!([{ "for": "turn", "behind": run }]));
    assert!(said.contains(&format!("its turn behind run {run}")), "{said}");
    let listed = cli.run(&["runs", "list", "--workflow", RECONFIGURE, "--json"]).await.expect(0).json();
    assert_eq!(listed["runs"][0]["waits_for"], turn);
}

/// A call that creates may still be under way: its worker says no more of it.
#[tokio::test]
async fn a_step_whose_resource_is_busy_says_until_when() {
    let cli = Cli::new().await;
    let run = cli.bench.start(PROVISION, user()).await;
    let claim = cli.bench.take(run, "create-instance").await;
    cli.bench.write(cli.bench.plan(&claim, retry(), Quiet::Unsure)).await;
    let due = format!("update sluice.step set due_at = now() - interval '1 second' where run_id = '{run}'");
    cli.superuser().await.run(&due).await;

    let (busy, said) = waits(&cli, run).await;

    assert_eq!((busy.as_array().unwrap().len(), &busy[0]["for"]), (1, &json!("resource")));
    assert!(busy[0]["until"].is_string() && said.contains("its resource, free in "), "{said}");
}

#[tokio::test]
async fn a_run_that_nobody_asked_for_says_why_it_is_there() {
    let cli = Cli::new().await;
    let run = cli.bench.start(PROVISION, user()).await;
    cli.bench.ledger().doubt(run).await.unwrap();
    cli.bench.succeed(run, &["create-instance", "configure-webhooks", "verify"]).await;
    cli.bench.world.advance(LONG).await;
    assert_eq!(cli.bench.ledger().look_again(1).await.unwrap(), 1);

    let listed = cli.run(&["runs", "list", "--json"]).await.expect(0).json();
    let shown =
        async |at: usize| cli.run(&["runs", "show", listed["runs"][at]["id"].as_str().unwrap()]).await.expect(0).out;
    let looks: Vec<_> = (0..2).map(|at| listed["runs"][at]["internal"].as_bool().unwrap()).collect();

    let second = looks.iter().position(|look| *look).unwrap();
    assert_eq!(looks.iter().filter(|look| **look).count(), 1);
    assert!(shown(second).await.contains("a second look: two calls of an earlier run may have met"));
    assert!(!shown(1 - second).await.contains("second look"));
}

#[tokio::test]
async fn a_cancelled_run_ends_at_once_or_at_its_settle_and_says_who_asked() {
    let cli = Cli::new().await;
    let [succeeded, dead, _, running, due] = cli.one_of_each().await;
    let cancel = async |run: &str| cli.run(&["runs", "cancel", run, "--note", "left us", "--json"]).await;

    assert_eq!(cancel(&due.to_string()).await.expect(0).json()["result"], json!("cancelled"));
    assert_eq!(cancel(&running.to_string()).await.expect(0).json()["result"], json!("at_settle"));
    assert_eq!(cancel(&dead.to_string()).await.expect(0).json()["result"], json!("cancelled"));
    let ended = cancel(&succeeded.to_string()).await.expect(1).json();
    let missing = cancel("01890000-0000-7000-8000-000000000000").await.expect(4);

    assert_eq!(ended["text"], json!(format!("run {succeeded} has ended already (succeeded): nothing to cancel")));
    assert!(missing.err.contains("there is no run 01890000-"), "{}", missing.err);
    assert_eq!(cli.bench.world.run(due).await, RunState::Cancelled);
    assert_eq!(
        cli.audited().await,
        [
            format!("ana run.cancel {due} left us"),
            format!("ana run.cancel {running} left us"),
            format!("ana run.discard {dead} left us"),
        ]
    );
}

#[tokio::test]
async fn an_exported_run_is_a_scenario_that_names_nobody() {
    let cli = Cli::new().await;
    let user = user();
    let run = cli.bench.start(PROVISION, user).await;
    cli.bench.work(run, "create-instance", retry()).await;
    cli.bench.world.advance(LONG).await;
    cli.bench.work(run, "create-instance", success()).await;
    let claim = cli.bench.take_as("another-worker", run, "configure-webhooks").await;
    cli.bench.settle(&claim, refusal()).await;
    let run = run.to_string();

    let exported = cli.run(&["runs", "export", &run]).await.expect(0);
    let in_a_line = cli.run(&["runs", "export", &run, "--json"]).await.expect(0);

    let scenario: Scenario = serde_json::from_str(&exported.out).unwrap();
    assert_eq!(scenario, serde_json::from_str(&in_a_line.out).unwrap());
    assert_eq!((scenario.format, scenario.workflow.as_str()), (FORMAT, PROVISION));
    assert_eq!((scenario.version, scenario.state), (1, RunState::Dead));
    let met = |met: &Met| (met.step.to_string(), met.worker, met.outcome.clone(), met.class, met.http_status);
    let expected = [
        ("create-instance", 1, "failed", Some(Class::ServerError), Some(500)),
        ("create-instance", 1, "succeeded", None, None),
        ("configure-webhooks", 2, "refused", Some(Class::Rejected), None),
    ];
    let expected = expected
        .map(|(step, worker, outcome, class, status)| (step.to_owned(), worker, outcome.to_owned(), class, status));
    assert_eq!(scenario.attempts.iter().map(met).collect::<Vec<_>>(), expected);
    assert!(scenario.attempts[1].began_ms - scenario.attempts[0].began_ms >= LONG.as_millis() as u64);
    for private in [&run, user.to_string().as_str(), "user_", "the server", "another-worker"] {
        assert!(!exported.out.contains(private), "{private} is in:\n{}", exported.out);
    }
}

#[tokio::test]
async fn a_database_without_a_ledger_is_refused() {
    let app = App::new().await;

    let url = sqlx::ConnectOptions::to_url_lossy(&app.options());
    let refused = program::run(&["runs", "list"], &[("DATABASE_URL", url.as_str())]).await;

    assert_eq!(refused.status.code(), Some(2));
    assert!(program::said(&refused).contains("the database has no schema sluice: run `sluice migrate`"));
}
