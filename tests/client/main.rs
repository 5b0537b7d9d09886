//! The client of the Evolution API against real sockets: what goes over the wire, what comes back
//! in each kind of trouble, and which certificates it trusts.

#![allow(clippy::unwrap_used)]

mod list;
mod server;
mod tls;

use std::time::Duration;

use serde_json::{Value, json as value};
use server::{Act, Server, json, with_headers};
use sluice::evolution::{Client, Options, Timeouts};
use workflows::{
    secret::Secret,
    whatsapp::{
        evolution::{
            ApiError, ApiState, Call, Connect, ErrorKind, Evolution, ExclusiveEvolution, Own, RetryAfter, Webhook,
            classify::{Verdict, classify},
        },
        names::InstanceName,
    },
};

const KEY: &str = "global-key-1";
const SECONDS: Duration = Duration::from_secs(5);

fn options(url: &str) -> Options {
    Options { base_url: url.to_owned(), key: Secret::new(KEY), timeouts: Timeouts::default() }
}

fn client(server: &Server) -> Client {
    Client::new(options(&server.url())).unwrap()
}

fn name(text: &str) -> InstanceName {
    text.parse().unwrap()
}

fn token() -> Secret {
    Secret::new("own-token-1")
}

fn head(request: &str) -> Vec<String> {
    let head = request.split("\r\n\r\n").next().unwrap_or_default();
    head.lines().map(str::to_ascii_lowercase).collect()
}

fn body(request: &str) -> Value {
    serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap_or_default()).unwrap_or_default()
}

#[tokio::test]
async fn a_create_sends_our_token_and_asks_for_no_qr_code() {
    let created = r#"{"instance":{"instanceName":"user_1","instanceId":"i-1"},"hash":"own-token-1"}"#;
    let server = Server::start([json(201, created)]).await;

    let created = client(&server).create(&name("user_1"), &token()).await.unwrap();

    let requests = server.requests();
    let head = head(&requests[0]);
    assert_eq!(head[0], "post /instance/create http/1.1");
    for line in ["apikey: global-key-1", "content-type: application/json", "user-agent: sluice/0.1.0"] {
        assert!(head.iter().any(|header| header == line), "{line} is not in {head:?}");
    }
    let sent = value!({
        "instanceName": "user_1", "token": "own-token-1", "integration": "WHATSAPP-BAILEYS", "qrcode": false
    });
    assert_eq!(body(&requests[0]), sent);
    assert_eq!(created.token, Some(token()));
}

