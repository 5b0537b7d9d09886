use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use serde_json::Value;

use super::{
    assert_no_secret, end, script,
    script::{
        Calls, Reply, Script, absent, answer, database_away, found, given, gone, host, in_use, not_in_list, not_loaded,
        not_there, phantom, refused, roster_with, settings, timed_out,
    },
    success,
};
use crate::{
    calls::{ExclusiveCalls, Permission},
    outcome::{Class, HostSignal, Outcome},
    secret::Secret,
    whatsapp::{
        evolution::{
            ApiError, ApiState,
            Call::{ConnectionState, Create, Discard, Fetch, FetchOwn, Roster, Version},
            ErrorKind, Evolution, ExclusiveApi, Kind, Listed, Own, RetryAfter, Shape,
            classify::{self, Pairing},
        },
        names::InstanceStatus,
        provision::{Counts, Facts, Given, Host, Settings, create_instance},
    },
};

/// The step, under a lease that lasts.
async fn create(script: &Script, given: &Given, settings: &Settings, host: &Host) -> Outcome {
    let calls = ExclusiveCalls::new(&Permission::Granted);
    create_instance(&ExclusiveApi::new(script, &calls), given, settings, host).await
}

fn run(given: &Given, calls: Calls) -> (Outcome, Script) {
    let script = Script::new(calls);
    let outcome = script.play(create(&script, given, &settings(), &host()));
    assert_no_secret(&outcome);
    (outcome, script)
}

fn succeeds(given: &Given, calls: Calls) -> (Value, Facts, Option<String>) {
    success(run(given, calls).0)
}

/// How the instance came to be there.
fn how(given: &Given, calls: Calls) -> Value {
    succeeds(given, calls).0["how"].clone()
}

fn ends(given: &Given, calls: Calls) -> (&'static str, Class) {
    end(&run(given, calls).0)
}

fn again() -> Given {
    Given { created_before: true, ..given() }
}

fn made() -> Calls {
    vec![(Create, Reply::Created("our-token-1"))]
}

fn discarded() -> Calls {
    vec![(Discard, Reply::Done)]
}

/// A phantom that was looked at twice, and is in no list.
fn sure_phantom() -> Calls {
    [phantom(), phantom(), script::not_in_database()].concat()
}

/// The instance's row is in the list; its own token does not find it.
fn listed_only() -> Calls {
    vec![(FetchOwn, Reply::Own(Own::NoSuchRow)), (Roster, roster_with(script::row("their-token-1")))]
}

/// What a failure leaves in the memory under this key.
fn kept(outcome: &Outcome, key: &str) -> Option<u64> {
    outcome.failure().unwrap().memory.get(key).and_then(Value::as_u64)
}

#[test]
fn the_first_attempt_posts_at_once_and_a_token_of_the_apis_own_is_kept() {
    let (output, facts, note) = succeeds(&given(), made());
    let (_, theirs, _) = succeeds(&given(), vec![(Create, Reply::Created("their-token-1"))]);

    assert_eq!(output["how"], "created");
    assert_eq!((facts.token, note), (None, None));
    assert_eq!(theirs.token, Some(Secret::new("their-token-1")));
}

#[test]
fn a_later_attempt_reads_back_first_and_finds_what_the_first_one_made() {
    let (output, facts, _) = succeeds(&again(), found("our-token-1"));

    assert_eq!(output["how"], "found");
    assert_eq!(facts.token, None);
}

/// What the user's row says may be forged, or have been true once.
#[test]
fn what_is_found_says_how_it_stands_and_whose_phone_it_has() {
    let number = || Some("5511999999999".to_owned());
    let stands = |status, pairing, phone_number| {
        let row = Listed { status, pairing, phone_number, ..script::row("our-token-1") };
        succeeds(&again(), vec![(Fetch, Reply::ListedRow(row))]).1
    };

    let open = stands(Some(ApiState::Open), Pairing::Done, number());
    let closed = stands(Some(ApiState::Close), Pairing::Done, number());
    let never = stands(Some(ApiState::Connecting), Pairing::NotYet, None);

    assert_eq!((open.status, open.paired), (Some(InstanceStatus::Connected), Some(true)));
    assert_eq!((closed.status, closed.paired), (Some(InstanceStatus::Disconnected), Some(true)));
    assert_eq!((never.status, never.paired), (Some(InstanceStatus::Connecting), None));
    let numbers = [open.phone_number, closed.phone_number, never.phone_number];
    assert_eq!(numbers, [Some(number()), Some(number()), Some(None)]);
}

