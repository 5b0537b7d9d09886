//! Which sign-ups are recorded: the app may keep its trace out, and only the operator brings one
//! in.

use std::collections::BTreeSet;

use tests::{collector::Collector, servers::until};

use super::{AppTrace, PATIENCE, Traced};

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_the_app_does_not_sample_is_recorded_nowhere() {
    let collector = Collector::start().await.unwrap();
    let mut traced = Traced::prepare(&collector.url()).await;
    traced.fleet.start("all", &["all"]).await.unwrap();
    let (unsampled, sampled) = (AppTrace::new("00"), AppTrace::new("01"));

    let left_out = traced.sign_up(Some(&unsampled)).await;
    traced.wait_for(left_out, "completed").await;
    let recorded = traced.sign_up(Some(&sampled)).await;
    traced.wait_for(recorded, "completed").await;
    traced.stop().await;

    assert!(unsampled.spans(&collector).is_empty());
    let user = left_out.to_string();
    assert!(collector.spans().iter().all(|span| !span.raw.contains(&user)), "a part of it is in another trace");
    let services: BTreeSet<_> = sampled.spans(&collector).into_iter().map(|span| span.service).collect();
    assert_eq!(services, BTreeSet::from(["sluice-relay".to_owned(), "sluice-worker".to_owned()]));
    let stored: Vec<Option<String>> = sqlx::query_scalar(
        "select attempt.trace_id from sluice.attempt join sluice.run on run.id = attempt.run_id where run.subject = $1",
    )
    .bind(&user)
    .fetch_all(&mut traced.database)
    .await
    .unwrap();
    assert_eq!(stored, [const { None::<String> }; 3], "attempts name spans that nobody recorded");
    traced.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_signs_up_can_bring_a_trace_in_that_the_operator_leaves_out() {
    let collector = Collector::start().await.unwrap();
    let mut traced = Traced::prepare(&collector.url()).await;
    let samplers = [("always_off", "1"), ("parentbased_always_off", "1"), ("parentbased_traceidratio", "0")];

    for (sampler, share) in samplers {
        traced.fleet.set("OTEL_TRACES_SAMPLER", sampler);
        traced.fleet.set("OTEL_TRACES_SAMPLER_ARG", share);
        traced.fleet.start("all", &["all"]).await.unwrap();
        let user = traced.sign_up(Some(&AppTrace::new("01"))).await;
        traced.wait_for(user, "completed").await;
        traced.stop().await;

        assert!(collector.spans().is_empty(), "{sampler}: {:?}", collector.spans());
    }
    assert_eq!(collector.requests(), 0);
    traced.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_without_a_context_begins_a_trace_and_one_name_stands_for_all_roles_where_it_is_given() {
    let collector = Collector::start().await.unwrap();
    let mut traced = Traced::prepare(&collector.url()).await;
    traced.fleet.set("OTEL_SERVICE_NAME", "accounts");
    traced.fleet.start("all", &["all"]).await.unwrap();

    let user = traced.sign_up(None).await;
    traced.wait_for(user, "completed").await;
    let root = until(PATIENCE, async || collector.spans().into_iter().find(|span| span.parent.is_empty()));

    let root = root.await.unwrap();
    assert_eq!(root.name, "intake provision-instance");
    assert_eq!(root.attribute("sluice.subject"), user.to_string());
    traced.stop().await;
    assert!(collector.spans().iter().all(|span| span.service == "accounts" && span.trace == root.trace));
    traced.close().await;
}
