//! What leaves us beside spans: the context on each call, and the id of the trace in the log.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    http::{HeaderMap, StatusCode, Uri},
};
use serde_json::Value;
use tests::{collector::Collector, servers::until};
use tokio::net::TcpListener;

use super::{AppTrace, PATIENCE, SERVER_ERROR, Traced};

type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// An API that answers 500 to all, and keeps which context came with which path.
async fn hearing_api() -> (String, Seen) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let seen = Seen::default();
    let keep = seen.clone();
    let answer = async move |uri: Uri, headers: HeaderMap| {
        let context = headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned());
        keep.lock().unwrap().push((uri.path().to_owned(), context.unwrap_or_default()));
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let routes = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(socket, routes).await });
    (url, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_carries_the_context_of_its_own_span() {
    let collector = Collector::start().await.unwrap();
    let (url, seen) = hearing_api().await;
    let mut traced = Traced::prepare(&collector.url()).await;
    traced.fleet.set("EVOLUTION_API_BASE_URL", url);
    traced.fleet.start("all", &["all"]).await.unwrap();
    let trace = AppTrace::new("01");

    traced.sign_up(Some(&trace)).await;
    // The first call of a sign-up asks whether the server is there.
    let call = until(PATIENCE, async || trace.spans(&collector).into_iter().find(|span| span.name == "GET /"));
    let call = call.await.unwrap();

    let carried = ("/".to_owned(), format!("00-{}-{}-01", trace.id, call.id));
    assert!(seen.lock().unwrap().contains(&carried), "{carried:?} is not among {seen:?}");
    traced.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_state_is_one_line_of_log_with_its_run_and_its_trace() {
    let collector = Collector::start().await.unwrap();
    let mut traced = Traced::prepare(&collector.url()).await;
    traced.fleet.start("all", &["all"]).await.unwrap();
    traced.break_create(1, SERVER_ERROR);
    let trace = AppTrace::new("01");

    let user = traced.sign_up(Some(&trace)).await;
    traced.wait_for(user, "completed").await;
    let logs = traced.stop().await;

    let lines: Vec<Value> = logs[0].lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of_the_run: Vec<&Value> = lines.iter().filter(|line| line.get("run").is_some()).collect();
    let said: Vec<_> = of_the_run.iter().filter_map(|line| line["message"].as_str()).collect();
    let expected = [
        "run started",
        "step is tried again",
        "step succeeded",
        "step succeeded",
        "step succeeded, and with it the run",
    ];
    assert_eq!(said, expected, "{}", logs[0]);
    for line in of_the_run {
        assert_eq!(line["trace_id"].as_str(), Some(trace.id.as_str()), "{line}");
        assert!(line.get("span").is_none() && line.get("spans").is_none(), "{line}");
    }
    let failures = lines.iter().filter(|line| line.to_string().contains("server_error")).count();
    assert_eq!(failures, 1, "{}", logs[0]);
    traced.close().await;
}
