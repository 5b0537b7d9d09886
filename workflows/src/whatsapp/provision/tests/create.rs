use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use super::{
    assert_no_secret, end, script,
    script::{
        Reply, Script, USER, answer, database_away, given, host, in_use, not_in_database, not_in_list, not_there,
        options, refused, roster_with, settings, timed_out,
    },
    success,
};
use crate::{
    outcome::{Class, HostSignal, Outcome},
    secret::Secret,
    whatsapp::{
        evolution::{
            ApiError, ApiState,
            Call::{ConnectionState, Create, Discard, Fetch, FetchOwn, Roster, Version},
            ErrorKind, Evolution, Kind, Listed, Own, RetryAfter, Shape,
            classify::{self, Pairing},
        },
        names::InstanceStatus,
        provision::{Counts, Facts, Given, Host, Settings, create_instance},
    },
};

type Calls = Vec<(crate::whatsapp::evolution::Call, Reply)>;

fn run(given: &Given, calls: Calls) -> (Outcome, Script) {
    let script = Script::new(calls);
    let outcome = script.play(create_instance(&script, given, &settings(), &host()));
    assert_no_secret(&outcome);
    (outcome, script)
}

fn again() -> Given {
    Given { created_before: true, ..given() }
}

fn absent() -> Calls {
    vec![(Fetch, not_in_list()), (ConnectionState, not_there())]
}

/// Absent by the database's word.
fn gone() -> Calls {
    absent().into_iter().chain(not_in_database()).collect()
}

fn phantom() -> Calls {
    vec![(Fetch, Reply::NoRow), (ConnectionState, Reply::State(Some(ApiState::Close)))]
}

/// A phantom that was looked at twice, and is in no list.
fn sure_phantom() -> Calls {
    phantom().into_iter().chain(phantom()).chain(not_in_database()).collect()
}

