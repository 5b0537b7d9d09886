//! What a person does with events.

use std::time::Duration;

use serde_json::{Value, json};
use tests::servers::{Process, until};

use super::{rabbitmq, unique};
use crate::{
    conformance::{
        bench::{Bench, CREATE, PROVISION, STEPS, refusal, user},
        postgres::{self, InPostgres},
    },
    program,
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn sluice(bench: &Bench<InPostgres>, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = program::run(arguments, &[("DATABASE_URL", bench.world.url()), ("USER", "ana")]).await;
    (output.status.code(), program::printed(&output), program::said(&output))
}

fn document(printed: &str) -> Value {
    serde_json::from_str(printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_and_replayed_by_filter_and_id() {
    let bench = postgres::bench().await;
    let run = bench.start(PROVISION, user()).await;
    bench.succeed(run, &STEPS).await;
    let dead = bench.start(PROVISION, user()).await;
    bench.work(dead, CREATE, refusal()).await;
    let mut superuser = crate::app::App::at(bench.world.url().parse().unwrap()).superuser().await;
    superuser.run("update sluice.event set published_at = now() where type <> 'sluice.instance.ready.v1'").await;
    let (all, run_id) = (["events", "list", "--json"], run.to_string());

    let (code, listed, _) = sluice(&bench, &all).await;
    let (_, table, _) = sluice(&bench, &["events", "list", "--type", "sluice.run.dead"]).await;
    let (_, waiting, _) = sluice(&bench, &["events", "list", "--unpublished", "--json"]).await;
    let (_, dry, _) = sluice(&bench, &["events", "replay", "--run", &run_id, "--dry-run", "--json"]).await;
    let (_, replayed, _) = sluice(&bench, &["events", "replay", "--run", &run_id, "--note", "lost", "--json"]).await;
    let (none, ..) = sluice(&bench, &["events", "replay", "--run", &run_id]).await;
    let one = document(&listed)["events"][0]["id"].as_str().unwrap().to_owned();
    let (by_id, printed, said) = sluice(&bench, &["events", "replay", &one]).await;

    assert_eq!((code, document(&listed)["events"].as_array().unwrap().len()), (Some(0), 5));
    assert!(table.contains("sluice.run.dead.v1") && table.lines().count() == 2, "{table}");
    assert_eq!(document(&waiting)["events"][0]["type"], json!("sluice.instance.ready.v1"));
    let (dry, replayed) = (document(&dry), document(&replayed));
    assert_eq!((&dry["replayed"], &dry["dry_run"]), (&json!(2), &json!(true)));
    assert_eq!((&replayed["replayed"], &replayed["dry_run"]), (&json!(2), &json!(false)));
    assert_eq!(none, Some(4), "they wait to be published already");
    assert_eq!((by_id, printed.trim()), (Some(0), "will be published once more, under the same ids: 1"), "{said}");
    let audited: String = superuser
        .one("select concat_ws(' ', actor, action, detail ->> 'note') from sluice.audit where action like 'events.%' limit 1")
        .await;
    assert_eq!(audited, "ana events.replay lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_shown_as_they_pass() {
    let (server, bench, exchange) = (&rabbitmq().await.server, postgres::bench().await, unique("tail"));
    let (url, letters) = (server.url(), format!("{exchange}.dead"));
    let variables = [
        ("DATABASE_URL", bench.world.url()),
        ("AMQP_URL", url.as_str()),
        ("EVENTS_EXCHANGE", &exchange),
        ("EVENTS_DEAD_LETTER_EXCHANGE", &letters),
    ];
    let mut publisher = program::start(&["events"], &variables);
    publisher.wait_for_log("connected to the broker", PATIENCE).await.unwrap();
    let tail = |arguments: &[&str]| -> Process {
        program::start(&[&["events", "tail", "--limit", "1"], arguments].concat(), &variables)
    };
    let user = user();
    let mut dead = tail(&["--type", "sluice.run.dead"]);
    let mut documents = tail(&["--json", "--subject", &user.to_string()]);
    for tail in [&mut dead, &mut documents] {
        tail.wait_for_log("listening at", PATIENCE).await.unwrap();
    }

    bench.start(PROVISION, crate::conformance::bench::user()).await;
    let run = bench.start(PROVISION, user).await;
    bench.work(run, CREATE, refusal()).await;

    for tail in [&mut dead, &mut documents] {
        assert!(tail.wait_for_exit(PATIENCE).await.unwrap().success(), "{}", tail.log());
    }
    let (dead, documents) = (dead.log(), documents.log());
    let line = dead.lines().last().unwrap();
    assert!(line.contains("provision-instance.dead") && line.contains("permanent_error"), "{line}");
    let event = document(documents.lines().last().unwrap());
    assert_eq!((&event["type"], &event["data"]["run"]), (&json!("sluice.run.started.v1"), &json!(run.to_string())));
    let drained = until(PATIENCE, async || {
        let select = "select count(*) = 0 from sluice.event where published_at is null";
        let mut session = crate::app::App::at(bench.world.url().parse().unwrap()).superuser().await;
        session.one::<bool>(select).await.then_some(())
    });
    assert!(drained.await.is_some());
}