/// The status would take the code along, and the user may be scanning it.
#[test]
fn what_still_waits_to_be_scanned_keeps_the_code_that_is_shown() {
    let given = Given { connecting_before: true, ..again() };
    let stands = |state| {
        let row = Listed { status: Some(state), pairing: Pairing::NotYet, ..script::row("our-token-1") };
        succeeds(&given, vec![(Fetch, Reply::ListedRow(row))]).1.status
    };

    assert_eq!(stands(ApiState::Connecting), None);
    assert_eq!(stands(ApiState::Close), None);
    assert_eq!(stands(ApiState::Open), Some(InstanceStatus::Connected));
}

#[test]
fn what_is_made_again_was_never_paired_and_a_first_create_has_nothing_to_forget() {
    let again = succeeds(&Given { paired_before: true, ..again() }, [gone(), made()].concat()).1;
    let first = succeeds(&given(), made()).1;

    let stands = (again.status, again.paired, again.phone_number);
    assert_eq!(stands, (Some(InstanceStatus::Creating), Some(false), Some(None)));
    assert_eq!(first, Facts::default());
}

/// An empty list is as good as a 404.
#[test]
fn a_later_attempt_posts_only_where_the_instance_is_absent() {
    let empty = vec![(Fetch, Reply::NoRow), (ConnectionState, not_there())];

    assert_eq!(how(&again(), [gone(), made()].concat()), "created");
    assert_eq!(how(&again(), [empty, script::not_in_database(), made()].concat()), "created");
}

#[test]
fn an_instance_that_only_the_apis_memory_holds_is_deleted_there_and_made_again() {
    let (outcome, script) = run(&again(), [sure_phantom(), discarded(), gone(), made()].concat());

    assert_eq!(script.waited(), Duration::from_secs(6), "between the looks, and for the delete to be done");
    let (output, _, note) = success(outcome);
    assert_eq!(output["how"], "created");
    assert!(note.unwrap().contains("deleted there and made again"));
}

#[test]
fn a_phantom_is_left_alone_where_no_create_of_ours_was_claimed() {
    assert_eq!(ends(&given(), [vec![(Create, in_use())], phantom()].concat()), ("defer", Class::Loading));
}

#[test]
fn a_phantom_is_left_alone_where_a_second_look_or_the_database_sees_an_instance() {
    let twice = |more| [phantom(), phantom(), more].concat();
    let own = |own| (FetchOwn, Reply::Own(own));

    assert_eq!(how(&again(), [phantom(), found("our-token-1")].concat()), "found");
    for (known_to, class) in [
        (vec![own(Own::NotLoaded)], Class::Loading),
        (listed_only(), Class::Loading),
        (vec![own(Own::NoSuchRow), (Roster, database_away())], Class::ServerError),
    ] {
        assert_eq!(ends(&again(), twice(known_to)), ("defer", class));
    }
}

