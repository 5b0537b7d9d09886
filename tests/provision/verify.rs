use workflows::whatsapp::evolution::ApiState::{Close, Connecting, Open};

use super::*;

const BACK_TO_CREATE: (&str, Class) = ("back to create", Class::EffectGone);
const LOADING: (&str, Class) = ("defer", Class::Loading);
const CODE: &str = "data:image/png;base64,QR";
const NO_CODE: Reply = Reply::Connect(Connect::NotYet);
const OPENS: Reply = Reply::Connect(Connect::Open);
const OUTAGE: (&str, Class) = ("defer", Class::ServerError);

fn verify(calls: Calls) -> Ended {
    play(VERIFY, &given(), &settings(), calls)
}

type Change = fn(&mut StoredWebhook);

/// Where a sign-up waits for a code.
fn with_qr() -> Settings {
    Settings { qr_at_signup: QrAtSignup::Fetch, ..settings() }
}

fn verify_with_qr(calls: Calls) -> Ended {
    play(VERIFY, &given(), &with_qr(), calls)
}

fn paired() -> Given {
    Given { paired_before: true, ..given() }
}

/// The first looks: at the webhook, and at the API's memory.
fn looked(webhook: Reply, state: Option<ApiState>) -> Calls {
    vec![(Call::FindWebhook, webhook), (Call::ConnectionState, Reply::State(state))]
}

fn loaded(state: ApiState) -> Calls {
    [looked(as_asked(), Some(state)), vec![(Call::FindSettings, Reply::Settings(true))]].concat()
}

/// Loaded, and asked for a code so often.
fn asked(state: ApiState, replies: Vec<Reply>) -> Calls {
    [loaded(state), replies.into_iter().map(|reply| (Call::Connect, reply)).collect()].concat()
}

fn code() -> Reply {
    Reply::Connect(Connect::Qr(Secret::new(CODE)))
}

/// The message of a run that is sent back to `configure-webhooks`.
fn reconfigured(ended: Ended) -> String {
    assert_eq!(ended.kind(), ("back to configure", Class::EffectGone));
    ended.failure().message.clone()
}

#[test]
fn a_verified_webhook_on_a_loaded_instance_is_ready() {
    for (state, given, status) in [
        (Close, given(), "connecting"),
        (Connecting, given(), "connecting"),
        (Open, given(), "connected"),
        (Connecting, paired(), "connecting"),
    ] {
        let (output, kept, note) = play(VERIFY, &given, &settings(), loaded(state)).success();

        assert_eq!((&kept["status"], &output["status"]), (&json!(status), &json!(status)), "{state:?}");
        assert_eq!((&output["qr"], &kept["qr_code"], note), (&json!("not_needed"), &Value::Null, None));
    }
}

#[test]
fn a_webhook_that_differs_in_anything_or_is_not_there_is_set_again() {
    let changes: [(&str, Change); 7] = [
        ("enabled", |stored| stored.enabled = false),
        ("url", |stored| stored.url = Secret::new("https://app.test/other")),
        ("events", |stored| drop(stored.events.pop_first())),
        ("events", |stored| stored.events.extend(["CALL".into()])),
        ("headers", |stored| drop(stored.headers.remove("jwt_key"))),
        ("byEvents", |stored| stored.by_events = true),
        ("base64", |stored| stored.base64 = false),
    ];
    for (field, change) in changes {
        let message = reconfigured(verify(looked(webhook(change), Some(Close))));

        assert!(message.contains(field), "{field}: {message}");
    }
    reconfigured(verify(looked(Reply::Webhook(None), Some(Connecting))));
}

#[test]
fn an_instance_whose_events_the_api_does_not_publish_is_configured_again() {
    let mut fewer = published(&[]);
    fewer.events.remove("CONNECTION_UPDATE");
    let off = Rabbitmq { enabled: false, ..published(&[]) };
    let verify = |stored, more| {
        let asked = vec![(Call::FindRabbitmq, Reply::Rabbitmq(stored))];
        play(VERIFY, &given(), &per_instance(), [looked(as_asked(), Some(Close)), asked, more].concat())
    };

    for stored in [None, Some(fewer), Some(off)] {
        let message = reconfigured(verify(stored, Vec::new()));

        assert!(message.contains("CONNECTION_UPDATE"), "{message}");
    }
    verify(Some(published(&["CALL"])), vec![(Call::FindSettings, Reply::Settings(true))]).success();
}

#[test]
fn an_instance_that_is_not_in_memory_is_waited_for() {
    for calls in [
        looked(Reply::Webhook(None), None),
        looked(as_asked(), None),
        [vec![(Call::FindWebhook, not_there())], not_loaded()].concat(),
    ] {
        assert_eq!(verify(calls).kind(), LOADING);
    }
}

#[test]
fn only_an_instance_that_is_absent_twice_is_made_again() {
    let missed = |more| verify([vec![(Call::FindWebhook, not_there())], more].concat());

    assert_eq!(missed(gone_twice()).kind(), BACK_TO_CREATE);
    assert_eq!(missed([absent(), found(TOKEN)].concat()).kind(), LOADING);
}

#[test]
fn the_qr_code_is_fetched_and_kept_as_a_secret() {
    let script = Script::new(asked(Close, vec![NO_CODE, code()]));
    let (output, kept, note) = script.play(VERIFY, &given(), &with_qr()).success();

    assert_eq!((&kept["qr_code"], note), (&json!(CODE), None));
    assert_eq!((&kept["status"], &output["qr"]), (&json!("connecting"), &json!("fetched")));
    assert_eq!(script.waited().as_secs(), 1);
    assert!(!output.to_string().contains("base64,QR"));
}