#[tokio::test]
async fn a_name_is_encoded_in_the_path_and_in_the_filter_only() {
    let odd = name("../a b?x=1&é");
    let encoded = "..%2fa%20b%3fx%3d1%26%c3%a9";
    let server = Server::start([
        json(200, r#"[{"name":"../a b?x=1&é","token":"t-1"}]"#),
        json(200, r#"{"instance":{"instanceName":"../a b?x=1&é","state":"open"}}"#),
        json(200, r#"{"count":0}"#),
        json(200, "null"),
        json(200, r#"{"status":"SUCCESS","error":false}"#),
        json(200, r#"[{"name":"../a b?x=1&é","token":"own-token-1"}]"#),
        json(200, "null"),
        json(201, r#"{"settings":{}}"#),
        json(200, r#"{"status":"SUCCESS","error":false}"#),
    ])
    .await;
    let client = Client::new(options(&format!("{}/behind/a/prefix/", server.url()))).unwrap();

    client.fetch(&odd).await.unwrap().unwrap();
    assert_eq!(client.connection_state(&odd).await.unwrap(), Some(ApiState::Open));
    assert_eq!(client.connect(&odd, SECONDS).await.unwrap(), Connect::NotYet);
    assert_eq!(client.find_webhook(&odd).await.unwrap(), None);
    client.delete(&odd, &token()).await.unwrap();
    assert!(matches!(client.fetch_own(&odd, &token()).await.unwrap(), Own::Loaded(_)));
    assert!(!client.has_settings(&odd).await.unwrap());
    client.set_settings(&odd).await.unwrap();
    client.discard(&odd).await.unwrap();

    let lines: Vec<_> = server.requests().iter().map(|request| head(request)[0].clone()).collect();
    assert_eq!(
        lines,
        [
            format!("get /behind/a/prefix/instance/fetchinstances?instancename={encoded} http/1.1"),
            format!("get /behind/a/prefix/instance/connectionstate/{encoded} http/1.1"),
            format!("get /behind/a/prefix/instance/connect/{encoded} http/1.1"),
            format!("get /behind/a/prefix/webhook/find/{encoded} http/1.1"),
            format!("delete /behind/a/prefix/instance/delete/{encoded} http/1.1"),
            format!("get /behind/a/prefix/instance/fetchinstances?instancename={encoded} http/1.1"),
            format!("get /behind/a/prefix/settings/find/{encoded} http/1.1"),
            format!("post /behind/a/prefix/settings/set/{encoded} http/1.1"),
            format!("delete /behind/a/prefix/instance/delete/{encoded} http/1.1"),
        ]
    );
    let keys: Vec<_> = server.requests().iter().map(|request| request.contains("global-key-1")).collect();
    let all = [true, true, true, true, false, false, true, true, true];
    assert_eq!(keys, all, "a delete and the question by the own token carry that token only");
}

#[tokio::test]
async fn a_name_of_dots_reaches_no_other_route() {
    let server = Server::start([]).await;

    let error = client(&server).delete(&name(".."), &token()).await.unwrap_err();

    assert!(error.to_string().contains("rename the instance"), "{error}");
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn a_webhook_goes_out_whole_and_its_row_comes_back() {
    let row = r#"{"id":"w","url":"https://app.test/x","headers":{"jwt_key":"k-12345"},"enabled":true,
        "events":["CALL"],"webhookByEvents":false,"webhookBase64":true}"#;
    let server = Server::start([json(201, row)]).await;
    let webhook = Webhook {
        enabled: true,
        url: Secret::new("https://app.test/x"),
        events: ["CALL".parse().unwrap()].into(),
        headers: [("jwt_key".to_owned(), Secret::new("k-12345"))].into(),
        by_events: false,
        base64: true,
    };

    let stored = client(&server).set_webhook(&name("user_1"), &webhook).await.unwrap();

    assert_eq!(webhook.differences(&stored), Vec::<&str>::new());
    let sent = value!({ "webhook": {
        "enabled": true, "url": "https://app.test/x", "events": ["CALL"], "headers": {"jwt_key": "k-12345"},
        "byEvents": false, "base64": true
    }});
    assert_eq!(body(&server.requests()[0]), sent);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = Server::start([with_headers(307, "location: /elsewhere\r\n", ""), json(201, "{}")]).await;

    let error = client(&server).create(&name("user_1"), &token()).await.unwrap_err();

    assert_eq!(error.status(), Some(307));
    assert_eq!(classify(&error, &name("user_1")), Verdict::ReadBack);
    assert!(error.to_string().contains("not the Evolution API: a redirect, which is not followed"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn the_version_and_the_database_are_asked_with_one_question_each() {
    let nobody = r#"{"response":{"message":["Instance \"00000000-0000-0000-0000-000000000000\" not found"]}}"#;
    let server = Server::start([json(200, r#"{"status":200,"version":"2.3.7"}"#), json(404, nobody)]).await;
    let client = client(&server);

    assert_eq!(client.version().await.unwrap().to_string(), "2.3.7");
    client.database().await.unwrap();

    let lines: Vec<_> = server.requests().iter().map(|request| head(request)[0].clone()).collect();
    let nil = "00000000-0000-0000-0000-000000000000";
    assert_eq!(lines, ["get / http/1.1", &format!("get /instance/fetchinstances?instanceid={nil} http/1.1")]);
}

#[tokio::test]
async fn a_question_for_a_code_ends_when_its_own_time_is_over() {
    let server = Server::start([Act::Hang]).await;

    let error = client(&server).connect(&name("user_1"), Duration::from_millis(60)).await.unwrap_err();

    assert_eq!(error.kind, ErrorKind::NoAnswer("none within 60ms".into()));
}

#[tokio::test]
async fn a_broken_connection_is_no_answer_and_nothing_is_sent_again() {
    let half = Act::BreakOffAfter("HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{\"inst".to_owned());
    for act in [Act::BreakOff, half] {
        let server = Server::start([act, json(201, "{}")]).await;

        let error = client(&server).create(&name("user_1"), &token()).await.unwrap_err();

        assert!(matches!(error.kind, ErrorKind::NoAnswer(_)), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_slow_answer_is_no_answer_after_its_own_timeout() {
    let server = Server::start([Act::Hang, Act::Hang]).await;
    let timeouts =
        Timeouts { create: Duration::from_millis(80), other: Duration::from_millis(40), ..Timeouts::default() };
    let client = Client::new(Options { timeouts, ..options(&server.url()) }).unwrap();

    let create = client.create(&name("user_1"), &token()).await.unwrap_err();
    let other = client.verify_creds().await.unwrap_err();

    assert_eq!(create.kind, ErrorKind::NoAnswer("none within 80ms".into()));
    assert_eq!(other.kind, ErrorKind::NoAnswer("none within 40ms".into()));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);

    let error = Client::new(options(&url)).unwrap().create(&name("user_1"), &token()).await.unwrap_err();

    assert!(matches!(&error.kind, ErrorKind::Unreachable(why) if why.contains("refused")), "{error}");
    assert_eq!(classify(&error, &name("user_1")), Verdict::Defer);
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let server = Server::start([json(200, &format!("[{}]", " ".repeat(2 * 1024 * 1024)))]).await;

    let error = client(&server).fetch(&name("user_1")).await.unwrap_err();

    let what = "a body of more than 1048576 bytes".to_owned();
    assert_eq!(error.kind, ErrorKind::Unreadable { status: 200, what });
}

#[tokio::test]
async fn an_answer_without_a_body_is_not_the_apis() {
    for status in [204, 304] {
        let server = Server::start([with_headers(status, "", "")]).await;

        let error = client(&server).verify_creds().await.unwrap_err();

        assert!(matches!(error.kind, ErrorKind::Foreign { .. }), "{error}");
        assert_eq!(error.status(), Some(status));
    }
}

#[tokio::test]
async fn what_the_server_says_of_our_secrets_is_cut() {
    let said = r#"{"response":{"message":["global-key-1 and own-token-1 at /srv/api/main.ts:1:2"]}}"#;
    let server = Server::start([json(500, said), json(500, said)]).await;
    let client = client(&server);

    let create = client.create(&name("user_1"), &token()).await.unwrap_err();
    let delete = client.delete(&name("user_1"), &token()).await.unwrap_err();

    assert_eq!(create.to_string(), "POST /instance/create answered 500: *** and *** at <file>");
    assert_eq!(delete.to_string(), "DELETE /instance/delete/{instance} answered 500: *** and *** at <file>");
}

#[tokio::test]
async fn a_wait_that_is_asked_for_is_counted_from_the_servers_own_clock() {
    let headers = "date: Sun, 22 Nov 2026 12:00:00 GMT\r\nretry-after: Sun, 22 Nov 2026 12:00:42 GMT\r\n";
    let server = Server::start([with_headers(503, headers, "busy")]).await;

    let error: ApiError = client(&server).verify_creds().await.unwrap_err();

    let ErrorKind::Answer(answer) = &error.kind else { panic!("{error}") };
    assert_eq!(answer.retry_after.map(RetryAfter::duration), Some(Duration::from_secs(42)));
    assert_eq!(error.call, Call::VerifyCreds);
}

#[test]
fn options_that_cannot_work_are_refused_in_one_line_without_the_key() {
    for (url, key, start) in [
        ("evolution.test", KEY, "the Evolution API's base URL is no URL"),
        ("ftp://evolution.test", KEY, "the Evolution API's base URL has another scheme"),
        ("https://evolution.test/?a=1", KEY, "the Evolution API's base URL has a query"),
        ("http://evolution.test", "", "the Evolution API's key is empty"),
        ("http://evolution.test", "a\nb", "the Evolution API's key is empty or holds"),
    ] {
        let options = Options { key: Secret::new(key), ..options(url) };

        let error = Client::new(options).err().unwrap().to_string();

        assert!(error.starts_with(start) && !error.contains('\n') && !error.contains(KEY), "{url}: {error}");
    }
}