#[test]
fn a_delete_of_a_phantom_is_counted_for_the_attempts_to_come_and_not_as_a_failure() {
    let stays = [discarded(), phantom()].concat();

    for more in [stays, vec![(Discard, timed_out())]] {
        let (outcome, _) = run(&again(), [sure_phantom(), more].concat());

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
    for found in [vec![(FetchOwn, Reply::Own(Own::NotLoaded))], listed_only()] {
        let (outcome, _) = run(&again(), [absent(), found].concat());

        assert_eq!(end(&outcome), ("defer", Class::Loading));
        assert_eq!(kept(&outcome, "looks_not_loaded"), Some(1));
    }
}

#[test]
fn nothing_is_made_while_the_database_cannot_say() {
    let list = vec![(FetchOwn, Reply::Own(Own::NoSuchRow)), (Roster, database_away())];

    for away in [vec![(FetchOwn, database_away())], list] {
        let (outcome, _) = run(&again(), [absent(), away].concat());

        assert_eq!(end(&outcome), ("defer", Class::ServerError));
        assert_eq!(outcome.failure().unwrap().host, HostSignal::Failing);
    }
}

#[test]
fn a_first_create_asks_the_list_once_while_the_host_answers() {
    let host = Host::default();
    let asked = vec![(Version, Reply::Version("2.3.6")), (Roster, Reply::Roster(vec![]))];
    let script = Script::new([asked, made(), made()].concat());

    script.play(async {
        for _ in 0..2 {
            let outcome = create(&script, &given(), &settings(), &host).await;
            host.heard(script.elapsed(), &outcome);
            success(outcome);
        }
    });
}

#[test]
fn a_first_create_asks_the_list_again_after_a_break_or_a_silence() {
    for broken in [true, false] {
        let (host, list) = (host(), vec![(Roster, Reply::Roster(vec![]))]);
        let version = if broken { vec![(Version, Reply::Version("2.3.6"))] } else { Vec::new() };
        let script = Script::new([version, list, made()].concat());

        let outcome = script.play(async {
            if broken {
                let refused = ApiError { call: Create, kind: ErrorKind::Unreachable("refused".into()) };
                host.heard(Duration::ZERO, &classify::outcome(&refused, &given().instance));
            } else {
                script.pause(Duration::from_secs(2)).await;
            }
            create(&script, &given(), &settings(), &host).await
        });

        success(outcome);
    }
}

#[test]
fn an_instance_that_somebody_else_made_is_not_destroyed_while_the_api_loads() {
    let theirs = vec![(Roster, roster_with(script::row("their-token-1")))];
    let script = Script::new([theirs, absent(), listed_only()].concat());
    let host = host();

    let outcome = script.play(async {
        script.pause(Duration::from_secs(2)).await;
        create(&script, &given(), &settings(), &host).await
    });

    assert_eq!(end(&outcome), ("defer", Class::Loading));
}

fn never_loaded(looks: u32) -> Given {
    Given { counts: Counts { not_loaded: looks, ..Counts::default() }, ..again() }
}

/// The list with this row for our instance and one for another, and in between how the other one
/// stands.
fn listed_beside(row: Listed, state: Option<ApiState>) -> Calls {
    let rows = vec![(format!("user_{}", script::USER), row), ("other".to_owned(), script::row("t"))];
    let list = || (Roster, Reply::Roster(rows.clone()));
    vec![list(), (ConnectionState, Reply::State(state)), list()]
}

#[test]
fn a_row_that_no_load_brings_into_memory_is_made_again_once_a_load_would_have_ended() {
    let others = listed_beside(script::row("our-token-1"), Some(ApiState::Close));

    let (_, _, note) = succeeds(&never_loaded(15), [not_loaded(), others, discarded(), gone(), made()].concat());

    assert!(note.unwrap().contains("never loaded"));
    assert_eq!(ends(&never_loaded(14), not_loaded()), ("defer", Class::Loading));
}

#[test]
fn a_row_that_the_apis_guard_does_not_know_is_cleared_away_by_a_create_that_fails() {
    let hidden = || [absent(), vec![(FetchOwn, Reply::Own(Own::NotLoaded))]].concat();
    let others = listed_beside(script::row("our-token-1"), Some(ApiState::Close));
    let cleared = vec![(Create, answer(400, Shape::Listed, "constraint: `Setting_instanceId_fkey`"))];
    let calls =
        [hidden(), others, vec![(Discard, not_there())], hidden(), cleared, vec![absent(); 4].concat()].concat();

    let (outcome, _) = run(&never_loaded(15), calls);

    assert_eq!(end(&outcome), ("defer", Class::ServerError));
    assert_eq!(kept(&outcome, "discards"), Some(1));
}

#[test]
fn a_row_is_left_alone_while_others_load_and_where_it_is_paired_or_not_ours() {
    let paired = Given { paired_before: true, ..never_loaded(15) };
    let mut still_loading = listed_beside(script::row("our-token-1"), None);
    still_loading.pop();
    let scanned = Listed { pairing: Pairing::Done, ..script::row("our-token-1") };

    for (given, more) in [
        (never_loaded(15), still_loading),
        (paired, Vec::new()),
        (never_loaded(15), listed_beside(scanned, Some(ApiState::Open))),
        (never_loaded(15), listed_beside(script::row("their-token-1"), Some(ApiState::Open))),
    ] {
        let (outcome, _) = run(&given, [not_loaded(), more].concat());

        assert_eq!(end(&outcome), ("defer", Class::Loading));
        assert!(outcome.failure().unwrap().message.contains("a restart of the API"));
    }
}

#[test]
fn a_create_whose_row_the_database_did_not_take_burns_no_attempt_unless_it_goes_on() {
    for (creates, expected) in [(0, "defer"), (7, "defer"), (8, "retry")] {
        let given = Given { counts: Counts { without_row: creates, ..Counts::default() }, ..given() };
        let failed = vec![(Create, answer(400, Shape::Listed, "constraint: `Setting_instanceId_fkey`"))];

        let (outcome, _) = run(&given, [failed, vec![absent(); 4].concat()].concat());

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
        let failed = vec![(Create, answer(status, Shape::Listed, text))];

        let (outcome, _) = run(&given(), [failed.clone(), vec![absent(); 4].concat()].concat());

        assert_eq!(end(&outcome), ("defer", Class::ServerError), "{text}");
        assert_eq!(outcome.failure().unwrap().host, HostSignal::Failing);
        let phantom_left = [failed, vec![phantom(); 4].concat()].concat();
        assert_eq!(ends(&given(), phantom_left), ("defer", Class::Loading), "{text}");
    }
}

#[test]
fn what_was_counted_is_forgotten_once_the_instance_is_there() {
    let counts = Counts { discards: 2, not_loaded: 5, without_row: 1 };

    let (outcome, _) = run(&Given { counts, ..again() }, found("our-token-1"));

    let Outcome::Success { memory, .. } = outcome else { panic!("no success") };
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
        let older = Given { instance: format!("user_{}{end}", script::USER).parse().unwrap(), ..again() };

        assert_eq!(how(&older, found("their-token-1")), "adopted", "{end}");
    }
}

