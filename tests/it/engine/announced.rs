//! What a run finds at the API and announces: an instance that is gone, a webhook that was changed.

use serde_json::{Value, json};

use super::*;

/// Those that this is about, the oldest first.
const FOUND: &str =
    "select coalesce(jsonb_agg(jsonb_build_object('type', type, 'data', payload) order by created_at, sequence), '[]')
                     from sluice.event where routing_key in ('webhook.drift', 'instance.gone')";

/// A user whose instance is ready: its name.
async fn ready(engine: &Engine) -> String {
    let user = Uuid::new_v4();
    engine.app.sign_up(user).await.unwrap();
    engine.until("the first run has succeeded", &succeeded(1)).await;
    format!("user_{user}")
}

fn succeeded(runs: u32) -> String {
    format!("select count(*) = {runs} from sluice.run where state = 'succeeded'")
}

/// One run more, the so manieth.
async fn again(engine: &Engine, number: u32) {
    let mut session = engine.app.superuser().await;
    session.run("update evolution_instance_creation_queue set status = 'pending'").await;
    engine.until("one run more has succeeded", &succeeded(number)).await;
}

async fn found(engine: &Engine) -> Vec<Value> {
    let events: Value = engine.app.superuser().await.one(FOUND).await;
    events.as_array().unwrap().clone()
}

/// Somebody else at the API.
async fn call(engine: &Engine, method: reqwest::Method, path: &str, body: Option<Value>) {
    let url = format!("{}{path}", engine.api.base_url());
    let request = reqwest::Client::new().request(method, url).header("apikey", engine.api.key());
    let request = match &body {
        Some(body) => request.json(body),
        None => request,
    };
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_finds_its_webhook_changed_announces_it_once_without_what_it_holds() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let engine = Engine::start().await;
    let name = ready(&engine).await;
    again(&engine, 2).await;
    let before = found(&engine).await;
    let webhook = json!({ "webhook": {
        "enabled": true, "url": "http://127.0.0.1:9/else?t=s3cret", "events": ["CALL"], "headers": {}, "byEvents": false,
        "base64": false,
    }});

    call(&engine, reqwest::Method::POST, &format!("/webhook/set/{name}"), Some(webhook)).await;
    again(&engine, 3).await;
    again(&engine, 4).await;

    assert_eq!(before, [] as [Value; 0], "neither a first run nor one that finds all as it was");
    let events = found(&engine).await;
    assert_eq!(events.len(), 1, "{events:#?}");
    let data = &events[0]["data"];
    assert_eq!(events[0]["type"], "sluice.webhook.drift.v1");
    assert_eq!((&data["found"], &data["fields"]), (&json!("changed"), &json!(["events", "url"])));
    assert_eq!(data["resource"], json!(name));
    assert!(!events[0].to_string().contains("s3cret"), "{data:#}");
    let mended = engine.api.with(|world, _| world.instance(&name).unwrap().webhook.unwrap().url);
    assert!(mended.to_string().contains("/hook/"), "{mended}");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_finds_its_instance_gone_announces_it_once_and_makes_it_again() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let engine = Engine::start().await;
    let name = ready(&engine).await;

    call(&engine, reqwest::Method::DELETE, &format!("/instance/delete/{name}"), None).await;
    let gone = async || engine.api.with(|world, _| world.instance(&name).is_none()).then_some(());
    assert!(servers::until(PATIENCE, gone).await.is_some(), "{name} is not deleted");
    again(&engine, 2).await;
    again(&engine, 3).await;

    let events = found(&engine).await;
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(events[0]["type"], "sluice.instance.gone.v1");
    assert_eq!(events[0]["data"]["resource"], json!(name));
    assert!(engine.api.with(|world, _| world.instance(&name).is_some()), "it is made again");
    engine.stop().await;
}
