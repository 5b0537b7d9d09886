use serde_json::Value;

use super::{
    assert_no_secret, end,
    script::{
        Reply, Script, answer, database_away, given, not_in_database, not_in_list, not_there, options, per_instance,
        published, refused, row, settings, timed_out,
    },
    success,
};
use crate::{
    outcome::{Class, Outcome},
    secret::Secret,
    whatsapp::{
        evolution::{
            ApiState::{self, Close, Connecting, Open},
            Call::{
                self, Connect as AskQr, ConnectionState, Fetch, FindRabbitmq, FindSettings, FindWebhook, SetSettings,
            },
            Connect, Listed, Rabbitmq, Shape, StoredWebhook,
        },
        names::InstanceStatus,
        provision::{Given, Options, QrAtSignup, Settings, verify},
    },
};

type Change = fn(&mut StoredWebhook);

const AS_ASKED: Reply = Reply::Webhook(|_| ());

fn run(calls: Vec<(Call, Reply)>) -> Outcome {
    run_with(&given(), &settings(), calls).0
}

fn run_with(given: &Given, settings: &Settings, calls: Vec<(Call, Reply)>) -> (Outcome, Script) {
    let script = Script::new(calls);
    let outcome = script.play(verify(&script, given, settings));
    assert_no_secret(&outcome);
    (outcome, script)
}

fn with_qr() -> Settings {
    Settings::parse(Options { qr_at_signup: QrAtSignup::Fetch, ..options() }).unwrap()
}

fn loaded(state: ApiState) -> Vec<(Call, Reply)> {
    vec![(FindWebhook, AS_ASKED), (ConnectionState, Reply::State(Some(state))), (FindSettings, Reply::Settings(true))]
}

#[test]
fn a_verified_webhook_on_a_loaded_instance_is_ready() {
    for (state, paired_before, status) in [
        (Close, false, InstanceStatus::Connecting),
        (Connecting, false, InstanceStatus::Connecting),
        (Open, false, InstanceStatus::Connected),
        (Connecting, true, InstanceStatus::Connecting),
    ] {
        let given = Given { paired_before, ..given() };

        let (output, facts, note) = success(run_with(&given, &settings(), loaded(state)).0);

        assert_eq!(facts.status, Some(status), "{state:?}");
        assert_eq!((output["status"].as_str(), output["qr"].as_str()), (Some(status.as_str()), Some("not_needed")));
        assert_eq!((facts.qr_code, note), (None, None));
    }
}

#[test]
fn a_webhook_that_differs_in_anything_is_set_again() {
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
        let calls = vec![(FindWebhook, Reply::Webhook(change)), (ConnectionState, Reply::State(Some(Close)))];

        let outcome = run(calls);

        assert_eq!(end(&outcome), ("back to configure", Class::EffectGone), "{field}");
        let Outcome::SendBack { failure, .. } = outcome else { panic!() };
        assert!(failure.message.contains(field), "{}", failure.message);
    }
}

/// The calls of `verify` where the API publishes for each instance, and says that it does this.
fn loaded_and_publishing(stored: Option<Rabbitmq>) -> Vec<(Call, Reply)> {
    let mut calls = loaded(Close);
    calls.insert(2, (FindRabbitmq, Reply::Rabbitmq(stored)));
    calls
}

#[test]
fn an_instance_whose_events_the_api_does_not_publish_is_configured_again() {
    let mut fewer = published(&[]);
    fewer.events.remove("CONNECTION_UPDATE");
    let off = Rabbitmq { enabled: false, ..published(&[]) };
    for stored in [None, Some(fewer), Some(off)] {
        let mut calls = loaded_and_publishing(stored);
        calls.truncate(3);

        let (outcome, _) = run_with(&given(), &per_instance(), calls);

        assert_eq!(end(&outcome), ("back to configure", Class::EffectGone));
        let Outcome::SendBack { failure, .. } = outcome else { panic!() };
        assert!(failure.message.contains("CONNECTION_UPDATE"), "{}", failure.message);
    }
    success(run_with(&given(), &per_instance(), loaded_and_publishing(Some(published(&["CALL"])))).0);
}

#[test]
fn a_loaded_instance_without_a_webhook_is_configured_again() {
    let outcome = run(vec![(FindWebhook, Reply::NoWebhook), (ConnectionState, Reply::State(Some(Connecting)))]);

    assert_eq!(end(&outcome), ("back to configure", Class::EffectGone));
}

