use workflows::whatsapp::evolution::RetryAfter;

use super::*;

/// How the instance came to be there.
fn how(given: &Given, calls: Calls) -> Value {
    create(given, calls).success().0["how"].clone()
}

/// What the step learns of an instance whose row this is.
fn learnt(given: &Given, row: Listed) -> Value {
    create(given, listed(row)).success().1
}

#[test]
fn the_first_attempt_posts_at_once_and_a_token_of_the_apis_own_is_kept() {
    let (output, kept, note) = create(&given(), made()).success();
    let (_, theirs, _) = create(&given(), vec![(Call::Create, Reply::Created(THEIRS))]).success();

    assert_eq!(output["how"], "created");
    assert_eq!((kept.get("token"), note), (None, None));
    assert_eq!(theirs["token"], THEIRS);
}

#[test]
fn a_later_attempt_reads_back_first_and_finds_what_the_first_one_made() {
    let (output, kept, _) = create(&again(), found(TOKEN)).success();

    assert_eq!(output["how"], "found");
    assert_eq!(kept.get("token"), None);
}

/// What the user's row says may be forged, or have been true once.
#[test]
fn what_is_found_says_how_it_stands_and_whose_phone_it_has() {
    for (state, pairing, number, status, paired) in [
        (ApiState::Open, Pairing::Done, Some("5511999999999"), "connected", Some(&json!(true))),
        (ApiState::Close, Pairing::Done, Some("5511999999999"), "disconnected", Some(&json!(true))),
        (ApiState::Connecting, Pairing::NotYet, None, "connecting", None),
    ] {
        let phone_number = number.map(str::to_owned);

        let kept = learnt(&again(), Listed { status: Some(state), pairing, phone_number, ..row(TOKEN) });

        assert_eq!((&kept["status"], kept.get("paired")), (&json!(status), paired));
        assert_eq!(kept.get("phone_number"), Some(&json!(number)), "{status}");
    }
}

/// The status would take the code along, and the user may be scanning it.
#[test]
fn what_still_waits_to_be_scanned_keeps_the_code_that_is_shown() {
    let given = Given { connecting_before: true, ..again() };
    for (state, status) in
        [(ApiState::Connecting, None), (ApiState::Close, None), (ApiState::Open, Some(&json!("connected")))]
    {
        let kept = learnt(&given, Listed { status: Some(state), ..row(TOKEN) });

        assert_eq!(kept.get("status"), status, "{state:?}");
    }
}

#[test]
fn what_is_made_again_was_never_paired_and_a_first_create_has_nothing_to_forget() {
    let again = create(&Given { paired_before: true, ..again() }, [gone(), made()].concat()).success().1;
    let first = create(&given(), made()).success().1;

    assert_eq!((&again["status"], &again["paired"]), (&json!("creating"), &json!(false)));
    assert_eq!(again.get("phone_number"), Some(&Value::Null));
    assert_eq!(first, json!({}));
}

/// An empty list is as good as a 404.
#[test]
fn a_later_attempt_posts_only_where_the_instance_is_absent() {
    let empty = vec![(Call::Fetch, Reply::Row(None)), (Call::ConnectionState, not_there())];

    assert_eq!(how(&again(), [gone(), made()].concat()), "created");
    assert_eq!(how(&again(), [empty, not_in_database(), made()].concat()), "created");
}

#[test]
fn a_later_attempt_never_posts_while_the_instance_is_loading_or_where_it_cannot_read_back() {
    let proxy = || answer(404, Shape::Foreign, "404 page not found");

    for (calls, expected) in [
        (vec![(Call::Fetch, refused())], ("defer", Class::Unreachable)),
        (vec![(Call::Fetch, timed_out())], ("retry", Class::NoAnswer)),
        (vec![(Call::Fetch, proxy())], ("defer", Class::Unreadable)),
        (not_listed(proxy()), ("defer", Class::Unreadable)),
        (not_listed(Reply::State(None)), ("defer", Class::Loading)),
        (not_listed(Reply::State(Some(ApiState::Close))), ("defer", Class::Loading)),
    ] {
        assert_eq!(create(&again(), calls).kind(), expected);
    }
}

/// The name is taken, and this is found there.
fn taken(token: &str) -> Calls {
    [vec![(Call::Create, in_use())], found(token)].concat()
}

#[test]
fn a_taken_name_is_ours_by_our_token_and_else_adopted_with_the_token_that_it_has() {
    let (output, theirs, note) = create(&given(), taken(THEIRS)).success();
    let (without, kept, _) = create(&given(), taken("")).success();

    assert_eq!(how(&given(), taken(TOKEN)), "found");
    assert_eq!((&output["how"], &theirs["token"]), (&json!("adopted"), &json!(THEIRS)));
    assert!(note.unwrap().contains("another token"));
    assert_eq!((&without["how"], kept.get("token")), (&json!("adopted"), None), "the API shows none: ours stays");
}

