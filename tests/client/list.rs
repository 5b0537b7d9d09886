//! The list of every instance: longer than memory, and never mistaken for a short one.

use futures::{StreamExt, TryStreamExt};
use workflows::whatsapp::evolution::Listed;

use super::*;

type Rows = Vec<(String, Listed)>;

async fn listed(act: Act) -> Result<Rows, ApiError> {
    let server = Server::start([act]).await;
    client(&server).instances().await?.try_collect().await
}

/// An answer without a length, as servers stream long lists: it ends when the connection does.
fn unmeasured(body: &str) -> Act {
    Act::Answer(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{body}"))
}

#[tokio::test]
async fn a_list_longer_than_any_other_answer_may_be_comes_row_by_row() {
    let row = |number: usize| {
        format!(
            r#"{{"id":"i-{number}","name":"user_{number}","token":"t-{number}","connectionStatus":"open","profilePicUrl":"{}"}}"#,
            "x".repeat(1000)
        )
    };
    let rows: Vec<_> = (0..5000).map(row).collect();

    let listed = listed(unmeasured(&format!("[{}]", rows.join(",\n")))).await.unwrap();

    assert_eq!(listed.len(), 5000);
    let (name, last) = &listed[4999];
    assert_eq!((name.as_str(), last.status), ("user_4999", Some(ApiState::Open)));
    assert_eq!(last.token, Some(Secret::new("t-4999")));
}

#[tokio::test]
async fn rows_come_before_the_list_has_ended() {
    let start = r#"HTTP/1.1 200 OK
content-length: 100000

[{"name":"user_1"},{"name":"user_2"},"#;
    let server = Server::start([Act::BreakOffAfter(start.replace('\n', "\r\n"))]).await;

    let mut rows = client(&server).instances().await.unwrap();

    assert_eq!(rows.next().await.unwrap().unwrap().0, "user_1");
    assert_eq!(rows.next().await.unwrap().unwrap().0, "user_2");
    let broken = rows.next().await.unwrap().unwrap_err();
    assert!(matches!(broken.kind, ErrorKind::NoAnswer(_)), "{broken}");
    assert!(rows.next().await.is_none());
}

#[tokio::test]
async fn an_empty_server_has_an_empty_list() {
    assert_eq!(listed(unmeasured("[]")).await, Ok(Rows::new()));
}

#[tokio::test]
async fn what_is_no_whole_list_is_never_a_short_one() {
    for body in ["", "[", r#"[{"name":"token-1"}"#, r#"[{"name":"token-1"},"#] {
        let error = listed(unmeasured(body)).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::NoAnswer(_)), "{body}: {error}");
    }
    for body in ["<html>token-1</html>", "[] token-1"] {
        let error = listed(unmeasured(body)).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Foreign { status: 200, .. }), "{body}: {error}");
        assert!(!error.to_string().contains("token-1"), "{error}");
    }
    for body in [r#"{"error":true,"message":"token-1"}"#, r#"[{"id":"token-1"}]"#, "null"] {
        let error = listed(unmeasured(body)).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Unreadable { status: 200, .. }), "{body}: {error}");
        assert!(!error.to_string().contains("token-1"), "{error}");
    }
}

#[tokio::test]
async fn a_row_without_an_end_does_not_fill_the_memory() {
    let error = listed(unmeasured(&format!(r#"[{{"name":"{}"#, "x".repeat(8 << 20)))).await.unwrap_err();

    assert!(error.to_string().contains("a row of more than 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn a_refused_list_says_why() {
    let refusal = r#"{"status":401,"error":"Unauthorized","response":{"message":"Unauthorized"}}"#;

    let error = listed(json(401, refusal)).await.unwrap_err();

    assert_eq!(error.to_string(), "GET /instance/fetchInstances answered 401: Unauthorized");
}

#[tokio::test]
async fn those_who_ask_at_one_moment_share_a_list_and_nobody_gets_an_older_one() {
    let list = |name: &str| json(200, &format!(r#"[{{"name":"{name}","token":"t-1"}}]"#));
    let server = Server::start([list("user_1"), list("user_2"), list("user_3")]).await;
    let client = client(&server);

    // The first begins a list; those who ask meanwhile wait for the next one, which is begun after
    // they asked.
    let asked = (0..8).map(|_| client.roster());
    let rosters = futures::future::try_join_all(asked).await.unwrap();
    let later = client.roster().await.unwrap();

    assert!(rosters[0].get(&name("user_1")).is_some());
    assert!(rosters[1..].iter().all(|roster| roster.get(&name("user_2")).is_some()));
    assert!(later.get(&name("user_3")).is_some());
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn who_leaves_while_its_list_comes_takes_it_from_nobody() {
    let list = json(200, r#"[{"name":"user_1","token":"t-1"}]"#);
    let server = Server::start([Act::Hang, list]).await;
    let client = client(&server);
    let leaves = tokio::spawn({
        let client = client.clone();
        async move { client.roster().await.map(drop) }
    });
    let begun = tests::servers::until(SECONDS, async || (server.requests().len() == 1).then_some(())).await;
    assert!(begun.is_some());
    let (waits, client) = (client.clone(), client);
    let waits = tokio::spawn(async move { waits.roster().await });

    leaves.abort();

    let roster = tokio::time::timeout(SECONDS, waits).await.unwrap().unwrap().unwrap();
    assert!(roster.get(&name("user_1")).is_some());
    drop(client);
}

#[tokio::test]
async fn a_list_that_fails_fails_for_all_who_share_it() {
    let away = r#"{"response":{"message":"the database system is starting up"}}"#;
    let server = Server::start([json(500, away), json(500, away)]).await;
    let client = client(&server);

    let answers = futures::future::join_all((0..5).map(|_| client.roster())).await;

    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.call == Call::Roster)));
    assert_eq!(server.requests().len(), 2);
}
