use super::*;

fn discarded() -> Calls {
    vec![(Call::Discard, Reply::Done)]
}

/// A phantom that was looked at twice, and is in no list.
fn sure_phantom() -> Calls {
    [phantom(), phantom(), not_in_database()].concat()
}

/// The instance's row is in the list; its own token does not find it.
fn listed_only() -> Calls {
    [own(Own::NoSuchRow), vec![roster(Some(row(THEIRS)), &[])]].concat()
}

/// The list does not come; the instance's own token finds no row.
fn no_list() -> Calls {
    [own(Own::NoSuchRow), vec![(Call::Roster, database_away())]].concat()
}

/// What a failure leaves in the memory under this key.
fn kept(ended: &Ended, key: &str) -> Option<u64> {
    ended.failure().memory.get(key).and_then(Value::as_u64)
}

#[test]
fn an_instance_that_only_the_apis_memory_holds_is_deleted_there_and_made_again() {
    let script = Script::new([sure_phantom(), discarded(), gone(), made()].concat());
    let (output, _, note) = script.create(&again()).success();

    assert_eq!(script.waited(), Duration::from_secs(6), "between the looks, and for the delete to be done");
    assert_eq!(output["how"], "created");
    assert!(note.unwrap().contains("deleted there and made again"));
}

#[test]
fn a_phantom_is_left_alone_where_no_create_of_ours_was_claimed() {
    let calls = [vec![(Call::Create, in_use())], phantom()].concat();

    assert_eq!(create(&given(), calls).kind(), ("defer", Class::Loading));
}

#[test]
fn a_phantom_is_left_alone_where_a_second_look_or_the_database_sees_an_instance() {
    assert_eq!(create(&again(), [phantom(), found(TOKEN)].concat()).success().0["how"], "found");
    for (known_to, class) in
        [(own(Own::NotLoaded), Class::Loading), (listed_only(), Class::Loading), (no_list(), Class::ServerError)]
    {
        assert_eq!(create(&again(), [phantom(), phantom(), known_to].concat()).kind(), ("defer", class));
    }
}

#[test]
fn a_delete_of_a_phantom_is_counted_for_the_attempts_to_come_and_not_as_a_failure() {
    for more in [[discarded(), phantom()].concat(), vec![(Call::Discard, timed_out())]] {
        let ended = create(&again(), [sure_phantom(), more].concat());

        assert_eq!(ended.kind().0, "defer");
        assert_eq!(kept(&ended, "discards"), Some(1));
    }
}

#[test]
fn a_phantom_that_comes_back_after_three_deletes_is_a_failure_that_a_person_hears_of() {
    let given = Given { counts: Counts { discards: 3, ..Counts::default() }, ..again() };

    let ended = create(&given, sure_phantom());

    assert_eq!(ended.kind(), ("retry", Class::Loading));
    let message = &ended.failure().message;
    assert!(message.contains("a person must") && !message.contains("InstanceName"), "{message}");
}

#[test]
fn a_name_that_its_own_token_or_the_list_finds_in_the_database_is_waited_for_and_never_made() {
    for found in [own(Own::NotLoaded), listed_only()] {
        let ended = create(&again(), [absent(), found].concat());

        assert_eq!(ended.kind(), ("defer", Class::Loading));
        assert_eq!(kept(&ended, "looks_not_loaded"), Some(1));
    }
}

#[test]
fn nothing_is_made_while_the_database_cannot_say() {
    for away in [vec![(Call::FetchOwn, database_away())], no_list()] {
        let ended = create(&again(), [absent(), away].concat());

        assert_eq!(ended.kind(), ("defer", Class::ServerError));
        assert_eq!(ended.failure().host, HostSignal::Failing);
    }
}

fn never_loaded(not_loaded: u32) -> Given {
    Given { counts: Counts { not_loaded, ..Counts::default() }, ..again() }
}

/// The list with this row for our instance and one for another, and in between how the other one
/// stands.
fn listed_beside(row: Listed, state: Option<ApiState>) -> Calls {
    let list = roster(Some(row), &["other"]);
    vec![list.clone(), (Call::ConnectionState, Reply::State(state)), list]
}

