use std::{future::poll_fn, pin::pin, task::Poll};

use super::{
    end,
    script::{Reply, Script, answer, given, in_use, not_in_list, not_there, refused, settings, timed_out},
};
use crate::{
    evolution::{
        Call::{ConnectionState, Create, Fetch},
        Evolution, Flight, Guarded, Permission, Shape,
    },
    outcome::{Class, Outcome},
    provision::create_instance,
};

fn flight_after(reply: Reply) -> Flight {
    let script = Script::new([(Create, reply)]);
    let guarded = Guarded::new(&script, || Permission::Granted);
    let given = given();
    let _ = script.play(guarded.create(&given.instance, &given.token));
    guarded.flight()
}

#[test]
fn a_lease_too_short_sends_nothing_and_burns_no_attempt() {
    let script = Script::new([]);
    let guarded = Guarded::new(&script, || Permission::Withheld);

    let outcome = script.play(create_instance(&guarded, &given(), &settings()));

    assert_eq!(end(&outcome), ("defer", Class::LeaseTooShort));
    assert_eq!(guarded.flight(), Flight::None);
}

#[test]
fn only_an_answer_of_the_api_itself_ends_the_flight() {
    assert_eq!(flight_after(Reply::Created("our-token-1")), Flight::Landed);
    assert_eq!(flight_after(in_use()), Flight::Landed);
    assert_eq!(flight_after(answer(500, Shape::Listed, "boom")), Flight::Landed);
    assert_eq!(flight_after(refused()), Flight::None);
    for unknown in [timed_out(), answer(504, Shape::Foreign, "gateway timeout"), answer(408, Shape::Plain, "timeout")] {
        assert_eq!(flight_after(unknown), Flight::Unknown);
    }
}

#[test]
fn a_call_that_lands_says_nothing_about_an_earlier_one() {
    let script = Script::new([(Create, timed_out()), (Create, in_use())]);
    let guarded = Guarded::new(&script, || Permission::Granted);
    let given = given();

    script.play(async {
        let _ = guarded.create(&given.instance, &given.token).await;
        let _ = guarded.create(&given.instance, &given.token).await;
    });

    assert_eq!(guarded.flight(), Flight::Unknown);
}

#[test]
fn a_call_that_is_dropped_in_the_middle_is_under_way() {
    let script = Script::new([(Create, Reply::Hangs)]);
    let guarded = Guarded::new(&script, || Permission::Granted);
    let given = given();

    script.play(async {
        let mut create = pin!(guarded.create(&given.instance, &given.token));
        let polled = poll_fn(|context| Poll::Ready(create.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    });

    assert_eq!(guarded.flight(), Flight::Unknown);
}

#[test]
fn the_permission_is_asked_when_the_call_is_sent_and_not_before() {
    let script =
        Script::new([(Fetch, not_in_list()), (ConnectionState, not_there()), (Create, Reply::Created("our-token-1"))]);
    let guarded = Guarded::new(&script, || if script.left() == 1 { Permission::Granted } else { Permission::Withheld });
    let mut given = given();
    given.created_before = true;

    let outcome = script.play(create_instance(&guarded, &given, &settings()));

    assert!(matches!(outcome, Outcome::Success { .. }), "{outcome:?}");
}