#[test]
fn a_run_does_not_wait_for_whatsapp() {
    for (reply, why) in [
        (NO_CODE, "no code yet"),
        (answer(200, Shape::Foreign, "[object Object]"), "[object Object]"),
        (timed_out(), "none within"),
    ] {
        let (output, kept, note) = verify_with_qr(asked(Close, vec![reply; 3])).success();

        assert_eq!((&kept["qr_code"], &output["qr"]), (&Value::Null, &json!("missing")));
        assert!(note.unwrap().contains(why));
    }
}

#[test]
fn an_instance_that_connects_by_itself_is_asked_for_no_code() {
    let open = verify_with_qr(loaded(Open)).success();
    let reconnecting = play(VERIFY, &paired(), &with_qr(), loaded(Connecting)).success();
    let opened = verify_with_qr(asked(Connecting, vec![OPENS])).success();

    for (output, kept, _) in [&open, &reconnecting, &opened] {
        assert_eq!((&kept["qr_code"], &output["qr"]), (&Value::Null, &json!("not_needed")));
    }
    assert_eq!(opened.1["status"], "connected");
}

#[test]
fn an_instance_that_vanishes_while_the_code_is_asked_for_is_made_again() {
    let calls = [asked(Close, vec![not_there()]), gone_twice()].concat();

    assert_eq!(verify_with_qr(calls).kind(), BACK_TO_CREATE);
}

#[test]
fn an_api_that_is_away_when_the_code_is_asked_for_is_an_outage() {
    let calls = asked(Close, vec![timed_out(), refused()]);

    assert_eq!(verify_with_qr(calls).kind(), ("defer", Class::Unreachable));
}

#[test]
fn an_outage_is_judged_by_the_table() {
    assert_eq!(verify(vec![(Call::FindWebhook, database_away())]).kind(), OUTAGE);
    let no_state = vec![(Call::FindWebhook, as_asked()), (Call::ConnectionState, timed_out())];
    assert_eq!(verify(no_state).kind(), ("retry", Class::NoAnswer));
}

#[test]
fn a_paired_instance_that_is_closed_gets_a_way_on_whatever_the_settings_say() {
    let asked = |replies| play(VERIFY, &paired(), &settings(), asked(Close, replies)).success();

    let (_, scanned, _) = asked(vec![code()]);
    let (_, connected, _) = asked(vec![OPENS]);
    let (_, waiting, note) = asked(vec![NO_CODE; 3]);

    assert_eq!((&scanned["status"], &scanned["qr_code"]), (&json!("connecting"), &json!(CODE)));
    assert_eq!(connected["status"], "connected");
    assert_eq!(waiting["status"], "connecting");
    assert!(note.unwrap().contains("no code yet"));
    let why = waiting["reason"].as_str().unwrap();
    assert!(why.contains("no code yet"), "who was connected hears why they are not");
    assert_eq!((&scanned["reason"], &connected["reason"]), (&Value::Null, &Value::Null));
}

#[test]
fn the_code_gets_a_few_seconds_and_no_more() {
    let timings = Timings { qr_tries: 20, ..Timings::default() };
    let script = Script::new(asked(Close, vec![NO_CODE; 6]));

    let (output, ..) = script.play(VERIFY, &given(), &Settings { timings, ..with_qr() }).success();

    assert_eq!(output["qr"], "missing");
    let connects: Vec<_> = script.connects.lock().unwrap().iter().map(Duration::as_secs).collect();
    assert_eq!(connects, [6, 5, 4, 3, 2, 1]);
}

#[test]
fn an_instance_without_settings_gets_those_that_a_create_stores() {
    let listed = |has_settings| (Call::Fetch, Reply::Row(Some(Listed { has_settings, ..row(TOKEN) })));
    let without = |more: Calls| {
        verify([looked(as_asked(), Some(Close)), vec![(Call::FindSettings, Reply::Settings(false))], more].concat())
    };

    let (_, _, note) = without(vec![listed(Some(false)), (Call::SetSettings, Reply::Done)]).success();

    assert!(note.unwrap().contains("had no settings"));
    for row in [listed(Some(true)), listed(None)] {
        assert_eq!(without(vec![row]).success().2, None, "what is there stays, whatever the other route says");
    }
    for away in [vec![(Call::Fetch, database_away())], vec![listed(Some(false)), (Call::SetSettings, database_away())]]
    {
        assert_eq!(without(away).kind(), OUTAGE);
    }
}

#[test]
fn a_webhook_that_was_changed_meanwhile_is_told_and_what_was_told_is_over_once_one_is_verified() {
    let digest = sent(&given(), &settings()).0.digest();
    let before = Given { webhook_before: Some(digest.clone()), ..given() };
    let told = Given { drifted_before: true, gone_before: true, ..before.clone() };
    let changed = || looked(webhook(|stored| stored.enabled = false), Some(Close));

    let found = play(VERIFY, &before, &settings(), changed());
    let first = verify(changed());
    let mended = play(VERIFY, &told, &settings(), loaded(Close));

    let drift = |ended: &Ended| ended.failure().memory.get("webhook_drift").cloned();
    assert_eq!(drift(&found), Some(json!({ "found": "changed", "fields": ["enabled"] })));
    assert_eq!(drift(&first), None);
    let kept = |key| mended.memory().get(key);
    assert_eq!((kept("webhook_drift"), kept("gone")), (Some(&Value::Null), Some(&Value::Null)));
    assert_eq!(kept("webhook"), Some(&json!(digest)));
    mended.success();
}
