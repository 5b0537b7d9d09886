use std::time::Duration;

use super::{
    assert_no_secret, end,
    script::{Reply, Script, answer, given, in_use, not_in_list, not_there, refused, settings, timed_out},
    success,
};
use crate::{
    evolution::{
        ApiState,
        Call::{ConnectionState, Create, Fetch},
        ErrorKind, RetryAfter, Shape,
    },
    outcome::{Class, Given, HostSignal, Outcome},
    provision::create_instance,
    secret::Secret,
};

type Calls = Vec<(crate::evolution::Call, Reply)>;

fn run(given: &Given, calls: Calls) -> (Outcome, Script) {
    let script = Script::new(calls);
    let outcome = script.play(create_instance(&script, given, &settings()));
    assert_no_secret(&outcome);
    (outcome, script)
}

fn again() -> Given {
    Given { created_before: true, ..given() }
}

fn absent() -> Calls {
    vec![(Fetch, not_in_list()), (ConnectionState, not_there())]
}

#[test]
fn the_first_attempt_posts_at_once() {
    let (outcome, _) = run(&given(), vec![(Create, Reply::Created("our-token-1"))]);

    let (output, facts, note) = success(outcome);

    assert_eq!(output["how"], "created");
    assert_eq!((facts.token, note), (None, None));
}

#[test]
fn a_token_of_the_apis_own_is_kept() {
    let (outcome, _) = run(&given(), vec![(Create, Reply::Created("their-token-1"))]);

    assert_eq!(success(outcome).1.token, Some(Secret::new("their-token-1")));
}

#[test]
fn a_later_attempt_reads_back_first_and_finds_what_the_first_one_made() {
    let (outcome, _) = run(&again(), vec![(Fetch, Reply::Row("our-token-1"))]);

    let (output, facts, _) = success(outcome);

    assert_eq!(output["how"], "found");
    assert_eq!(facts.token, None);
}

#[test]
fn a_later_attempt_posts_only_where_the_instance_is_absent() {
    let mut calls = absent();
    calls.push((Create, Reply::Created("our-token-1")));

    assert_eq!(success(run(&again(), calls).0).0["how"], "created");
}

#[test]
fn an_empty_list_is_as_good_as_a_404() {
    let calls = vec![(Fetch, Reply::NoRow), (ConnectionState, not_there()), (Create, Reply::Created("our-token-1"))];

    assert_eq!(success(run(&again(), calls).0).0["how"], "created");
}

#[test]
fn a_later_attempt_never_posts_while_the_instance_is_loading() {
    for state in [None, Some(ApiState::Close)] {
        let (outcome, _) = run(&again(), vec![(Fetch, not_in_list()), (ConnectionState, Reply::State(state))]);

        assert_eq!(end(&outcome), ("defer", Class::Loading), "{state:?}");
    }
}

#[test]
fn an_instance_that_only_the_apis_memory_holds_is_a_failure_that_a_person_hears_of() {
    let calls = vec![(Fetch, Reply::NoRow), (ConnectionState, Reply::State(Some(ApiState::Close)))];

    let (outcome, _) = run(&again(), calls);

    assert_eq!(end(&outcome), ("retry", Class::Loading));
}

#[test]
fn a_later_attempt_never_posts_where_it_cannot_read_back() {
    let proxy = || answer(404, Shape::Foreign, "404 page not found");
    assert_eq!(end(&run(&again(), vec![(Fetch, refused())]).0), ("defer", Class::Unreachable));
    assert_eq!(end(&run(&again(), vec![(Fetch, timed_out())]).0), ("retry", Class::NoAnswer));
    assert_eq!(end(&run(&again(), vec![(Fetch, proxy())]).0), ("retry", Class::Rejected));
    let calls = vec![(Fetch, not_in_list()), (ConnectionState, proxy())];
    assert_eq!(end(&run(&again(), calls).0), ("retry", Class::Rejected));
}

#[test]
fn a_taken_name_with_our_token_is_ours() {
    let (outcome, _) = run(&given(), vec![(Create, in_use()), (Fetch, Reply::Row("our-token-1"))]);

    assert_eq!(success(outcome).0["how"], "found");
}

#[test]
fn a_taken_name_that_is_the_subjects_own_is_adopted_with_its_token() {
    let (outcome, _) = run(&given(), vec![(Create, in_use()), (Fetch, Reply::Row("their-token-1"))]);

    let (output, facts, note) = success(outcome);

    assert_eq!(output["how"], "adopted");
    assert_eq!(facts.token, Some(Secret::new("their-token-1")));
    assert!(note.unwrap().contains("another token"));
}

#[test]
fn a_row_without_a_token_is_adopted_and_our_token_stays() {
    let (outcome, _) = run(&given(), vec![(Create, in_use()), (Fetch, Reply::Row(""))]);

    let (output, facts, _) = success(outcome);

    assert_eq!(output["how"], "adopted");
    assert_eq!(facts.token, None);
}

#[test]
fn another_subjects_name_is_never_adopted() {
    let stranger = Given { subject: "00000000-0000-4000-8000-000000000001".parse().unwrap(), ..again() };

    let (outcome, _) = run(&stranger, vec![(Fetch, Reply::Row("their-token-1"))]);

    assert_eq!(end(&outcome), ("permanent", Class::NameTaken));
}

