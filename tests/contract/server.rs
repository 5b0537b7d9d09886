//! The simulated API behind a real socket: dropped answers, clients that leave, control routes,
//! TLS, stopping.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tests::evolution::server::{Options, Server};
use tests::evolution::{Config, Fault, Hit, Rule, Stage, When};

const PATIENCE: Duration = Duration::from_secs(10);

fn client() -> reqwest::Client {
    // One process, one provider: a second installation only says that the first one is there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(PATIENCE).build().expect("a client")
}

async fn start() -> Server {
    Server::start(Config::default()).await.expect("a loopback port")
}

async fn create(server: &Server, name: &str) -> Result<reqwest::Response, reqwest::Error> {
    create_with(server, name, json!({})).await
}

async fn create_with(server: &Server, name: &str, more: Value) -> Result<reqwest::Response, reqwest::Error> {
    let mut body = json!({"instanceName": name, "token": "t", "integration": "WHATSAPP-BAILEYS"});
    for (key, value) in more.as_object().expect("fields") {
        body[key] = value.clone();
    }
    client()
        .post(format!("{}/instance/create", server.base_url()))
        .header("apikey", server.key())
        .json(&body)
        .send()
        .await
}

async fn until(mut met: impl FnMut() -> bool) {
    let held = tests::servers::until(PATIENCE, async || met().then_some(())).await;
    assert!(held.is_some(), "the condition was not met within {PATIENCE:?}");
}

#[tokio::test]
async fn it_answers_over_http_as_the_world_does() {
    let server = start().await;

    let created = create(&server, "a b/c").await.expect("an answer");
    let state = client()
        .get(format!("{}/instance/connectionState/a%20b%2Fc", server.base_url()))
        .header("APIKEY", "t")
        .send()
        .await
        .expect("an answer");

    assert_eq!(created.status(), 201);
    assert_eq!(created.headers()["content-type"], "application/json; charset=utf-8");
    let body: Value = state.json().await.expect("JSON");
    assert_eq!(body, json!({"instance": {"instanceName": "a b/c", "state": "close"}}));
    server.stop().await;
}

#[tokio::test]
async fn a_dropped_answer_is_a_closed_connection_and_the_work_is_done() {
    let server = start().await;
    let fault = Fault::Drop { stage: Stage::AfterWork };
    let rule = Rule { route: None, name_prefix: None, when: When::Next(1), fault };
    server.with(|world, _| world.faults_mut().rules.push(rule));

    let dropped = create(&server, "user_1").await;

    let error = dropped.expect_err("no answer");
    assert!(!error.is_timeout() && error.is_request(), "{error:?}");
    assert!(server.with(|world, _| world.instance("user_1").is_some()));
    assert_eq!(create(&server, "user_1").await.expect("an answer").status(), 403);
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_the_create() {
    let server = start().await;
    let call = create_with(&server, "user_1", json!({"qrcode": true}));
    let begun = until(|| server.with(|world, _| world.instance("user_1").is_some()));

    // The create waits five seconds for its QR code: whoever drops it once the row is there leaves
    // in the middle.
    tokio::select! {
        _ = call => panic!("the create was not to be answered yet"),
        () = begun => {}
    }

    until(|| server.with(|world, _| world.journal().hit_count(Hit::ClientGone) == 1)).await;
    until(|| server.with(|world, _| world.journal().creates_ok().contains_key("user_1"))).await;
}

#[tokio::test]
async fn another_process_can_control_it() {
    let server = start().await;
    let control = |path: &str| format!("{}/_sim/{path}", server.base_url());
    create(&server, "user_1").await.expect("an answer");
    let client = client();

    let no_code = client.post(control("pair/user_1")).send().await.expect("an answer");
    let put = client.put(control("faults")).json(&json!({"outage": {"error": 502}}));
    let faults = put.send().await.expect("an answer");
    let failed = create(&server, "user_2").await.expect("an answer");
    let stats: Value = client.get(control("stats")).send().await.expect("an answer").json().await.expect("JSON");
    let reset = client.post(control("reset")).send().await.expect("an answer");

    assert_eq!(
        (no_code.status(), faults.status(), failed.status()),
        (reqwest::StatusCode::CONFLICT, reqwest::StatusCode::NO_CONTENT, reqwest::StatusCode::BAD_GATEWAY,)
    );
    assert_eq!((&stats["answers"]["create 201"], &stats["answers"]["create 502"]), (&json!(1), &json!(1)));
    assert_eq!((&stats["hits"]["fault.outage_error"], &stats["hits"]["fault.hang"]), (&json!(1), &json!(0)));
    assert_eq!((&stats["overlaps"], &stats["instances"][0]["name"]), (&json!(0), &json!("user_1")));
    assert_eq!(reset.status(), 204);
    assert!(server.with(|world, _| world.instances().is_empty()));
}

#[tokio::test]
async fn a_restart_closes_connections_until_the_server_is_back() {
    let server = start().await;
    let url = format!("{}/_sim/restart?down_ms=300", server.base_url());
    let client = client();
    let waiting = create_with(&server, "user_1", json!({"qrcode": true}));
    let restarting = async {
        until(|| server.with(|world, _| world.instance("user_1").is_some())).await;
        client.post(url).send().await.expect("an answer");
    };

    let (cut, ()) = tokio::join!(waiting, restarting);
    let while_down = create(&server, "user_2").await;
    until(|| server.with(|world, _| world.is_up())).await;
    let back = create(&server, "user_2").await;

    assert!(cut.is_err() && while_down.is_err());
    assert_eq!(back.expect("an answer").status(), 201);
    assert!(server.with(|world, _| world.instance("user_1").is_some()));
}

#[tokio::test]
async fn stopping_closes_hanging_calls() {
    let server = start().await;
    let fault = Fault::Hang { stage: Stage::BeforeWork };
    let rule = Rule { route: None, name_prefix: None, when: When::Always, fault };
    server.with(|world, _| world.faults_mut().rules.push(rule));
    let url = server.base_url().to_owned();
    let hanging = tokio::spawn(client().get(url).send());
    until(|| server.with(|world, _| world.calls_under_way() == 1)).await;

    tokio::time::timeout(PATIENCE, server.stop()).await.expect("it stops in time");

    assert!(hanging.await.expect("no panic").is_err());
}

/// A certificate for 127.0.0.1 that nobody trusts, made anew in `directory`.
fn self_signed(directory: &Path) -> rustls::ServerConfig {
    let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"])
        .args([
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("this test makes a certificate with the program openssl: install it");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate with its key")
}

#[tokio::test]
async fn it_speaks_tls_where_it_is_given_a_certificate() {
    let directory = std::env::temp_dir().join(format!("evolution-sim-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let tls = Some(Arc::new(self_signed(&directory)));
    let pem = std::fs::read(directory.join("certificate.pem")).expect("a certificate");
    std::fs::remove_dir_all(&directory).expect("the directory goes");
    let server = Server::start_with(Options { tls, ..Options::new(Config::default()) }).await.expect("a loopback port");
    let distrustful = client();
    let trusting = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem).expect("a certificate")])
        .build()
        .expect("a client");

    let refused = distrustful.get(server.base_url()).send().await;
    let welcomed = trusting.get(server.base_url()).send().await.expect("an answer");

    assert!(server.base_url().starts_with("https://127.0.0.1:"));
    assert!(refused.expect_err("an unknown certificate").is_connect());
    assert_eq!(welcomed.status(), 200);
}
