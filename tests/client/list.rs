//! The list of every instance: longer than memory, and never mistaken for a short one.

use futures::{StreamExt, TryStreamExt};
use workflows::evolution::Listed;

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
    for body in
        ["<html>token-1</html>", r#"{"error":true,"message":"token-1"}"#, "[] token-1", r#"[{"id":"token-1"}]"#, "null"]
    {
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