/// What a failure leaves in the memory under this key.
fn kept(outcome: &Outcome, key: &str) -> Option<u64> {
    outcome.failure().unwrap().memory.get(key).and_then(serde_json::Value::as_u64)
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

/// What the user's row says may be forged, or have been true once.
#[test]
fn what_is_found_says_how_it_stands_and_whose_phone_it_has() {
    let number = || Some("5511999999999".to_owned());
    let stands = |status, pairing, phone_number| {
        let row = Listed { status, pairing, phone_number, ..script::row("our-token-1") };
        success(run(&again(), vec![(Fetch, Reply::ListedRow(row))]).0).1
    };

    let open = stands(Some(ApiState::Open), Pairing::Done, number());
    let closed = stands(Some(ApiState::Close), Pairing::Done, number());
    let never = stands(Some(ApiState::Connecting), Pairing::NotYet, None);

    assert_eq!((open.status, open.paired), (Some(InstanceStatus::Connected), Some(true)));
    assert_eq!((closed.status, closed.paired), (Some(InstanceStatus::Disconnected), Some(true)));
    assert_eq!((never.status, never.paired), (Some(InstanceStatus::Connecting), None));
    assert_eq!(
        [open.phone_number, closed.phone_number, never.phone_number],
        [Some(number()), Some(number()), Some(None)]
    );
}

/// The status would take the code along, and the user may be scanning it.
#[test]
fn what_still_waits_to_be_scanned_keeps_the_code_that_is_shown() {
    let given = Given { connecting_before: true, ..again() };
    let stands = |state| {
        let row = Listed { status: Some(state), pairing: Pairing::NotYet, ..script::row("our-token-1") };
        success(run(&given, vec![(Fetch, Reply::ListedRow(row))]).0).1.status
    };

    assert_eq!(stands(ApiState::Connecting), None);
    assert_eq!(stands(ApiState::Close), None);
    assert_eq!(stands(ApiState::Open), Some(InstanceStatus::Connected));
}

#[test]
fn what_is_made_again_was_never_paired_and_a_first_create_has_nothing_to_forget() {
    let mut calls = gone();
    calls.push((Create, Reply::Created("our-token-1")));

    let again = success(run(&Given { paired_before: true, ..again() }, calls).0).1;
    let first = success(run(&given(), vec![(Create, Reply::Created("our-token-1"))]).0).1;

    assert_eq!(
        (again.status, again.paired, again.phone_number),
        (Some(InstanceStatus::Creating), Some(false), Some(None))
    );
    assert_eq!(first, Facts::default());
}

#[test]
fn a_later_attempt_posts_only_where_the_instance_is_absent() {
    let mut calls = gone();
    calls.push((Create, Reply::Created("our-token-1")));

    assert_eq!(success(run(&again(), calls).0).0["how"], "created");
}

#[test]
fn an_empty_list_is_as_good_as_a_404() {
    let mut calls = vec![(Fetch, Reply::NoRow), (ConnectionState, not_there())];
    calls.extend(not_in_database());
    calls.push((Create, Reply::Created("our-token-1")));

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
fn an_instance_that_only_the_apis_memory_holds_is_deleted_there_and_made_again() {
    let mut calls = sure_phantom();
    calls.push((Discard, Reply::Done));
    calls.extend(gone());
    calls.push((Create, Reply::Created("our-token-1")));

    let (outcome, script) = run(&again(), calls);

    assert_eq!(script.waited(), Duration::from_secs(6), "between the looks, and for the delete to be done");
    let (output, _, note) = success(outcome);
    assert_eq!(output["how"], "created");
    assert!(note.unwrap().contains("deleted there and made again"));
}

#[test]
fn a_phantom_is_left_alone_where_no_create_of_ours_was_claimed() {
    let mut calls = vec![(Create, in_use())];
    calls.extend(phantom());

    assert_eq!(end(&run(&given(), calls).0), ("defer", Class::Loading));
}

#[test]
fn a_phantom_is_left_alone_where_a_second_look_or_the_database_sees_an_instance() {
    let row = || Reply::Own(Own::NotLoaded);
    let listed = || [(FetchOwn, Reply::Own(Own::NoSuchRow)), (Roster, roster_with(script::row("their-token-1")))];
    let twice = || phantom().into_iter().chain(phantom());

    let loaded = phantom().into_iter().chain([(Fetch, Reply::Row("our-token-1"))]).collect();
    let known_to_own_token = twice().chain([(FetchOwn, row())]).collect();
    let known_to_list = twice().chain(listed()).collect();
    let down = twice().chain([(FetchOwn, Reply::Own(Own::NoSuchRow)), (Roster, database_away())]).collect();

    assert_eq!(success(run(&again(), loaded).0).0["how"], "found");
    assert_eq!(end(&run(&again(), known_to_own_token).0), ("defer", Class::Loading));
    assert_eq!(end(&run(&again(), known_to_list).0), ("defer", Class::Loading));
    assert_eq!(end(&run(&again(), down).0), ("defer", Class::ServerError));
}

#[test]
fn a_delete_of_a_phantom_is_counted_for_the_attempts_to_come_and_not_as_a_failure() {
    let mut stays = sure_phantom();
    stays.push((Discard, Reply::Done));
    stays.extend(phantom());
    let mut unknown = sure_phantom();
    unknown.push((Discard, timed_out()));

    for calls in [stays, unknown] {
        let (outcome, _) = run(&again(), calls);

        assert_eq!(end(&outcome).0, "defer");
        assert_eq!(kept(&outcome, "discards"), Some(1));
    }
}

#[test]
fn a_phantom_that_comes_back_after_three_deletes_is_a_failure_that_a_person_hears_of() {
    let given = Given { counts: Counts { discards: 3, ..Counts::default() }, ..again() };

    let (outcome, _) = run(&given, sure_phantom());

    assert_eq!(end(&outcome), ("retry", Class::Loading));
    let message = &outcome.failure().unwrap().message;
    assert!(message.contains("a person must") && !message.contains("InstanceName"), "{message}");
}

#[test]
fn a_name_that_its_own_token_or_the_list_finds_in_the_database_is_waited_for_and_never_made() {
    let by_own_token = absent().into_iter().chain([(FetchOwn, Reply::Own(Own::NotLoaded))]).collect();
    let listed = [(FetchOwn, Reply::Own(Own::NoSuchRow)), (Roster, roster_with(script::row("their-token-1")))];
    let by_list = absent().into_iter().chain(listed).collect();

    for calls in [by_own_token, by_list] {
        let (outcome, _) = run(&again(), calls);

        assert_eq!(end(&outcome), ("defer", Class::Loading));
        assert_eq!(kept(&outcome, "looks_not_loaded"), Some(1));
    }
}

#[test]
fn nothing_is_made_while_the_database_cannot_say() {
    let own = absent().into_iter().chain([(FetchOwn, database_away())]).collect();
    let answers = [(FetchOwn, Reply::Own(Own::NoSuchRow)), (Roster, database_away())];
    let list = absent().into_iter().chain(answers).collect();

    for calls in [own, list] {
        let (outcome, _) = run(&again(), calls);

        assert_eq!(end(&outcome), ("defer", Class::ServerError));
        assert_eq!(outcome.failure().unwrap().host, HostSignal::Failing);
    }
}

#[test]
fn a_first_create_asks_the_list_once_while_the_host_answers() {
    let (host, made) = (Host::default(), || (Create, Reply::Created("our-token-1")));
    let script = Script::new([(Version, Reply::Version("2.3.6")), (Roster, Reply::Roster(vec![])), made(), made()]);

    script.play(async {
        for _ in 0..2 {
            let outcome = create_instance(&script, &given(), &settings(), &host).await;
            host.heard(script.elapsed(), &outcome);
            success(outcome);
        }
    });
}

#[test]
fn a_first_create_asks_the_list_again_after_a_break_or_a_silence() {
    let made = || (Create, Reply::Created("our-token-1"));
    for broken in [true, false] {
        let (host, list) = (host(), (Roster, Reply::Roster(vec![])));
        let version = broken.then_some((Version, Reply::Version("2.3.6")));
        let script = Script::new(version.into_iter().chain([list, made()]));

        let outcome = script.play(async {
            if broken {
                let refused = ApiError { call: Create, kind: ErrorKind::Unreachable("refused".into()) };
                host.heard(Duration::ZERO, &classify::outcome(&refused, &given().instance));
            } else {
                script.pause(Duration::from_secs(2)).await;
            }
            create_instance(&script, &given(), &settings(), &host).await
        });

        success(outcome);
    }
}

#[test]
fn an_instance_that_somebody_else_made_is_not_destroyed_while_the_api_loads() {
    let theirs = || (Roster, roster_with(script::row("their-token-1")));
    let own = (FetchOwn, Reply::Own(Own::NoSuchRow));
    let calls: Calls = [theirs()].into_iter().chain(absent()).chain([own, theirs()]).collect();
    let script = Script::new(calls);
    let host = Host::knowing("2.3.6", crate::whatsapp::evolution::Roster::default());

    let outcome = script.play(async {
        script.pause(Duration::from_secs(2)).await;
        create_instance(&script, &given(), &settings(), &host).await
    });

    assert_eq!(end(&outcome), ("defer", Class::Loading));
}

#[test]
fn an_api_whose_cache_is_known_to_be_off_is_asked_for_no_list() {
    let mut options = options();
    options.timings.loading = Duration::ZERO;
    let settings = Settings::parse(options).unwrap();
    let script = Script::new([(Version, Reply::Version("2.3.7")), (Create, Reply::Created("our-token-1"))]);

    success(script.play(create_instance(&script, &given(), &settings, &Host::default())));
}

fn never_loaded(looks: u32) -> Given {
    Given { counts: Counts { not_loaded: looks, ..Counts::default() }, ..again() }
}

fn without_memory() -> Calls {
    vec![(Fetch, not_in_list()), (ConnectionState, Reply::State(None))]
}

fn others(loaded: Option<ApiState>) -> Calls {
    let rows = vec![(format!("user_{USER}"), script::row("our-token-1")), ("other".to_owned(), script::row("t"))];
    vec![(Roster, Reply::Roster(rows.clone())), (ConnectionState, Reply::State(loaded)), (Roster, Reply::Roster(rows))]
}

#[test]
fn a_row_that_no_load_brings_into_memory_is_made_again_once_a_load_would_have_ended() {
    let mut calls = without_memory();
    calls.extend(others(Some(ApiState::Close)));
    calls.push((Discard, Reply::Done));
    calls.extend(gone());
    calls.push((Create, Reply::Created("our-token-1")));

    let (outcome, _) = run(&never_loaded(15), calls);

    assert!(success(outcome).2.unwrap().contains("never loaded"));
    assert_eq!(end(&run(&never_loaded(14), without_memory()).0), ("defer", Class::Loading));
}

#[test]
fn a_row_that_the_apis_guard_does_not_know_is_cleared_away_by_a_create_that_fails() {
    let no_row = || answer(400, Shape::Listed, "constraint: `Setting_instanceId_fkey`");
    let hidden = || absent().into_iter().chain([(FetchOwn, Reply::Own(Own::NotLoaded))]);
    let mut calls: Calls = hidden().chain(others(Some(ApiState::Close))).collect();
    calls.push((Discard, not_there()));
    calls.extend(hidden());
    calls.push((Create, no_row()));
    (0..4).for_each(|_| calls.extend(absent()));

    let (outcome, _) = run(&never_loaded(15), calls);

    assert_eq!(end(&outcome), ("defer", Class::ServerError));
    assert_eq!(kept(&outcome, "discards"), Some(1));
}

#[test]
fn a_row_is_left_alone_while_others_load_and_where_it_is_paired_or_not_ours() {
    let paired = Given { paired_before: true, ..never_loaded(15) };
    let listed = |row: Listed| {
        let other = ("other".to_owned(), script::row("t"));
        let rows = vec![(format!("user_{USER}"), row), other];
        let state = (ConnectionState, Reply::State(Some(ApiState::Open)));
        let list = || (Roster, Reply::Roster(rows.clone()));
        without_memory().into_iter().chain([list(), state, list()]).collect::<Calls>()
    };
    let mut still_loading = without_memory();
    still_loading.extend(others(None));
    still_loading.pop();
    let scanned = Listed { pairing: Pairing::Done, ..script::row("our-token-1") };

    for (given, calls) in [
        (never_loaded(15), still_loading),
        (paired, without_memory()),
        (never_loaded(15), listed(scanned)),
        (never_loaded(15), listed(script::row("their-token-1"))),
    ] {
        let (outcome, _) = run(&given, calls);

        assert_eq!(end(&outcome), ("defer", Class::Loading));
        assert!(outcome.failure().unwrap().message.contains("a restart of the API"));
    }
}

#[test]
fn a_create_whose_row_the_database_did_not_take_burns_no_attempt_unless_it_goes_on() {
    for (creates, expected) in [(0, "defer"), (7, "defer"), (8, "retry")] {
        let given = Given { counts: Counts { without_row: creates, ..Counts::default() }, ..given() };
        let mut calls = vec![(Create, answer(400, Shape::Listed, "constraint: `Setting_instanceId_fkey`"))];
        (0..4).for_each(|_| calls.extend(absent()));

        let (outcome, _) = run(&given, calls);

        assert_eq!(end(&outcome), (expected, Class::ServerError), "{creates}");
        assert_eq!(kept(&outcome, "creates_without_row"), Some(u64::from(creates) + 1));
    }
}

#[test]
fn a_database_that_restarts_during_a_create_burns_no_attempt() {
    for (status, text) in [
        (400, "Error in PostgreSQL connection: FATAL: the database system is starting up"),
        (400, "terminating connection due to administrator command"),
        (500, "DriverAdapterError: database \"evolution\" is not currently accepting connections"),
    ] {
        let mut gone = vec![(Create, answer(status, Shape::Listed, text))];
        (0..4).for_each(|_| gone.extend(absent()));
        let mut phantom_left = vec![(Create, answer(status, Shape::Listed, text))];
        (0..4).for_each(|_| phantom_left.extend(phantom()));

        let (outcome, _) = run(&given(), gone);

        assert_eq!(end(&outcome), ("defer", Class::ServerError), "{text}");
        assert_eq!(outcome.failure().unwrap().host, HostSignal::Failing);
        assert_eq!(end(&run(&given(), phantom_left).0), ("defer", Class::Loading), "{text}");
    }
}

#[test]
fn what_was_counted_is_forgotten_once_the_instance_is_there() {
    let counts = Counts { discards: 2, not_loaded: 5, without_row: 1 };
    let given = Given { counts, ..again() };
    let script = Script::new([(Fetch, Reply::Row("our-token-1"))]);

    let Outcome::Success { memory, .. } = script.play(create_instance(&script, &given, &settings(), &host())) else {
        panic!()
    };

    for key in ["discards", "looks_not_loaded", "creates_without_row"] {
        assert_eq!(memory.get(key), Some(&0.into()), "{key}");
    }
}

#[test]
fn an_instance_of_another_kind_is_not_taken_over() {
    for token in ["our-token-1", "their-token-1"] {
        let other = Listed { kind: Kind::Other("EVOLUTION".into()), ..script::row(token) };

        let (outcome, _) = run(&again(), vec![(Fetch, Reply::ListedRow(other))]);

        assert_eq!(end(&outcome), ("permanent", Class::NameTaken));
        assert!(outcome.failure().unwrap().message.contains("another kind (EVOLUTION)"));
    }
}

#[test]
fn an_older_name_of_the_subjects_own_is_adopted() {
    for end in ["_1700000000000", "_v2"] {
        let instance = format!("user_{USER}{end}").parse().unwrap();
        let older = Given { instance, ..again() };

        let (outcome, _) = run(&older, vec![(Fetch, Reply::Row("their-token-1"))]);

        assert_eq!(success(outcome).0["how"], "adopted", "{end}");
    }
}

#[test]
fn an_older_version_is_refused_in_one_line_before_anything_is_made() {
    let script = Script::new([(Version, Reply::Version("1.8.6")), (Version, Reply::Version("1.8.6"))]);
    let host = Host::default();

    script.play(async {
        for _ in 0..2 {
            let outcome = create_instance(&script, &given(), &settings(), &host).await;

            assert_eq!(end(&outcome), ("defer", Class::Rejected));
            let message = &outcome.failure().unwrap().message;
            assert!(message.contains("1.8.6") && message.contains("2.3.7") && !message.contains('\n'), "{message}");
        }
    });
}

#[test]
fn nobody_makes_anything_while_another_attempt_asks_for_the_version() {
    let script = Script::new([(Version, Reply::Hangs), (Version, Reply::Version("1.8.6"))]);
    let host = Host::default();
    let (given, settings) = (given(), settings());

    let second = script.play(async {
        let mut first = pin!(create_instance(&script, &given, &settings, &host));
        assert!(poll_fn(|context| Poll::Ready(first.as_mut().poll(context))).await.is_pending());
        create_instance(&script, &given, &settings, &host).await
    });

    assert_eq!(end(&second), ("defer", Class::Rejected));
}

#[test]
fn an_attempt_that_asked_the_host_nothing_does_not_hide_its_silence() {
    let host = host();
    let script = Script::new([(Roster, Reply::Roster(vec![])), (Create, Reply::Created("our-token-1"))]);
    let withheld = ApiError { call: Create, kind: ErrorKind::Withheld };

    success(script.play(async {
        script.pause(Duration::from_secs(1)).await;
        host.heard(script.elapsed(), &classify::outcome(&withheld, &given().instance));
        script.pause(Duration::from_secs(1)).await;
        create_instance(&script, &given(), &settings(), &host).await
    }));
}

#[test]
fn a_newer_version_is_said_once_and_with_what_nobody_recorded() {
    let script = Script::new([(Version, Reply::Version("2.4.0")), (Create, Reply::Created("our-token-1"))]);
    let settings = {
        let mut options = options();
        options.timings.loading = Duration::ZERO;
        Settings::parse(options).unwrap()
    };
    let host = Host::default();

    let first = host.say(script.play(create_instance(&script, &given(), &settings, &host)));
    let odd = ErrorKind::Unreadable { status: 200, what: "not a list".into() };
    let later = host.say(classify::outcome(&ApiError { call: Fetch, kind: odd }, &given().instance));

    assert!(success(first).2.unwrap().contains("version 2.4.0, newer than"));
    assert!(later.failure().unwrap().message.contains("version 2.4.0"));
}

#[test]
fn a_host_that_does_not_tell_its_version_is_not_asked_each_time() {
    let made = || (Create, Reply::Created("our-token-1"));
    let script = Script::new([(Version, timed_out()), (Roster, Reply::Roster(vec![])), made(), made()]);
    let host = Host::default();

    script.play(async {
        success(create_instance(&script, &given(), &settings(), &host).await);
        success(create_instance(&script, &given(), &settings(), &host).await);
    });
}

#[test]
fn a_later_attempt_never_posts_where_it_cannot_read_back() {
    let proxy = || answer(404, Shape::Foreign, "404 page not found");
    assert_eq!(end(&run(&again(), vec![(Fetch, refused())]).0), ("defer", Class::Unreachable));
    assert_eq!(end(&run(&again(), vec![(Fetch, timed_out())]).0), ("retry", Class::NoAnswer));
    assert_eq!(end(&run(&again(), vec![(Fetch, proxy())]).0), ("defer", Class::Unreadable));
    let calls = vec![(Fetch, not_in_list()), (ConnectionState, proxy())];
    assert_eq!(end(&run(&again(), calls).0), ("defer", Class::Unreadable));
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

#[test]
fn an_instance_that_was_known_and_is_gone_is_told_and_one_that_never_was_or_that_we_deleted_is_not() {
    let kept = |given: &Given| {
        let calls = gone().into_iter().chain([(Create, Reply::Created("our-token-1"))]).collect();
        let Outcome::Success { memory, .. } = run(given, calls).0 else { panic!("no success") };
        memory.get("gone").cloned()
    };
    let known = || Given { known_before: true, ..again() };

    assert_eq!(kept(&known()), Some(true.into()));
    assert_eq!(kept(&again()), None);
    assert_eq!(kept(&Given { gone_before: true, ..known() }), None, "once");
    assert_eq!(kept(&Given { counts: Counts { discards: 1, ..Counts::default() }, ..known() }), None);
}