#[test]
fn an_instance_that_is_not_in_memory_is_waited_for() {
    let null = run(vec![(FindWebhook, Reply::NoWebhook), (ConnectionState, Reply::State(None))]);
    let found = run(vec![(FindWebhook, AS_ASKED), (ConnectionState, Reply::State(None))]);
    let unknown = run(vec![(FindWebhook, not_there()), (Fetch, not_in_list()), (ConnectionState, Reply::State(None))]);

    for outcome in [null, found, unknown] {
        assert_eq!(end(&outcome), ("defer", Class::Loading));
    }
}

#[test]
fn only_an_instance_that_is_absent_twice_is_made_again() {
    let absent = || [(Fetch, not_in_list()), (ConnectionState, not_there())];
    let gone: Vec<_> = [(FindWebhook, not_there())].into_iter().chain(absent()).chain(absent()).collect();
    let mut back = gone.clone();
    let gone = gone.into_iter().chain(not_in_database()).collect();
    back.truncate(3);
    back.push((Fetch, Reply::Row("our-token-1")));

    assert_eq!(end(&run(gone)), ("back to create", Class::EffectGone));
    assert_eq!(end(&run(back)), ("defer", Class::Loading));
}

#[test]
fn the_qr_code_is_fetched_and_kept_as_a_secret() {
    let mut calls = loaded(Close);
    calls.push((AskQr, Reply::Connect(Connect::NotYet)));
    calls.push((AskQr, Reply::Connect(Connect::Qr(Secret::new("data:image/png;base64,QR")))));

    let (outcome, script) = run_with(&given(), &with_qr(), calls);

    let (output, facts, note) = success(outcome);
    assert_eq!(facts.qr_code, Some(Secret::new("data:image/png;base64,QR")));
    assert_eq!((facts.status, output["qr"].as_str()), (Some(InstanceStatus::Connecting), Some("fetched")));
    assert_eq!((note, script.waited().as_secs()), (None, 1));
    assert!(!output.to_string().contains("base64,QR"));
}

#[test]
fn a_run_does_not_wait_for_whatsapp() {
    let errors = [
        (Reply::Connect(Connect::NotYet), "no code yet"),
        (answer(200, Shape::Foreign, "[object Object]"), "[object Object]"),
        (timed_out(), "none within"),
    ];
    for (reply, why) in errors {
        let mut calls = loaded(Close);
        calls.extend((0..3).map(|_| (AskQr, reply.clone())));

        let (output, facts, note) = success(run_with(&given(), &with_qr(), calls).0);

        assert_eq!((facts.qr_code, output["qr"].as_str()), (None, Some("missing")));
        assert!(note.unwrap().contains(why));
    }
}

#[test]
fn an_instance_that_connects_by_itself_is_asked_for_no_code() {
    let paired = Given { paired_before: true, ..given() };
    let mut opens = loaded(Connecting);
    opens.push((AskQr, Reply::Connect(Connect::Open)));

    let open = success(run_with(&given(), &with_qr(), loaded(Open)).0);
    let reconnecting = success(run_with(&paired, &with_qr(), loaded(Connecting)).0);
    let opened = success(run_with(&given(), &with_qr(), opens).0);

    for (output, facts, _) in [&open, &reconnecting, &opened] {
        assert_eq!((facts.qr_code.is_none(), output["qr"].as_str()), (true, Some("not_needed")));
    }
    assert_eq!(opened.1.status, Some(InstanceStatus::Connected));
}

#[test]
fn an_instance_that_vanishes_while_the_code_is_asked_for_is_made_again() {
    let mut calls = loaded(Close);
    calls.push((AskQr, not_there()));
    for _ in 0..2 {
        calls.extend([(Fetch, not_in_list()), (ConnectionState, not_there())]);
    }
    calls.extend(not_in_database());

    assert_eq!(end(&run_with(&given(), &with_qr(), calls).0), ("back to create", Class::EffectGone));
}

#[test]
fn an_outage_is_judged_by_the_table() {
    let down = || answer(500, Shape::Plain, "database \"evolution\" is not currently accepting connections");

    assert_eq!(end(&run(vec![(FindWebhook, down())])), ("defer", Class::ServerError));
    assert_eq!(end(&run(vec![(FindWebhook, AS_ASKED), (ConnectionState, timed_out())])), ("retry", Class::NoAnswer));
}

