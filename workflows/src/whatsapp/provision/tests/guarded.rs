use std::{future::poll_fn, pin::pin, task::Poll};

use super::{
    end,
    script::{
        Reply, Script, answer, given, gone, host, in_use, not_in_database, phantom, refused, settings, timed_out,
    },
};
use crate::{
    calls::{ExclusiveCalls, InFlight, Permission},
    outcome::{Class, Outcome},
    whatsapp::{
        evolution::{Call::Create, Guarded, Shape},
        provision::{Given, create_instance},
    },
};

fn in_flight_after(reply: Reply) -> InFlight {
    let script = Script::new([(Create, reply)]);
    let calls = ExclusiveCalls::new(|| Permission::Granted);
    let guarded = Guarded::new(&script, &calls);
    let given = given();
    let _ = script.play(guarded.create(&given.instance, &given.token));
    calls.in_flight()
}

#[test]
fn a_lease_too_short_sends_nothing_and_burns_no_attempt() {
    let script = Script::new([]);
    let calls = ExclusiveCalls::new(|| Permission::Withheld);
    let guarded = Guarded::new(&script, &calls);

    let outcome = script.play(create_instance(&guarded, &given(), &settings(), &host()));

    assert_eq!(end(&outcome), ("defer", Class::LeaseTooShort));
    assert_eq!(calls.in_flight(), InFlight::Never);
}

#[test]
fn only_an_answer_of_the_api_itself_ends_a_call() {
    assert_eq!(in_flight_after(Reply::Created("our-token-1")), InFlight::Landed);
    assert_eq!(in_flight_after(in_use()), InFlight::Landed);
    assert_eq!(in_flight_after(answer(500, Shape::Listed, "boom")), InFlight::Landed);
    assert_eq!(in_flight_after(refused()), InFlight::Never);
    for unknown in [timed_out(), answer(504, Shape::Foreign, "gateway timeout"), answer(408, Shape::Plain, "timeout")] {
        assert_eq!(in_flight_after(unknown), InFlight::Unknown);
    }
}

#[test]
fn a_call_that_lands_says_nothing_about_an_earlier_one() {
    let script = Script::new([(Create, timed_out()), (Create, in_use())]);
    let calls = ExclusiveCalls::new(|| Permission::Granted);
    let guarded = Guarded::new(&script, &calls);
    let given = given();

    script.play(async {
        let _ = guarded.create(&given.instance, &given.token).await;
        let _ = guarded.create(&given.instance, &given.token).await;
    });

    assert_eq!(calls.in_flight(), InFlight::Unknown);
}

#[test]
fn a_call_that_is_dropped_in_the_middle_is_under_way() {
    let script = Script::new([(Create, Reply::Hangs)]);
    let calls = ExclusiveCalls::new(|| Permission::Granted);
    let guarded = Guarded::new(&script, &calls);
    let given = given();

    script.play(async {
        let mut create = pin!(guarded.create(&given.instance, &given.token));
        let polled = poll_fn(|context| Poll::Ready(create.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    });

    assert_eq!(calls.in_flight(), InFlight::Unknown);
}

#[test]
fn the_permission_is_asked_when_the_call_is_sent_and_not_before() {
    let script = Script::new([gone(), vec![(Create, Reply::Created("our-token-1"))]].concat());
    let calls = ExclusiveCalls::new(|| if script.left() == 1 { Permission::Granted } else { Permission::Withheld });
    let guarded = Guarded::new(&script, &calls);
    let given = Given { created_before: true, ..given() };

    let outcome = script.play(create_instance(&guarded, &given, &settings(), &host()));

    assert!(matches!(outcome, Outcome::Success { .. }), "{outcome:?}");
}

#[test]
fn what_a_failed_create_left_is_deleted_only_where_the_lease_allows_it() {
    let script = Script::new([phantom(), phantom(), not_in_database()].concat());
    let calls = ExclusiveCalls::new(|| Permission::Withheld);
    let guarded = Guarded::new(&script, &calls);
    let given = Given { created_before: true, ..given() };

    let outcome = script.play(create_instance(&guarded, &given, &settings(), &host()));

    assert_eq!(end(&outcome), ("defer", Class::LeaseTooShort));
    assert_eq!(calls.in_flight(), InFlight::Never);
    assert!(outcome.failure().unwrap().memory.is_empty(), "what was not sent is not counted");
}
