//! One sign-up is one connected trace, and a revived run another one.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tests::{
    collector::{Collector, Span},
    evolution::{Fault, Stage},
    servers::until,
};
use uuid::Uuid;

use super::{APP_SPAN, AppTrace, PATIENCE, SERVER_ERROR, Traced};

/// What no span may hold.
const SECRETS: [&str; 4] = ["hunter-base", "hunter-jwt", "hunter-collector", "hunter-hook"];

async fn prepare(collector: &Collector) -> Traced {
    let mut traced = Traced::prepare(&collector.url()).await;
    let base = traced.fleet.api.base_url().replace("http://", "http://ada:hunter-base@");
    for (name, value) in [
        ("EVOLUTION_API_BASE_URL", base.as_str()),
        ("WEBHOOK_HEADERS", r#"{"authorization": "Bearer {token}", "jwt_key": "hunter-jwt"}"#),
        ("WEBHOOK_URL", "http://127.0.0.1:9/hook/{user_id}?key=hunter-hook"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter-collector"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
    ] {
        traced.fleet.set(name, value);
    }
    traced
}

impl Traced {
    /// Step, outcome, trace and span of each attempt of the user's run, in order.
    async fn attempts(&mut self, user: Uuid) -> Vec<(String, String, Option<String>, Option<String>)> {
        sqlx::query_as(
            "select attempt.step, attempt.outcome, attempt.trace_id, attempt.span_id
             from sluice.attempt
             join sluice.run on run.id = attempt.run_id
             where run.subject = $1
             order by attempt.id",
        )
        .bind(user.to_string())
        .fetch_all(&mut self.database)
        .await
        .unwrap()
    }

    async fn secrets(&mut self) -> Vec<String> {
        let tokens: Vec<String> =
            sqlx::query_scalar("select secret from sluice.resource").fetch_all(&mut self.database).await.unwrap();
        let key = self.fleet.api.key().to_owned();
        tokens.into_iter().chain([key]).chain(SECRETS.map(str::to_owned)).collect()
    }
}

/// The spans of a trace once `step` has been settled as its last one and nothing is missing any more. `lost` are the names of
/// spans whose parent ended with its process.
async fn complete(collector: &Collector, trace: &str, step: &str, lost: &[&str]) -> Vec<Span> {
    let mut seen = Vec::new();
    let whole = until(PATIENCE, async || {
        seen = collector.spans();
        seen.retain(|span| span.trace == trace);
        let ended =
            |span: &Span| span.name == format!("process {step}") && !span.attribute("sluice.outcome").is_empty();
        let ids: BTreeSet<_> = seen.iter().map(|span| span.id.as_str()).chain(["", APP_SPAN]).collect();
        let placed = |span: &Span| ids.contains(span.parent.as_str()) || lost.contains(&span.name.as_str());
        (seen.iter().any(ended) && seen.iter().all(placed)).then_some(())
    });
    assert!(whole.await.is_some(), "the trace is not whole: {seen:#?}");
    seen
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

/// Whose span it must be.
fn service_of(span: &Span) -> String {
    match span.name.split(' ').collect::<Vec<_>>()[..] {
        ["intake" | "start" | "revive" | "rescue", ..] | ["send", "create-instance"] => "sluice-relay".to_owned(),
        // The worker whose attempt made the step due.
        ["send", "configure-webhooks"] => "sluice-worker-create-instance".to_owned(),
        ["send", "verify"] => "sluice-worker-configure-webhooks".to_owned(),
        ["process" | "settle", step] => format!("sluice-worker-{step}"),
        _ => span.service.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_is_one_trace_through_every_process_with_the_apps_span_above_it_and_its_retry_in_it() {
    let collector = Collector::start().await.unwrap();
    let mut traced = prepare(&collector).await;
    traced.fleet.start_roles().await.unwrap();
    let trace = AppTrace::new("01");

    traced.break_create(1, SERVER_ERROR);
    let user = traced.sign_up(Some(&trace)).await;
    traced.wait_for(user, "completed").await;
    let spans = complete(&collector, &trace.id, "verify", &[]).await;

    assert_connected(&spans);
    for span in &spans {
        assert_eq!(span.service, service_of(span), "{}", span.name);
        assert_eq!(span.events, 0, "{span:?}");
        for known in ["service.version", "service.instance.id", "deployment.environment.name"] {
            assert!(span.raw.contains(known), "{known} is not in {span:?}");
        }
        assert!(span.start <= span.end && span.attribute("sluice.tentative").is_empty(), "{span:?}");
    }
    assert_attempts(&spans, &traced.attempts(user).await);
    assert_hints(&spans);
    assert_calls(&spans);
    for secret in traced.secrets().await {
        let holder = collector.spans().into_iter().find(|span| span.raw.contains(&secret));
        assert!(holder.is_none(), "{secret} is in {holder:?}");
    }
    traced.close().await;
}

/// One root, whose parent is the app's span; every other span's parent is among them.
fn assert_connected(spans: &[Span]) {
    let ids: BTreeSet<_> = spans.iter().map(|span| span.id.as_str()).collect();
    let roots: Vec<_> = spans.iter().filter(|span| !ids.contains(span.parent.as_str())).collect();
    let [root] = roots[..] else { panic!("not one tree: {roots:#?}") };
    assert_eq!((root.name.as_str(), root.parent.as_str()), ("intake provision-instance", APP_SPAN));
}

/// The attempts in the table are the `process` spans, with their outcomes.
fn assert_attempts(spans: &[Span], attempts: &[(String, String, Option<String>, Option<String>)]) {
    let steps: Vec<_> = attempts.iter().map(|(step, ..)| step.as_str()).collect();
    assert_eq!(steps, ["create-instance", "create-instance", "configure-webhooks", "verify"], "{attempts:?}");
    assert_ne!(attempts[0].1, "succeeded");
    let by_id: BTreeMap<_, _> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    for (number, (step, outcome, trace, id)) in attempts.iter().enumerate() {
        let span = by_id[id.as_deref().unwrap()];
        assert_eq!(
            (span.name.as_str(), span.trace.as_str()),
            (format!("process {step}").as_str(), trace.as_deref().unwrap())
        );
        assert_eq!(span.attribute("sluice.outcome"), outcome);
        assert_eq!(span.attribute("sluice.attempt"), if number == 1 { "2" } else { "1" });
        assert_eq!(span.attribute("sluice.workflow"), "provision-instance");
        assert_eq!(span.kind, SpanKind::Consumer);
        assert_eq!(span.failed, outcome == "failed", "{span:?}");
    }
    assert_eq!(spans.iter().filter(|span| span.name.starts_with("process ")).count(), attempts.len());
}

/// Each `process` is below the `send` of its own token, which is below the intake; its claim and settle are below it.
fn assert_hints(spans: &[Span]) {
    let root = &named(spans, "intake provision-instance")[0].id;
    for process in spans.iter().filter(|span| span.name.starts_with("process ")) {
        let send = spans.iter().find(|span| span.id == process.parent).unwrap();
        assert_eq!(send.name, process.name.replace("process", "send"));
        assert_eq!((send.kind, &send.parent), (SpanKind::Producer, root));
        assert_eq!(send.attribute("sluice.run"), process.attribute("sluice.run"));
        assert_eq!(send.attribute("messaging.message.id"), process.attribute("messaging.message.id"));
        let settle = process.name.replace("process", "settle");
        for name in ["claim", settle.as_str()] {
            let below = named(spans, name).into_iter().filter(|span| span.parent == process.id).count();
            assert_eq!(below, 1, "{name} below {process:?}");
        }
    }
}

/// The calls are below the attempts that made them.
fn assert_calls(spans: &[Span]) {
    let creates = named(spans, "POST /instance/create");
    let statuses: Vec<_> = creates.iter().map(|span| span.attribute("http.response.status_code")).collect();
    assert_eq!(BTreeSet::from_iter(statuses), BTreeSet::from(["201", "500"]), "{creates:#?}");
    for call in spans.iter().filter(|span| span.kind == SpanKind::Client && !span.attribute("url.full").is_empty()) {
        let above = spans.iter().find(|span| span.id == call.parent).unwrap();
        assert!(above.name.starts_with("process "), "{call:?}");
        assert_eq!((call.attribute("server.address"), &call.service), ("127.0.0.1", &above.service));
        assert_eq!(call.failed, call.attribute("http.response.status_code") >= "400");
    }
    assert!(!named(spans, "POST /webhook/set/{instance}").is_empty());
    assert!(!named(spans, "GET /webhook/find/{instance}").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revived_run_begins_a_trace_of_its_own_that_is_linked_to_the_one_before() {
    assert_revival(async |traced, _| {
        traced.fleet.sluice(&["dead-letters", "retry", "1"]).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_row_that_revives_its_run_is_no_second_intake() {
    assert_revival(async |traced, user| {
        sqlx::query("update evolution_instance_creation_queue set status = 'pending' where user_id = $1")
            .bind(user)
            .execute(&mut traced.database)
            .await
            .unwrap();
    })
    .await;
}

async fn assert_revival(revive: impl AsyncFnOnce(&mut Traced, Uuid)) {
    let collector = Collector::start().await.unwrap();
    let mut traced = prepare(&collector).await;
    traced.fleet.start_roles().await.unwrap();
    let trace = AppTrace::new("01");
    traced.break_create(2, SERVER_ERROR);

    let user = traced.sign_up(Some(&trace)).await;
    traced.wait_for(user, "failed").await;
    revive(&mut traced, user).await;
    traced.wait_for(user, "completed").await;

    let attempts = traced.attempts(user).await;
    let traces: Vec<_> = attempts.iter().map(|(.., trace, _)| trace.as_deref().unwrap()).collect();
    let revived = *traces.last().unwrap();
    assert_ne!(revived, trace.id);
    assert_eq!(traces, [&trace.id, &trace.id, revived, revived, revived]);
    let before = complete(&collector, &trace.id, "create-instance", &[]).await;
    let after = complete(&collector, revived, "verify", &[]).await;
    let roots: Vec<_> = after.iter().filter(|span| span.parent.is_empty()).collect();
    let [root] = roots[..] else { panic!("not one tree: {roots:#?}") };
    assert_eq!((root.name.as_str(), root.service.as_str()), ("revive provision-instance", "sluice-relay"));
    traced.stop().await;
    let all = collector.spans();
    let [intake] = named(&all, "intake provision-instance")[..] else { panic!("not one intake: {before:#?}") };
    assert_eq!(root.links, [(trace.id.clone(), intake.id.clone())]);
    traced.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_worker_died_is_in_the_trace_as_rescued() {
    let collector = Collector::start().await.unwrap();
    let mut traced = prepare(&collector).await;
    traced.fleet.start_roles().await.unwrap();
    let trace = AppTrace::new("01");
    traced.break_create(1, Fault::Latency { ms: 30_000, stage: Stage::BeforeWork });

    let user = traced.sign_up(Some(&trace)).await;
    // It dies between two beats: in one, it might count as one that lost its lease.
    let renewed = "select state from sluice.step
        where state = 'running' and lease_until > started_at + interval '4.5 seconds'";
    let running = until(PATIENCE, async || {
        let state: Option<String> = sqlx::query_scalar(renewed).fetch_optional(&mut traced.database).await.unwrap();
        state
    });
    assert!(running.await.is_some());
    traced.fleet.replace("worker-create-instance-1").await.unwrap();
    traced.wait_for(user, "completed").await;

    let spans = complete(&collector, &trace.id, "verify", &["claim", "GET /", "GET /instance/fetchInstances"]).await;
    let attempts = traced.attempts(user).await;
    let rescued = named(&spans, "rescue create-instance")[0];
    assert_eq!((rescued.service.as_str(), rescued.attribute("sluice.outcome")), ("sluice-relay", "crashed"));
    assert_eq!((&attempts[0].1, attempts[0].3.as_ref()), (&"crashed".to_owned(), Some(&rescued.id)));
    assert_eq!(rescued.parent, named(&spans, "intake provision-instance")[0].id);
    traced.close().await;
}
