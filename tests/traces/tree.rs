//! One sign-up is one connected trace, and a revived run another one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tests::{
    collector::{Collector, Span},
    evolution::{Fault, Route, Rule, Stage, When},
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
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,host.name=ours"),
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

    async fn run(&mut self, user: Uuid) -> String {
        sqlx::query_scalar("select id::text from sluice.run where subject = $1")
            .bind(user.to_string())
            .fetch_one(&mut self.database)
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

/// The spans of a trace once its run has ended with `step` and nothing is missing any more.
async fn complete(collector: &Collector, trace: &str, step: &str) -> Vec<Span> {
    let mut seen = Vec::new();
    let whole = until(PATIENCE, async || {
        seen = collector.spans();
        seen.retain(|span| span.trace == trace);
        let ended =
            |span: &Span| span.name == format!("process {step}") && !span.attribute("sluice.outcome").is_empty();
        let ids: BTreeSet<_> = seen.iter().map(|span| span.id.as_str()).chain(["", APP_SPAN]).collect();
        let placed = |span: &Span| ids.contains(span.parent.as_str());
        let told = seen.iter().any(|span| span.name == "run provision-instance");
        (told && seen.iter().any(ended) && seen.iter().all(placed)).then_some(())
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
        // Who ended it.
        ["run", _] => "sluice-worker-verify".to_owned(),
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
    let spans = complete(&collector, &trace.id, "verify").await;

    assert_connected(&spans);
    for span in &spans {
        assert_eq!(span.service, service_of(span), "{}", span.name);
        assert_eq!(span.events, 0, "{span:?}");
        for known in ["service.version", "service.instance.id", "host.name", "host.id", "deployment.environment.name"] {
            assert!(span.raw.contains(known), "{known} is not in {span:?}");
        }
        assert!(span.start <= span.end && span.attribute("sluice.tentative").is_empty(), "{span:?}");
    }
    assert_attempts(&spans, &traced.attempts(user).await);
    assert_whole(&spans, user);
    assert_hints(&spans);
    assert_calls(&spans);
    for secret in traced.secrets().await {
        let holder = collector.spans().into_iter().find(|span| span.raw.contains(&secret));
        assert!(holder.is_none(), "{secret} is in {holder:?}");
    }
    traced.close().await;
}

/// The intake and the whole run are below the app's span; every other span's parent is among them.
fn assert_connected(spans: &[Span]) {
    let ids: BTreeSet<_> = spans.iter().map(|span| span.id.as_str()).collect();
    let roots = spans.iter().filter(|span| !ids.contains(span.parent.as_str()));
    let mut roots: Vec<_> = roots.map(|root| (root.name.as_str(), root.parent.as_str())).collect();
    roots.sort_unstable();
    assert_eq!(roots, [("intake provision-instance", APP_SPAN), ("run provision-instance", APP_SPAN)]);
    assert_eq!(ids.len(), spans.len(), "two spans have one id");
}

/// One span is as long as the sign-up.
fn assert_whole(spans: &[Span], user: Uuid) {
    let [whole] = named(spans, "run provision-instance")[..] else { panic!("not one whole run: {spans:#?}") };
    let said = ["sluice.outcome", "sluice.attempts", "sluice.workflow"].map(|key| whole.attribute(key));
    assert_eq!(said, ["succeeded", "4", "provision-instance"]);
    assert_eq!((whole.attribute("sluice.subject"), whole.failed), (user.to_string().as_str(), false));
    let (first, last) = (spans.iter().map(|span| span.start).min(), spans.iter().map(|span| span.end).max());
    let short = Duration::from_millis(250).as_nanos() as u64;
    assert_eq!(Some(whole.start), first, "something began before it: {spans:#?}");
    assert!(last.unwrap() - whole.end < short, "something goes on after it: {spans:#?}");
    assert!(whole.raw.contains("\"ours\""), "a host name that was set wins: {}", whole.raw);
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
        let waited: i64 = span.attribute("sluice.waited.backoff_ms").parse().unwrap_or_default();
        assert_eq!(waited > 0, number == 1, "only the second attempt waited: {span:?}");
    }
    assert_eq!(spans.iter().filter(|span| span.name.starts_with("process ")).count(), attempts.len());
}

/// Each `process` is below the `send` of its own token, which is below the intake; its claim and
/// settle are below it.
fn assert_hints(spans: &[Span]) {
    for process in spans.iter().filter(|span| span.name.starts_with("process ")) {
        assert_hints_of(spans, process);
        let settle = process.name.replace("process", "settle");
        for name in ["claim", settle.as_str()] {
            let below = named(spans, name).into_iter().filter(|span| span.parent == process.id).count();
            assert_eq!(below, 1, "{name} below {process:?}");
        }
    }
}

fn assert_hints_of(spans: &[Span], process: &Span) {
    let root = &named(spans, "intake provision-instance")[0].id;
    let send = spans.iter().find(|span| span.id == process.parent).unwrap();
    assert_eq!(send.name, process.name.replace("process", "send"));
    assert_eq!((send.kind, &send.parent), (SpanKind::Producer, root));
    assert_eq!(send.attribute("sluice.run"), process.attribute("sluice.run"));
    assert_eq!(send.attribute("messaging.message.id"), process.attribute("messaging.message.id"));
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
        // A read-back that finds nothing has its answer: 404, or 401 with the instance's own token.
        let status = call.attribute("http.response.status_code");
        let reads_back = call.name.contains("/fetchInstances") || call.name.contains("/connectionState/");
        assert_eq!(call.failed, status >= "400" && !(reads_back && matches!(status, "401" | "404")), "{call:?}");
        assert_eq!(call.failed, !call.attribute("error.type").is_empty(), "{call:?}");
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
    let before = complete(&collector, &trace.id, "create-instance").await;
    let after = complete(&collector, revived, "verify").await;
    let roots: Vec<_> = after.iter().filter(|span| span.parent.is_empty()).collect();
    let mut names: Vec<_> = roots.iter().map(|root| root.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["revive provision-instance", "run provision-instance"], "{roots:#?}");
    let root = named(&after, "revive provision-instance")[0];
    assert_eq!(root.service, "sluice-relay");
    let outcomes = [&before, &after].map(|spans| named(spans, "run provision-instance")[0].attribute("sluice.outcome"));
    assert_eq!(outcomes, ["dead", "succeeded"]);
    let dead = named(&before, "run provision-instance")[0];
    assert_eq!(
        (dead.failed, dead.attribute("error.type"), dead.parent.as_str()),
        (true, "attempts_exhausted", APP_SPAN)
    );
    traced.stop().await;
    let all = collector.spans();
    let [intake] = named(&all, "intake provision-instance")[..] else { panic!("not one intake: {before:#?}") };
    assert_eq!(root.links, [(trace.id.clone(), intake.id.clone())]);
    traced.close().await;
}

/// A worker of every step carries the run on: no hint and no claim between two steps. It dies with
/// such a step in hand once.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_carried_on_has_one_span_for_each_attempt() {
    let collector = Collector::start().await.unwrap();
    let mut traced = prepare(&collector).await;
    traced.fleet.start("relay-1", &["relay"]).await.unwrap();
    let steps = ["worker", "create-instance", "configure-webhooks", "verify"];
    traced.fleet.start("worker-1", &steps).await.unwrap();
    let trace = AppTrace::new("01");
    let hangs = Fault::Latency { ms: 30_000, stage: Stage::BeforeWork };
    let rule = Rule { route: Some(Route::WebhookSet), name_prefix: None, when: When::Next(1), fault: hangs };
    traced.fleet.api.with(|world, _| world.faults_mut().rules.push(rule));

    let user = traced.sign_up(Some(&trace)).await;
    let hanging = "select state from sluice.step where name = 'configure-webhooks' and state = 'running'";
    let running = until(PATIENCE, async || {
        let state: Option<String> = sqlx::query_scalar(hanging).fetch_optional(&mut traced.database).await.unwrap();
        state
    });
    assert!(running.await.is_some());
    // What it has not exported yet is lost with it.
    let create_is_told = async || {
        let told = trace.spans(&collector);
        (!named(&told, "process create-instance").is_empty()).then_some(())
    };
    assert!(until(PATIENCE, create_is_told).await.is_some());
    traced.fleet.replace("worker-1").await.unwrap();
    traced.wait_for(user, "completed").await;
    let spans = complete(&collector, &trace.id, "verify").await;

    assert_connected(&spans);
    let attempts = traced.attempts(user).await;
    let seen: Vec<_> = attempts.iter().map(|(step, outcome, ..)| (step.as_str(), outcome.as_str())).collect();
    let [create, configure, verify] = ["create-instance", "configure-webhooks", "verify"];
    assert_eq!(seen[1..], [(configure, "crashed"), (configure, "succeeded"), (verify, "succeeded")]);
    for (step, outcome, _, id) in &attempts {
        let of_it: Vec<_> = spans.iter().filter(|span| Some(&span.id) == id.as_ref()).collect();
        let [span] = of_it[..] else { panic!("{step} {outcome}: {of_it:#?}") };
        assert_eq!((span.name.as_str(), span.attribute("sluice.outcome")), (&*format!("process {step}"), &**outcome));
    }
    let mut processes: Vec<_> = spans.iter().filter(|span| span.name.starts_with("process ")).collect();
    // A hint may come twice: the second one claims nothing.
    processes.retain(|span| !span.attribute("sluice.attempt").is_empty());
    assert_eq!(processes.len(), attempts.len(), "{processes:#?}");
    assert_eq!(named(&spans, "send verify").len(), 0, "verify was carried on");
    assert_eq!(named(&spans, &format!("send {create}")).len(), 1);
    traced.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_worker_died_is_the_span_that_it_was_with_its_calls_below_it() {
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

    let spans = complete(&collector, &trace.id, "verify").await;
    let attempts = traced.attempts(user).await;
    assert_connected(&spans);
    // A hint may come twice: the second one claims nothing.
    let mut made = named(&spans, "process create-instance");
    made.retain(|span| !span.attribute("sluice.attempt").is_empty());
    let [lost, again] = made[..] else { panic!("not two attempts: {spans:#?}") };
    let (lost, again) = if lost.start < again.start { (lost, again) } else { (again, lost) };
    let said = ["sluice.outcome", "sluice.class", "error.type", "sluice.attempt"].map(|key| lost.attribute(key));
    assert_eq!(said, ["crashed", "worker_lost", "worker_lost", "1"]);
    assert_eq!((&attempts[0].1, attempts[0].3.as_ref()), (&"crashed".to_owned(), Some(&lost.id)));
    assert!(lost.failed && lost.kind == SpanKind::Consumer && !again.failed, "{lost:?} {again:?}");
    assert!(lost.attribute("sluice.worker").starts_with("worker-"), "{lost:?}");
    assert_hints_of(&spans, lost);
    let below: BTreeSet<_> =
        spans.iter().filter(|span| span.parent == lost.id).map(|span| span.name.as_str()).collect();
    assert!(below.is_superset(&BTreeSet::from(["claim", "GET /", "rescue create-instance"])), "{below:?}");
    for span in spans.iter().filter(|span| span.parent == lost.id) {
        // Its claim is sent before the ledger takes it, and the rescue goes on for a moment.
        assert!(lost.start <= span.end && span.start <= lost.end, "{span:?} is not within {lost:?}");
    }
    let rescued = named(&spans, "rescue create-instance")[0];
    assert_eq!((rescued.service.as_str(), rescued.attribute("sluice.outcome")), ("sluice-relay", "crashed"));
    assert!(lost.end - lost.start > 4_500_000_000 && lost.end <= again.start, "from its claim to its rescue: {lost:?}");
    traced.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_tells_of_itself_below_the_attempt_that_was_rescued() {
    let collector = Collector::start().await.unwrap();
    let mut traced = prepare(&collector).await;
    traced.fleet.start_roles().await.unwrap();
    let trace = AppTrace::new("01");
    traced.break_create(1, Fault::Latency { ms: 1_000, stage: Stage::BeforeWork });

    let user = traced.sign_up(Some(&trace)).await;
    let claimed = until(PATIENCE, async || {
        let running = "select state from sluice.step where state = 'running'";
        let state: Option<String> = sqlx::query_scalar(running).fetch_optional(&mut traced.database).await.unwrap();
        state
    });
    assert!(claimed.await.is_some());
    let name = "worker-create-instance-1";
    traced.fleet.process(name).unwrap().pause().unwrap();
    let rescued = until(PATIENCE, async || {
        let ended = "select outcome from sluice.attempt where class = 'worker_lost'";
        let outcome: Option<String> = sqlx::query_scalar(ended).fetch_optional(&mut traced.database).await.unwrap();
        outcome
    });
    assert!(rescued.await.is_some());
    traced.fleet.process(name).unwrap().resume().unwrap();
    traced.wait_for(user, "completed").await;
    let overtaken = until(PATIENCE, async || {
        trace.spans(&collector).into_iter().find(|span| span.attribute("sluice.outcome") == "overtaken")
    });

    let overtaken = overtaken.await.expect("its worker tells of it");
    let spans = trace.spans(&collector);
    let lost = spans.iter().find(|span| span.id == overtaken.parent).unwrap();
    assert_eq!((lost.name.as_str(), lost.attribute("sluice.class")), ("process create-instance", "worker_lost"));
    let ids: BTreeSet<_> = spans.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "two spans have one id: {spans:#?}");
    traced.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_a_person_ends_is_told_of_as_a_whole() {
    let collector = Collector::start().await.unwrap();
    let mut traced = prepare(&collector).await;
    traced.fleet.start("relay", &["relay"]).await.unwrap();
    let trace = AppTrace::new("01");

    let user = traced.sign_up(Some(&trace)).await;
    traced.wait_for(user, "processing").await;
    let run = traced.run(user).await;
    traced.fleet.sluice(&["runs", "cancel", &run, "--note", "not wanted"]).await.unwrap();
    let whole = until(PATIENCE, async || {
        trace.spans(&collector).into_iter().find(|span| span.name == "run provision-instance")
    });

    let whole = whole.await.expect("a relay exports it");
    let said = ["sluice.outcome", "sluice.attempts"].map(|key| whole.attribute(key));
    assert_eq!((said, whole.parent.as_str(), whole.failed), (["cancelled", "0"], APP_SPAN, false));
    traced.close().await;
}