#[test]
fn an_older_version_is_refused_in_one_line_before_anything_is_made() {
    let script = Script::new(vec![(Version, Reply::Version("1.8.6")); 2]);
    let host = Host::default();

    script.play(async {
        for _ in 0..2 {
            let outcome = create(&script, &given(), &settings(), &host).await;

            assert_eq!(end(&outcome), ("defer", Class::Rejected));
            let message = &outcome.failure().unwrap().message;
            assert!(message.contains("1.8.6") && message.contains("2.3.7") && !message.contains('\n'), "{message}");
        }
    });
}

#[test]
fn nobody_makes_anything_while_another_attempt_asks_for_the_version() {
    let script = Script::new([(Version, Reply::Hangs), (Version, Reply::Version("1.8.6"))]);
    let (host, given, settings) = (Host::default(), given(), settings());

    let second = script.play(async {
        let mut first = pin!(create(&script, &given, &settings, &host));
        assert!(poll_fn(|context| Poll::Ready(first.as_mut().poll(context))).await.is_pending());
        create(&script, &given, &settings, &host).await
    });

    assert_eq!(end(&second), ("defer", Class::Rejected));
}

#[test]
fn an_attempt_that_asked_the_host_nothing_does_not_hide_its_silence() {
    let host = host();
    let script = Script::new([vec![(Roster, Reply::Roster(vec![]))], made()].concat());
    let withheld = ApiError { call: Create, kind: ErrorKind::Withheld };

    success(script.play(async {
        script.pause(Duration::from_secs(1)).await;
        host.heard(script.elapsed(), &classify::outcome(&withheld, &given().instance));
        script.pause(Duration::from_secs(1)).await;
        create(&script, &given(), &settings(), &host).await
    }));
}

#[test]
fn a_newer_version_is_said_once_and_with_what_nobody_recorded() {
    let asked = vec![(Version, Reply::Version("2.4.0")), (Roster, Reply::Roster(vec![]))];
    let script = Script::new([asked, made()].concat());
    let host = Host::default();

    let first = host.say(script.play(create(&script, &given(), &settings(), &host)));
    let odd = ErrorKind::Unreadable { status: 200, what: "not a list".into() };
    let later = host.say(classify::outcome(&ApiError { call: Fetch, kind: odd }, &given().instance));

    assert!(success(first).2.unwrap().contains("version 2.4.0, newer than"));
    assert!(later.failure().unwrap().message.contains("version 2.4.0"));
}

#[test]
fn a_host_that_does_not_tell_its_version_is_not_asked_each_time() {
    let asked = vec![(Version, timed_out()), (Roster, Reply::Roster(vec![]))];
    let script = Script::new([asked, made(), made()].concat());
    let host = Host::default();

    script.play(async {
        success(create(&script, &given(), &settings(), &host).await);
        success(create(&script, &given(), &settings(), &host).await);
    });
}

#[test]
fn a_later_attempt_never_posts_while_the_instance_is_loading_or_where_it_cannot_read_back() {
    let proxy = || answer(404, Shape::Foreign, "404 page not found");
    let not_listed = |state| vec![(Fetch, not_in_list()), (ConnectionState, state)];

    for (calls, expected) in [
        (vec![(Fetch, refused())], ("defer", Class::Unreachable)),
        (vec![(Fetch, timed_out())], ("retry", Class::NoAnswer)),
        (vec![(Fetch, proxy())], ("defer", Class::Unreadable)),
        (not_listed(proxy()), ("defer", Class::Unreadable)),
        (not_listed(Reply::State(None)), ("defer", Class::Loading)),
        (not_listed(Reply::State(Some(ApiState::Close))), ("defer", Class::Loading)),
    ] {
        assert_eq!(ends(&again(), calls), expected);
    }
}

