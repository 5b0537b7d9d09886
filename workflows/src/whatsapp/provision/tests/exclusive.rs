use std::{
    future::{Future, poll_fn, ready},
    pin::pin,
    task::Poll,
};

use super::{
    end,
    script::{
        Calls, Reply, Script, answer, given, gone, host, in_use, not_in_database, phantom, refused, settings, timed_out,
    },
};
use crate::{
    calls::{ExclusiveCalls, InFlight, Permission, Permit},
    outcome::{Class, Failure, Outcome},
    whatsapp::{
        evolution::{Call::Create, ExclusiveApi, Shape},
        provision::{Given, create_instance},
    },
    workflow::Boxed,
};

/// Whether a create may be under way after those that are answered so. One that hangs is dropped in
/// the middle.
fn in_flight_after(replies: &[Reply]) -> InFlight {
    let script = Script::new(replies.iter().map(|reply| (Create, reply.clone())));
    let calls = ExclusiveCalls::new(&Permission::Granted);
    let (api, given) = (ExclusiveApi::new(&script, &calls), given());
    script.play(async {
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
    let outcome = script.play(create_instance(&ExclusiveApi::new(&script, &calls), given, &settings(), &host()));
    assert_eq!(end(&outcome), ("defer", Class::LeaseTooShort));
    assert_eq!(calls.in_flight(), InFlight::Never);
    outcome.failure().unwrap().clone()
}

#[test]
fn a_lease_too_short_sends_nothing_and_burns_no_attempt() {
    withheld(&given(), Vec::new());
}

#[test]
fn only_an_answer_of_the_api_itself_ends_a_call() {
    let unknown = [timed_out(), answer(504, Shape::Foreign, "gateway timeout"), answer(408, Shape::Plain, "timeout")];

    for landed in [Reply::Created("our-token-1"), in_use(), answer(500, Shape::Listed, "boom")] {
        assert_eq!(in_flight_after(&[landed]), InFlight::Landed);
    }
    assert_eq!(in_flight_after(&[refused()]), InFlight::Never);
    for unknown in unknown {
        assert_eq!(in_flight_after(&[unknown]), InFlight::Unknown);
    }
}

#[test]
fn a_call_that_lands_says_nothing_about_an_earlier_one() {
    assert_eq!(in_flight_after(&[timed_out(), in_use()]), InFlight::Unknown);
}

#[test]
fn a_call_that_is_dropped_in_the_middle_is_under_way() {
    assert_eq!(in_flight_after(&[Reply::Hangs]), InFlight::Unknown);
}

#[test]
fn the_permission_is_asked_when_the_call_is_sent_and_not_before() {
    let script = Script::new([gone(), vec![(Create, Reply::Created("our-token-1"))]].concat());
    struct AtTheLast<'a>(&'a Script);
    impl Permit for AtTheLast<'_> {
        fn permission(&self) -> Boxed<'_, Permission> {
            Box::pin(ready(if self.0.left() == 1 { Permission::Granted } else { Permission::Withheld }))
        }
    }
    let permit = AtTheLast(&script);
    let calls = ExclusiveCalls::new(&permit);
    let given = Given { created_before: true, ..given() };

    let outcome = script.play(create_instance(&ExclusiveApi::new(&script, &calls), &given, &settings(), &host()));

    assert!(matches!(outcome, Outcome::Success { .. }), "{outcome:?}");
}

#[test]
fn what_a_failed_create_left_is_deleted_only_where_the_lease_allows_it() {
    let given = Given { created_before: true, ..given() };

    let failure = withheld(&given, [phantom(), phantom(), not_in_database()].concat());

    assert!(failure.memory.is_empty(), "what was not sent is not counted");
}
