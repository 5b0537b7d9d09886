//! Every event is what its schema in docs/events says, and holds no secret.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use serde_json::{Map, Value};
use sluice::{
    events::publish_once,
    ledger::{By, OperatorLedger, Scope},
};
use tests::ledger::Ledger;

use super::Recorder;
use crate::{
    app::App,
    conformance::{
        bench::{CREATE, HOST, PROVISION, STEPS, by, refusal, user},
        postgres,
    },
};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("docs/events")
}

/// By type: what docs/events has of it.
fn schemas() -> BTreeMap<String, Value> {
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    files
        .map(|file| {
            let schema: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            (file.file_stem().unwrap().to_str().unwrap().to_owned(), schema)
        })
        .collect()
}

/// What is wrong with `data`, as far as our schemas say anything: names, what is required, types
/// and lists of values.
fn faults(schema: &Value, data: &Map<String, Value>) -> Vec<String> {
    let properties = schema["properties"].as_object().unwrap();
    let required = schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    let missing = required.filter(|name| !data.contains_key(*name)).map(|name| format!("{name} is missing"));
    let wrong = data.iter().filter_map(|(name, value)| {
        let Some(property) = properties.get(name) else { return Some(format!("{name} is not in the schema")) };
        let is_right = match property["type"].as_str().unwrap() {
            "string" => value.is_string(),
            "integer" => value.is_i64(),
            "array" => {
                let listed = property["items"]["enum"].as_array().expect("a list's values are listed");
                value.as_array().is_some_and(|values| values.iter().all(|value| listed.contains(value)))
            }
            other => panic!("a schema has the type {other}"),
        };
        let is_listed = property["enum"].as_array().is_none_or(|values| values.contains(value));
        (!is_right || !is_listed).then(|| format!("{name} is {value}"))
    });
    missing.chain(wrong).collect()
}

#[tokio::test]
async fn every_event_is_what_its_schema_says_and_each_schema_has_an_event() {
    let bench = postgres::bench().await;
    let ledger = bench.ledger();
    let mut superuser = App::at(bench.world.url().parse().unwrap()).superuser().await;
    let done = bench.start(PROVISION, user()).await;
    superuser.run("update sluice.resource set memory = '{\"status\": \"connected\"}'").await;
    superuser
        .run(
            r#"update sluice.resource
               set memory = memory || '{"webhook_drift": {"found": "changed", "fields": ["url", "byEvents"]}}'"#,
        )
        .await;
    superuser
        .run("update sluice.resource set memory = '{\"status\": \"disconnected\", \"token\": \"t0ken-0f-ada\"}'")
        .await;
    bench.succeed(done, &STEPS).await;
    let dead = bench.start(PROVISION, user()).await;
    bench.work(dead, CREATE, refusal()).await;
    superuser.run("update sluice.resource set memory = '{\"token\": \"t0ken-0f-ada\"}'").await;
    superuser
        .run("update sluice.event set payload = payload || '{\"error\": \"HTTP 400: t0ken-0f-ada\"}' where payload ? 'reason'")
        .await;
    ledger.revive(dead, &by("ana")).await.unwrap();
    let told = By { actor: "ana".to_owned(), note: Some("it still has t0ken-0f-ada".to_owned()) };
    ledger.cancel(dead, &told).await.unwrap();
    ledger.pause(Scope::Host, HOST, &by("ana")).await.unwrap();
    ledger.resume(Scope::Host, HOST, &by("ana")).await.unwrap();
    ledger.hold(Scope::Step, CREATE, Duration::from_secs(60)).await.unwrap();
    superuser
        .run(
            "update sluice.resource set secret = 'drawn-0f-ada';
             update sluice.gate set breaker = 'open', breaker_cause = 'outage', breaker_reason = 'it says drawn-0f-ada'
             where scope = 'host'",
        )
        .await;
    superuser
        .run("insert into sluice.heard (resource) select name from sluice.resource; select sluice.announce_instance(name, subject, 'instance.gone') from sluice.resource")
        .await;

    let broker = Recorder::default();
    while publish_once(ledger, &broker, "me", 100).await.unwrap().claimed > 0 {}

    let (schemas, sent) = (schemas(), broker.taken());
    let mut unseen: Vec<&String> = schemas.keys().collect();
    for message in &sent {
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        let schema = schemas.get(&message.r#type).unwrap_or_else(|| panic!("{} has no schema", message.r#type));
        assert_eq!(faults(schema, body["data"].as_object().unwrap()), [] as [String; 0], "{body:#}");
        assert_eq!(body["type"], schema["title"]);
        assert_eq!(body["subject"], body["data"]["subject"]);
        assert!(!body.to_string().contains("0f-ada"), "{body:#}");
        unseen.retain(|r#type| **r#type != message.r#type);
    }
    assert_eq!(unseen, [] as [&String; 0], "no event of this type was seen");
    let page = fs::read_to_string(folder().with_extension("md")).unwrap();
    for r#type in schemas.keys() {
        assert!(page.contains(&format!("(events/{type}.json)")), "docs/events.md does not name {type}");
    }
}