#[test]
fn a_taken_name_that_nobody_lists_is_loading_or_leaving() {
    for state in [not_there(), Reply::State(None)] {
        let calls = [vec![(Call::Create, in_use())], not_listed(state)].concat();

        assert_eq!(create(&given(), calls).kind(), ("defer", Class::Loading));
    }
}

#[test]
fn an_older_name_of_the_subjects_own_is_adopted() {
    for end in ["_1700000000000", "_v2"] {
        let older = Given { instance: format!("user_{USER}{end}").parse().unwrap(), ..again() };

        assert_eq!(how(&older, found(THEIRS)), "adopted", "{end}");
    }
}

#[test]
fn another_subjects_name_is_adopted_only_where_its_row_was_imported() {
    let stranger = Given { subject: "00000000-0000-4000-8000-000000000001".parse().unwrap(), ..again() };

    assert_eq!(create(&stranger, found(THEIRS)).kind(), ("permanent", Class::NameTaken));
    assert_eq!(how(&Given { imported: true, ..stranger }, found(THEIRS)), "adopted");
}

#[test]
fn an_instance_of_another_kind_is_not_taken_over() {
    for token in [TOKEN, THEIRS] {
        let other = Listed { kind: Kind::Other("EVOLUTION".into()), ..row(token) };

        let ended = create(&again(), listed(other));

        assert_eq!(ended.kind(), ("permanent", Class::NameTaken));
        assert!(ended.failure().message.contains("another kind (EVOLUTION)"));
    }
}

#[test]
fn an_unknown_end_is_read_back_until_the_instance_is_there() {
    for reply in [
        timed_out(),
        answer(400, Shape::Listed, "Foreign key constraint violated on the constraint: `Setting_instanceId_fkey`"),
        answer(500, Shape::Listed, "DriverAdapterError: database \"evolution\" is not currently accepting connections"),
        answer(403, Shape::Foreign, "blocked by the firewall"),
        answer(504, Shape::Foreign, "gateway timeout"),
        Reply::Error(ErrorKind::Unreadable { status: 201, what: "not JSON".into() }),
    ] {
        let script = Script::new([vec![(Call::Create, reply.clone())], absent(), found(TOKEN)].concat());

        assert_eq!(script.create(&given()).success().0["how"], "found", "{reply:?}");
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
        let script = Script::new([vec![(Call::Create, reply)], vec![absent(); 4].concat()].concat());

        assert_eq!(script.create(&given()).kind(), expected);
        assert!(script.waited() >= Duration::from_millis(2500), "{:?}", script.waited());
    }
}

#[test]
fn a_read_back_that_learns_nothing_leaves_it_to_the_next_attempt() {
    for (looks, waited) in [(vec![(Call::Fetch, timed_out()); 3], 2_100), (vec![not_loaded(); 10].concat(), 10_500)] {
        let script = Script::new([vec![(Call::Create, timed_out())], looks].concat());
        let ended = script.create(&given());

        assert_eq!(ended.kind(), ("retry", Class::NoAnswer));
        assert_eq!(script.waited(), Duration::from_millis(waited));
        assert!(ended.failure().message.ends_with("still unknown, the next attempt reads back first"));
    }
}

#[test]
fn what_was_not_sent_and_an_api_that_went_away_in_the_middle_burn_no_attempt() {
    for (calls, class) in [
        (vec![(Call::Create, refused())], Class::Unreachable),
        (vec![(Call::Create, Reply::Error(ErrorKind::Withheld))], Class::LeaseTooShort),
        (vec![(Call::Create, timed_out()), (Call::Fetch, refused())], Class::Unreachable),
    ] {
        assert_eq!(create(&given(), calls).kind(), ("defer", class));
    }
}

#[test]
fn a_host_that_asks_for_time_gets_it() {
    let Reply::Error(ErrorKind::Answer(mut busy)) = answer(429, Shape::Plain, "slow down") else { panic!() };
    busy.retry_after = RetryAfter::parse("7", None);

    let ended = create(&given(), vec![(Call::Create, Reply::Error(ErrorKind::Answer(busy)))]);

    let Outcome::Defer { failure, after } = ended.0 else { panic!() };
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
        assert_eq!(create(&given(), vec![(Call::Create, refusal)]).kind(), expected);
    }
}

#[test]
fn an_instance_that_was_known_and_is_gone_is_told_and_one_that_never_was_or_that_we_deleted_is_not() {
    let known = || Given { known_before: true, ..again() };
    let discarded = Counts { discards: 1, ..Counts::default() };

    for (what, given, told) in [
        ("known", known(), Some(true.into())),
        ("never known", again(), None),
        ("told before", Given { gone_before: true, ..known() }, None),
        ("deleted by us", Given { counts: discarded, ..known() }, None),
    ] {
        let ended = create(&given, [gone(), made()].concat());

        assert_eq!(ended.memory().get("gone"), told.as_ref(), "{what}");
        ended.success();
    }
}