#[test]
fn a_paired_instance_that_is_closed_gets_a_way_on_whatever_the_settings_say() {
    let paired = Given { paired_before: true, ..given() };
    let code = || Reply::Connect(Connect::Qr(Secret::new("data:image/png;base64,QR")));
    let asked = |reply: Reply, times| {
        let calls = loaded(Close).into_iter().chain((0..times).map(|_| (AskQr, reply.clone()))).collect();
        success(run_with(&paired, &settings(), calls).0)
    };

    let scanned = asked(code(), 1);
    let connected = asked(Reply::Connect(Connect::Open), 1);
    let waiting = asked(Reply::Connect(Connect::NotYet), 3);

    assert_eq!(scanned.1.status, Some(InstanceStatus::Connecting));
    assert_eq!(scanned.1.qr_code, Some(Secret::new("data:image/png;base64,QR")));
    assert_eq!(connected.1.status, Some(InstanceStatus::Connected));
    assert_eq!(waiting.1.status, Some(InstanceStatus::Connecting));
    assert!(waiting.2.unwrap().contains("no code yet"));
    assert!(waiting.1.reason.unwrap().contains("no code yet"), "who was connected hears why they are not");
    assert_eq!((scanned.1.reason, connected.1.reason), (None, None));
}

#[test]
fn an_api_that_is_away_when_the_code_is_asked_for_is_an_outage() {
    let mut calls = loaded(Close);
    calls.extend([(AskQr, timed_out()), (AskQr, refused())]);

    assert_eq!(end(&run_with(&given(), &with_qr(), calls).0), ("defer", Class::Unreachable));
}

#[test]
fn the_code_gets_a_few_seconds_and_no_more() {
    let mut options = options();
    (options.qr_at_signup, options.timings.qr_tries) = (QrAtSignup::Fetch, 20);
    let settings = Settings::parse(options).unwrap();
    let mut calls = loaded(Close);
    calls.extend((0..6).map(|_| (AskQr, Reply::Connect(Connect::NotYet))));

    let (outcome, script) = run_with(&given(), &settings, calls);

    assert_eq!(success(outcome).0["qr"], "missing");
    assert_eq!(
        script.connects.lock().unwrap().iter().map(|within| within.as_secs()).collect::<Vec<_>>(),
        [6, 5, 4, 3, 2, 1]
    );
}

#[test]
fn an_instance_without_settings_gets_those_that_a_create_stores() {
    let mut calls = loaded(Close);
    calls.pop();
    calls.push((FindSettings, Reply::Settings(false)));
    let listed = |has_settings| (Fetch, Reply::ListedRow(Listed { has_settings, ..row("our-token-1") }));
    let and = |more: Vec<_>| run(calls.iter().cloned().chain(more).collect());

    let (_, _, note) = success(and(vec![listed(Some(false)), (SetSettings, Reply::Done)]));

    assert!(note.unwrap().contains("had no settings"));
    assert_eq!(success(and(vec![listed(Some(true))])).2, None, "what is there stays, whatever the other route says");
    assert_eq!(success(and(vec![listed(None)])).2, None);
    assert_eq!(end(&and(vec![(Fetch, database_away())])), ("defer", Class::ServerError));
    let away = and(vec![listed(Some(false)), (SetSettings, database_away())]);
    assert_eq!(end(&away), ("defer", Class::ServerError));
}

#[test]
fn a_webhook_that_was_changed_meanwhile_is_told_and_what_was_told_is_over_once_one_is_verified() {
    let (webhook, _) = settings().webhook.expand(&given()).unwrap();
    let before = Given { webhook_before: Some(webhook.digest()), ..given() };
    let changed = vec![
        (FindWebhook, Reply::Webhook(|stored: &mut StoredWebhook| stored.enabled = false)),
        (ConnectionState, Reply::State(Some(Close))),
    ];
    let told = Given { drifted_before: true, gone_before: true, ..before.clone() };

    let (found, _) = run_with(&before, &settings(), changed.clone());
    let (first, _) = run_with(&given(), &settings(), changed);
    let (mended, _) = run_with(&told, &settings(), loaded(Close));

    let drift = |outcome: &Outcome| outcome.failure().unwrap().memory.get("webhook_drift").cloned();
    assert_eq!(drift(&found), Some(serde_json::json!({ "found": "changed", "fields": ["enabled"] })));
    assert_eq!(drift(&first), None);
    let Outcome::Success { memory, .. } = mended else { panic!("no success") };
    assert_eq!((memory.get("webhook_drift"), memory.get("gone")), (Some(&Value::Null), Some(&Value::Null)));
    assert_eq!(memory.get("webhook"), Some(&serde_json::to_value(webhook.digest()).unwrap()));
}