/// The name is taken, and this is found there.
fn taken(token: &'static str) -> Calls {
    [vec![(Create, in_use())], found(token)].concat()
}

#[test]
fn a_taken_name_is_ours_by_our_token_and_else_adopted_with_the_token_that_it_has() {
    let (output, facts, note) = succeeds(&given(), taken("their-token-1"));
    let (without, kept, _) = succeeds(&given(), taken(""));

    assert_eq!(how(&given(), taken("our-token-1")), "found");
    assert_eq!((&output["how"], facts.token), (&"adopted".into(), Some(Secret::new("their-token-1"))));
    assert!(note.unwrap().contains("another token"));
    assert_eq!((&without["how"], kept.token), (&"adopted".into(), None), "the API shows none: ours stays");
}

#[test]
fn another_subjects_name_is_adopted_only_where_its_row_was_imported() {
    let stranger = Given { subject: "00000000-0000-4000-8000-000000000001".parse().unwrap(), ..again() };

    assert_eq!(ends(&stranger, found("their-token-1")), ("permanent", Class::NameTaken));
    assert_eq!(how(&Given { imported: true, ..stranger }, found("their-token-1")), "adopted");
}

#[test]
fn a_taken_name_that_nobody_lists_is_loading_or_leaving() {
    for state in [not_there(), Reply::State(None)] {
        let calls = vec![(Create, in_use()), (Fetch, not_in_list()), (ConnectionState, state)];

        assert_eq!(ends(&given(), calls), ("defer", Class::Loading));
    }
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
        let calls = [vec![(Create, reply.clone())], absent(), found("our-token-1")].concat();

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
        let (outcome, script) = run(&given(), [vec![(Create, reply)], vec![absent(); 4].concat()].concat());

        assert_eq!(end(&outcome), expected);
        assert!(script.waited() >= Duration::from_millis(2500), "{:?}", script.waited());
    }
}

#[test]
fn a_read_back_that_learns_nothing_leaves_it_to_the_next_attempt() {
    for (looks, waited) in [(vec![(Fetch, timed_out()); 3], 2_100), (vec![not_loaded(); 10].concat(), 10_500)] {
        let (outcome, script) = run(&given(), [vec![(Create, timed_out())], looks].concat());

        assert_eq!(end(&outcome), ("retry", Class::NoAnswer));
        assert_eq!(script.waited(), Duration::from_millis(waited));
        let message = &outcome.failure().unwrap().message;
        assert!(message.ends_with("still unknown, the next attempt reads back first"));
    }
}

#[test]
fn what_was_not_sent_and_an_api_that_went_away_in_the_middle_burn_no_attempt() {
    for (calls, class) in [
        (vec![(Create, refused())], Class::Unreachable),
        (vec![(Create, Reply::Error(ErrorKind::Withheld))], Class::LeaseTooShort),
        (vec![(Create, timed_out()), (Fetch, refused())], Class::Unreachable),
    ] {
        assert_eq!(ends(&given(), calls), ("defer", class));
    }
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
fn a_refused_key_a_refused_body_and_a_body_that_was_lost_are_told_apart() {
    for (refusal, expected) in [
        (answer(401, Shape::Plain, "Unauthorized"), ("defer", Class::KeyRefused)),
        (answer(400, Shape::Schema, "token is not of a type(s) string"), ("permanent", Class::Rejected)),
        // About another name: no adoption.
        (answer(403, Shape::Listed, "This name \"undefined\" is already in use."), ("retry", Class::Rejected)),
    ] {
        assert_eq!(ends(&given(), vec![(Create, refusal)]), expected);
    }
}

#[test]
fn an_instance_that_was_known_and_is_gone_is_told_and_one_that_never_was_or_that_we_deleted_is_not() {
    let kept = |given: &Given| {
        let Outcome::Success { memory, .. } = run(given, [gone(), made()].concat()).0 else { panic!("no success") };
        memory.get("gone").cloned()
    };
    let known = || Given { known_before: true, ..again() };

    assert_eq!(kept(&known()), Some(true.into()));
    assert_eq!(kept(&again()), None);
    assert_eq!(kept(&Given { gone_before: true, ..known() }), None, "once");
    assert_eq!(kept(&Given { counts: Counts { discards: 1, ..Counts::default() }, ..known() }), None);
}
