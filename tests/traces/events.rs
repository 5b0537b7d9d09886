//! The announcements of a sign-up are in its trace, and whoever consumes them can go on from there.

use tests::{collector::Collector, consumer::Consumer, servers::until};

use super::{AppTrace, PATIENCE, Traced};

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_ups_announcements_are_in_its_trace_and_their_consumer_can_join_it() {
    let collector = Collector::start().await.unwrap();
    let mut traced = Traced::prepare(&collector.url()).await;
    let url = traced.fleet.add_rabbitmq().await.unwrap();
    let consumer = Consumer::start(&url, "sluice.events", "app").await.unwrap();
    traced.fleet.start("all", &["all"]).await.unwrap();
    let trace = AppTrace::new("01");

    let user = traced.sign_up(Some(&trace)).await;
    traced.wait_for(user, "completed").await;
    let ready = until(PATIENCE, async || {
        consumer.received().into_iter().find(|message| message.r#type == "sluice.instance.ready.v1")
    });
    let ready = ready.await.expect("the instance is announced");
    traced.stop().await;

    let context = ready.traceparent.expect("it has a context");
    assert_eq!(ready.event["traceparent"].as_str(), Some(context.as_str()));
    let [_, in_trace, below, _] = context.split('-').collect::<Vec<_>>()[..] else { panic!("{context}") };
    assert_eq!(in_trace, trace.id);
    let spans = trace.spans(&collector);
    let publish = spans.iter().find(|span| span.id == below).expect("the consumer's parent was exported");
    assert_eq!(
        (publish.name.as_str(), publish.service.as_str()),
        ("publish sluice.instance.ready.v1", "sluice-events")
    );
    assert!(spans.iter().any(|span| span.id == publish.parent), "it stands below nothing: {publish:?}");
    assert_eq!(publish.attribute("messaging.message.id"), ready.id);
    traced.close().await;
}
