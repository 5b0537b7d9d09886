use std::{
    future::{Future, poll_fn, ready},
    pin::pin,
    task::Poll,
};

use workflows::{
    calls::{InFlight, Permit},
    workflow::Boxed,
};

use super::*;

/// Whether a create may be under way after those that are answered so. One that hangs is dropped in
/// the middle.
fn in_flight_after(replies: &[Reply]) -> InFlight {
    let script = Script::new(replies.iter().map(|reply| (Call::Create, reply.clone())).collect());
    let calls = ExclusiveCalls::new(&Permission::Granted);
    let (api, given) = (ExclusiveApi::new(&script, &calls), given());
    at_once(async {
        for reply in replies {
            let mut create = pin!(api.create(&given.instance, &given.token));
            let polled = poll_fn(|context| Poll::Ready(create.as_mut().poll(context))).await;
            assert_eq!(polled.is_pending(), matches!(reply, Reply::Hangs));
        }
    });
    calls.in_flight()
}

/// The step under a lease that is too short, which sends nothing: its failure.
fn withheld(given: &Given, calls: Calls) -> Failure {
    let script = Script::new(calls);
    let calls = ExclusiveCalls::new(&Permission::Withheld);
    let ended = Ended(at_once(script.attempt(&calls, CREATE_INSTANCE, given, &settings())));
    assert_eq!(ended.kind(), ("defer", Class::LeaseTooShort));
    assert_eq!(calls.in_flight(), InFlight::Never);
    ended.failure().clone()
}

#[test]
fn a_lease_too_short_sends_nothing_and_burns_no_attempt() {
    withheld(&given(), Vec::new());
}

#[test]
fn only_an_answer_of_the_api_itself_ends_a_call() {
    for (what, replies, in_flight) in [
        ("made", vec![Reply::Created(TOKEN)], InFlight::Landed),
        ("taken", vec![in_use()], InFlight::Landed),
        ("failed", vec![answer(500, Shape::Listed, "boom")], InFlight::Landed),
        ("never sent", vec![refused()], InFlight::Never),
        ("not answered", vec![timed_out()], InFlight::Unknown),
        ("a proxy's answer", vec![answer(504, Shape::Foreign, "gateway timeout")], InFlight::Unknown),
        ("a timeout at the API", vec![answer(408, Shape::Plain, "timeout")], InFlight::Unknown),
        ("one that lands after another that did not", vec![timed_out(), in_use()], InFlight::Unknown),
        ("dropped in the middle", vec![Reply::Hangs], InFlight::Unknown),
    ] {
        assert_eq!(in_flight_after(&replies), in_flight, "{what}");
    }
}

#[test]
fn the_permission_is_asked_when_the_call_is_sent_and_not_before() {
    let script = Script::new([gone(), made()].concat());
    struct AtTheLast<'a>(&'a Script);
    impl Permit for AtTheLast<'_> {
        fn permission(&self) -> Boxed<'_, Permission> {
            Box::pin(ready(if self.0.left() == 1 { Permission::Granted } else { Permission::Withheld }))
        }
    }
    let permit = AtTheLast(&script);
    let calls = ExclusiveCalls::new(&permit);

    Ended(at_once(script.attempt(&calls, CREATE_INSTANCE, &again(), &settings()))).success();
}

#[test]
fn what_a_failed_create_left_is_deleted_only_where_the_lease_allows_it() {
    let failure = withheld(&again(), [phantom(), phantom(), not_in_database()].concat());

    assert!(failure.memory.is_empty(), "what was not sent is not counted");
}
