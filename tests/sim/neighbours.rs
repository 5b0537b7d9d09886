//! Others who use the same API: the manager in a browser, scripts, another app. They never touch a
//! user's instance; they are here for the traps of the API that our own workflows keep clear of.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tests::evolution::{Database, Request};
use tokio::time;

use crate::{
    chance::Chance,
    stage::{KEY, Stage},
};

/// One visit, of one kind.
pub async fn visit(stage: &Arc<Stage>, chance: &Chance) {
    stage.log.hit("neighbour.visited");
    match chance.between(0, 6) {
        0 => with_qr_code(stage).await,
        1 => race(stage, chance).await,
        2 => come_and_go(stage, chance).await,
        3 => dead_hook(stage).await,
        4 => wrong_keys(stage).await,
        5 => own_token(stage).await,
        _ => nameless(stage).await,
    }
}

/// Sends and does not care for the answer.
fn send(stage: &Arc<Stage>, request: Request) {
    let pending = stage.api.begin(request);
    stage.spawn("a neighbour", async move {
        let _ = time::timeout(Duration::from_secs(30), pending).await;
    });
}

async fn a_moment() {
    time::sleep(Duration::from_millis(150)).await;
}

fn create(name: &str) -> Request {
    let body = json!({"instanceName": name, "token": format!("token-of-{name}"), "integration": "WHATSAPP-BAILEYS"});
    Request::post("/instance/create").key(KEY).json(body)
}

fn create_with_qr_code(name: &str) -> Request {
    let body = json!({"instanceName": name, "integration": "WHATSAPP-BAILEYS", "qrcode": true});
    Request::post("/instance/create").key(KEY).json(body)
}

fn create_with_webhook(name: &str) -> Request {
    let webhook = json!({"url": "http://neighbour.test/hook", "events": ["QRCODE_UPDATED"]});
    let body = json!({"instanceName": name, "integration": "WHATSAPP-BAILEYS", "webhook": webhook});
    Request::post("/instance/create").key(KEY).json(body)
}

fn delete(name: &str) -> Request {
    Request::delete(format!("/instance/delete/{name}")).key(KEY)
}

async fn with_qr_code(stage: &Arc<Stage>) {
    send(stage, create_with_qr_code("neighbour-qr"));
    time::sleep(Duration::from_secs(7)).await;
    send(stage, Request::get("/instance/connect/neighbour-qr").key(KEY));
    time::sleep(Duration::from_secs(3)).await;
    send(stage, delete("neighbour-qr"));
}

/// Several creates of one name at once.
async fn race(stage: &Arc<Stage>, chance: &Chance) {
    let inline = chance.percent(50);
    for _ in 0..chance.between(2, 9) {
        send(stage, if inline { create_with_webhook("neighbour-race") } else { create("neighbour-race") });
        time::sleep(chance.millis(0, 12)).await;
    }
    time::sleep(Duration::from_secs(1)).await;
    send(stage, delete("neighbour-race"));
}

/// Deletes, twice, and creates while the delete is under way.
async fn come_and_go(stage: &Arc<Stage>, chance: &Chance) {
    send(stage, create("neighbour-leaves"));
    a_moment().await;
    send(stage, delete("neighbour-leaves"));
    time::sleep(chance.millis(20, 140)).await;
    send(stage, delete("neighbour-leaves"));
    for _ in 0..12 {
        time::sleep(chance.millis(20, 60)).await;
        send(stage, create("neighbour-leaves"));
    }
    time::sleep(Duration::from_secs(1)).await;
    send(stage, delete("neighbour-leaves"));
}

async fn dead_hook(stage: &Arc<Stage>) {
    let dead = "http://dead.test/";
    stage.api.world(|world, _| world.faults_mut().dead_hooks = vec![dead.to_owned()]);
    send(stage, create("neighbour-hook"));
    a_moment().await;
    let webhook = json!({"webhook": {"enabled": true, "url": format!("{dead}hook"), "events": ["REMOVE_INSTANCE"]}});
    send(stage, Request::post("/webhook/set/neighbour-hook").key(KEY).json(webhook));
    a_moment().await;
    send(stage, delete("neighbour-hook"));
}

async fn wrong_keys(stage: &Arc<Stage>) {
    send(stage, create("neighbour-key"));
    a_moment().await;
    let body = json!({"instanceName": "neighbour-key", "integration": "WHATSAPP-BAILEYS"});
    send(stage, Request::post("/instance/create").key("wrong").json(body));
    send(stage, Request::get("/instance/connectionState/no-such-neighbour").key("wrong"));
    send(stage, Request::get("/instance/connectionState/neighbour-key?instanceName=neighbour-other").key(KEY));
    send(stage, Request::get("/instance/connectionState/neighbour-key?instanceName=neighbour-key").key(KEY));
    send(stage, Request::get("/webhook/find/neighbour-other?instanceName=neighbour-key").key(KEY));
    a_moment().await;
    send(stage, delete("neighbour-key"));
}

/// Asks with the token of an instance while the API's database is away.
async fn own_token(stage: &Arc<Stage>) {
    send(stage, create("neighbour-token"));
    a_moment().await;
    stage.api.world(|world, _| world.faults_mut().database = Database::Down);
    send(stage, Request::get("/instance/fetchInstances").key("token-of-neighbour-token"));
    send(stage, Request::get("/instance/connectionState/neighbour-token").key("token-of-neighbour-token"));
    a_moment().await;
    stage.api.world(|world, _| world.faults_mut().database = Database::Up);
    send(stage, delete("neighbour-token"));
}

async fn nameless(stage: &Arc<Stage>) {
    send(stage, create("neighbour-named"));
    a_moment().await;
    send(stage, Request::post("/instance/create").key(KEY).json(json!({"integration": "WHATSAPP-BAILEYS"})));
    a_moment().await;
    send(stage, delete("neighbour-named"));
}
