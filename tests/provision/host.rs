use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use super::*;

#[test]
fn a_first_create_asks_the_list_once_while_the_host_answers() {
    let script = Script::of_a_new_host([asked("2.3.6"), made(), made()].concat());

    for _ in 0..2 {
        script.create(&given()).success();
    }
}

#[test]
fn a_first_create_asks_the_list_again_after_a_break() {
    let script = Script::new([vec![(Call::Fetch, refused())], asked("2.3.6"), made()].concat());

    assert_eq!(script.create(&again()).kind(), ("defer", Class::Unreachable));
    script.create(&given()).success();
}

#[test]
fn a_first_create_asks_the_list_again_after_a_silence() {
    let script = Script::new([vec![roster(None, &[])], made()].concat());

    script.wait(Duration::from_secs(2));
    script.create(&given()).success();
}

#[test]
fn an_attempt_that_asked_the_host_nothing_does_not_hide_its_silence() {
    let script = Script::new([vec![roster(None, &[])], made()].concat());
    let withheld = ExclusiveCalls::new(&Permission::Withheld);

    script.wait(Duration::from_secs(1));
    let asked_nothing = Ended(at_once(script.attempt(&withheld, CREATE_INSTANCE, &given(), &settings())));
    script.wait(Duration::from_secs(1));

    assert_eq!(asked_nothing.kind(), ("defer", Class::LeaseTooShort));
    script.create(&given()).success();
}

#[test]
fn an_instance_that_somebody_else_made_is_not_destroyed_while_the_api_loads() {
    let theirs = || vec![roster(Some(row(THEIRS)), &[])];
    let script = Script::new([theirs(), absent(), own(Own::NoSuchRow), theirs()].concat());

    script.wait(Duration::from_secs(2));
    assert_eq!(script.create(&given()).kind(), ("defer", Class::Loading));
}

#[test]
fn an_older_version_is_refused_in_one_line_before_anything_is_made() {
    let script = Script::of_a_new_host(vec![(Call::Version, Reply::Version("1.8.6")); 2]);

    for _ in 0..2 {
        let ended = script.create(&given());

        assert_eq!(ended.kind(), ("defer", Class::Rejected));
        let message = &ended.failure().message;
        assert!(message.contains("1.8.6") && message.contains("2.3.7") && !message.contains('\n'), "{message}");
    }
}

#[test]
fn nobody_makes_anything_while_another_attempt_asks_for_the_version() {
    let asked = [Reply::Hangs, Reply::Version("1.8.6")].map(|reply| (Call::Version, reply));
    let script = Script::of_a_new_host(asked.into());
    let granted = ExclusiveCalls::new(&Permission::Granted);
    let (given, settings) = (given(), settings());

    at_once(async {
        let mut first = pin!(script.attempt(&granted, CREATE_INSTANCE, &given, &settings));
        assert!(poll_fn(|context| Poll::Ready(first.as_mut().poll(context))).await.is_pending());
        assert_eq!(script.create(&given).kind(), ("defer", Class::Rejected));
    });
}

#[test]
fn a_newer_version_is_said_once_and_with_what_nobody_recorded() {
    let odd = Reply::Error(ErrorKind::Unreadable { status: 200, what: "not a list".into() });
    let script = Script::of_a_new_host([asked("2.4.0"), made(), made(), vec![(Call::Fetch, odd)]].concat());

    let (_, _, first) = script.create(&given()).success();
    let (_, _, second) = script.create(&given()).success();
    let odd = script.create(&again());

    assert!(first.unwrap().contains("version 2.4.0, newer than"));
    assert_eq!(second, None);
    assert!(odd.failure().message.contains("version 2.4.0"));
}

#[test]
fn a_host_that_does_not_tell_its_version_is_not_asked_each_time() {
    let asked = vec![(Call::Version, timed_out()), roster(None, &[])];
    let script = Script::of_a_new_host([asked, made(), made()].concat());

    for _ in 0..2 {
        script.create(&given()).success();
    }
}