#[test]
fn a_row_that_no_load_brings_into_memory_is_made_again_once_a_load_would_have_ended() {
    let others = listed_beside(row(TOKEN), Some(ApiState::Close));
    let calls = [not_loaded(), others, discarded(), gone(), made()].concat();

    let (_, _, note) = create(&never_loaded(15), calls).success();

    assert!(note.unwrap().contains("never loaded"));
    assert_eq!(create(&never_loaded(14), not_loaded()).kind(), ("defer", Class::Loading));
}

/// What a create says whose row the database did not take, and the looks that find nothing of it.
fn without_row() -> Calls {
    let failed = vec![(Call::Create, answer(400, Shape::Listed, "constraint: `Setting_instanceId_fkey`"))];
    [failed, vec![absent(); 4].concat()].concat()
}

#[test]
fn a_row_that_the_apis_guard_does_not_know_is_cleared_away_by_a_create_that_fails() {
    let hidden = || [absent(), own(Own::NotLoaded)].concat();
    let others = listed_beside(row(TOKEN), Some(ApiState::Close));
    let calls = [hidden(), others, vec![(Call::Discard, not_there())], hidden(), without_row()].concat();

    let ended = create(&never_loaded(15), calls);

    assert_eq!(ended.kind(), ("defer", Class::ServerError));
    assert_eq!(kept(&ended, "discards"), Some(1));
}

#[test]
fn a_row_is_left_alone_while_others_load_and_where_it_is_paired_or_not_ours() {
    let paired = Given { paired_before: true, ..never_loaded(15) };
    let mut still_loading = listed_beside(row(TOKEN), None);
    still_loading.pop();
    let scanned = Listed { pairing: Pairing::Done, ..row(TOKEN) };

    for (given, more) in [
        (never_loaded(15), still_loading),
        (paired, Vec::new()),
        (never_loaded(15), listed_beside(scanned, Some(ApiState::Open))),
        (never_loaded(15), listed_beside(row(THEIRS), Some(ApiState::Open))),
    ] {
        let ended = create(&given, [not_loaded(), more].concat());

        assert_eq!(ended.kind(), ("defer", Class::Loading));
        assert!(ended.failure().message.contains("a restart of the API"));
    }
}

#[test]
fn a_create_whose_row_the_database_did_not_take_burns_no_attempt_unless_it_goes_on() {
    for (without, expected) in [(0, "defer"), (7, "defer"), (8, "retry")] {
        let given = Given { counts: Counts { without_row: without, ..Counts::default() }, ..given() };

        let ended = create(&given, without_row());

        assert_eq!(ended.kind(), (expected, Class::ServerError), "{without}");
        assert_eq!(kept(&ended, "creates_without_row"), Some(u64::from(without) + 1));
    }
}

#[test]
fn a_database_that_restarts_during_a_create_burns_no_attempt() {
    for (status, text) in [
        (400, "Error in PostgreSQL connection: FATAL: the database system is starting up"),
        (400, "terminating connection due to administrator command"),
        (500, "DriverAdapterError: database \"evolution\" is not currently accepting connections"),
    ] {
        let failed = (Call::Create, answer(status, Shape::Listed, text));
        let left = |look: Calls| create(&given(), [vec![failed.clone()], vec![look; 4].concat()].concat());

        let nothing = left(absent());

        assert_eq!(nothing.kind(), ("defer", Class::ServerError), "{text}");
        assert_eq!(nothing.failure().host, HostSignal::Failing);
        assert_eq!(left(phantom()).kind(), ("defer", Class::Loading), "{text}");
    }
}

#[test]
fn what_was_counted_is_forgotten_once_the_instance_is_there() {
    let counts = Counts { discards: 2, not_loaded: 5, without_row: 1 };

    let ended = create(&Given { counts, ..again() }, found(TOKEN));

    for key in ["discards", "looks_not_loaded", "creates_without_row"] {
        assert_eq!(ended.memory().get(key), Some(&0.into()), "{key}");
    }
    ended.success();
}