#[test]
fn an_imported_rows_own_name_is_adopted_whatever_it_is() {
    let imported =
        Given { subject: "00000000-0000-4000-8000-000000000001".parse().unwrap(), imported: true, ..again() };

    let (outcome, _) = run(&imported, vec![(Fetch, Reply::Row("their-token-1"))]);

    assert_eq!(success(outcome).0["how"], "adopted");
}

#[test]
fn a_taken_name_that_nobody_lists_is_loading_or_leaving() {
    for state in [not_there(), Reply::State(None)] {
        let calls = vec![(Create, in_use()), (Fetch, not_in_list()), (ConnectionState, state)];

        assert_eq!(end(&run(&given(), calls).0), ("defer", Class::Loading));
    }
}

#[test]
fn a_403_about_another_name_is_no_adoption() {
    let lost_body = answer(403, Shape::Listed, "This name \"undefined\" is already in use.");

    assert_eq!(end(&run(&given(), vec![(Create, lost_body)]).0), ("retry", Class::Rejected));
}

#[test]
fn an_unknown_end_is_read_back_until_the_instance_is_there() {
    let unknown = [
        timed_out(),
        answer(400, Shape::Listed, "Foreign key constraint violated on the constraint: `Setting_instanceId_fkey`"),
        answer(500, Shape::Listed, "DriverAdapterError: database \"evolution\" is not currently accepting connections"),
        answer(403, Shape::Foreign, "blocked by the firewall"),
        answer(504, Shape::Foreign, "gateway timeout"),
        Reply::Error(ErrorKind::Unreadable { status: 201, what: "not JSON".into() }),
    ];
    for reply in unknown {
        let mut calls = vec![(Create, reply.clone())];
        calls.extend(absent());
        calls.push((Fetch, Reply::Row("our-token-1")));

        let (outcome, script) = run(&given(), calls);

        assert_eq!(success(outcome).0["how"], "found", "{reply:?}");
        assert_eq!(script.waited(), Duration::from_millis(900));
    }
}

#[test]
fn an_unknown_end_is_a_failure_once_the_quiet_time_shows_the_instance_absent() {
    for (reply, expected) in [
        (timed_out(), ("retry", Class::NoAnswer)),
        (answer(400, Shape::Listed, "Foreign key constraint violated"), ("retry", Class::ServerError)),
        (answer(500, Shape::Listed, "boom"), ("retry", Class::ServerError)),
        (answer(502, Shape::Foreign, "bad gateway"), ("defer", Class::ServerError)),
    ] {
        let mut calls = vec![(Create, reply)];
        (0..4).for_each(|_| calls.extend(absent()));

        let (outcome, script) = run(&given(), calls);

        assert_eq!(end(&outcome), expected);
        assert!(script.waited() >= Duration::from_millis(2500), "{:?}", script.waited());
    }
}

#[test]
fn a_read_back_that_learns_nothing_leaves_it_to_the_next_attempt() {
    let mut no_answer = vec![(Create, timed_out())];
    no_answer.extend((0..3).map(|_| (Fetch, timed_out())));
    let mut loading = vec![(Create, timed_out())];
    (0..10).for_each(|_| loading.extend([(Fetch, not_in_list()), (ConnectionState, Reply::State(None))]));

    for (calls, waited) in [(no_answer, 2_100), (loading, 10_500)] {
        let (outcome, script) = run(&given(), calls);

        assert_eq!(end(&outcome), ("retry", Class::NoAnswer));
        assert_eq!(script.waited(), Duration::from_millis(waited));
        let Outcome::Retry(failure) = outcome else { panic!() };
        assert!(failure.message.ends_with("still unknown, the next attempt reads back first"));
    }
}

#[test]
fn an_api_that_went_away_in_the_middle_burns_no_attempt() {
    let (outcome, _) = run(&given(), vec![(Create, timed_out()), (Fetch, refused())]);

    assert_eq!(end(&outcome), ("defer", Class::Unreachable));
}

#[test]
fn what_was_not_sent_burns_no_attempt() {
    assert_eq!(end(&run(&given(), vec![(Create, refused())]).0), ("defer", Class::Unreachable));
    let withheld = Reply::Error(ErrorKind::Withheld);
    assert_eq!(end(&run(&given(), vec![(Create, withheld)]).0), ("defer", Class::LeaseTooShort));
}

#[test]
fn a_host_that_asks_for_time_gets_it() {
    let Reply::Error(ErrorKind::Answer(mut busy)) = answer(429, Shape::Plain, "slow down") else { panic!() };
    busy.retry_after = RetryAfter::parse("7", None);

    let (outcome, _) = run(&given(), vec![(Create, Reply::Error(ErrorKind::Answer(busy)))]);

    let Outcome::Defer { failure, after } = outcome else { panic!() };
    assert_eq!(after, Some(Duration::from_secs(7)));
    assert_eq!(failure.host, HostSignal::Hold(Duration::from_secs(7)));
}

#[test]
fn a_refused_key_and_a_refused_body_are_told_apart() {
    let (key, _) = run(&given(), vec![(Create, answer(401, Shape::Plain, "Unauthorized"))]);
    let (body, _) = run(&given(), vec![(Create, answer(400, Shape::Schema, "token is not of a type(s) string"))]);

    assert_eq!(end(&key), ("defer", Class::KeyRefused));
    assert_eq!(end(&body), ("permanent", Class::Rejected));
}
