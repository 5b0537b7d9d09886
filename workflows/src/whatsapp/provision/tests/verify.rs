use std::time::Duration;

use serde_json::Value;

use super::{
    assert_no_secret, end,
    script::{
        Calls, Reply, Script, absent, answer, database_away, found, given, gone_twice, not_loaded, not_there, options,
        per_instance, published, refused, row, settings, timed_out,
    },
    success,
};
use crate::{
    outcome::{Class, Outcome},
    secret::Secret,
    whatsapp::{
        evolution::{
            ApiState::{self, Close, Connecting, Open},
            Call::{Connect as AskQr, ConnectionState, Fetch, FindRabbitmq, FindSettings, FindWebhook, SetSettings},
            Connect, Listed, Rabbitmq, Shape, StoredWebhook,
        },
        names::InstanceStatus,
        provision::{Given, Options, QrAtSignup, Settings, Timings, verify},
    },
};

type Change = fn(&mut StoredWebhook);

const AS_ASKED: Reply = Reply::Webhook(|_| ());

fn run(calls: Calls) -> Outcome {
    run_with(&given(), &settings(), calls).0
}

fn run_with(given: &Given, settings: &Settings, calls: Calls) -> (Outcome, Script) {
    let script = Script::new(calls);
    let outcome = script.play(verify(&script, given, settings));
    assert_no_secret(&outcome);
    (outcome, script)
}

fn with_qr() -> Settings {
    Settings::parse(Options { qr_at_signup: QrAtSignup::Fetch, ..options() }).unwrap()
}

fn loaded(state: ApiState) -> Calls {
    vec![(FindWebhook, AS_ASKED), (ConnectionState, Reply::State(Some(state))), (FindSettings, Reply::Settings(true))]
}

/// Loaded, and asked for a code so often.
fn asked(state: ApiState, replies: Vec<Reply>) -> Calls {
    [loaded(state), replies.into_iter().map(|reply| (AskQr, reply)).collect()].concat()
}

fn code() -> Secret {
    Secret::new("data:image/png;base64,QR")
}

/// The message of a run that is sent back to `configure-webhooks`.
fn reconfigured(outcome: &Outcome, about: &str) -> String {
    assert_eq!(end(outcome), ("back to configure", Class::EffectGone), "{about}");
    outcome.failure().unwrap().message.clone()
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
        let outcome = run(vec![(FindWebhook, Reply::Webhook(change)), (ConnectionState, Reply::State(Some(Close)))]);

        let message = reconfigured(&outcome, field);
        assert!(message.contains(field), "{message}");
    }
}

/// The calls of `verify` where the API publishes for each instance, and says that it does this.
fn loaded_and_publishing(stored: Option<Rabbitmq>) -> Calls {
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

        let message = reconfigured(&outcome, "events");
        assert!(message.contains("CONNECTION_UPDATE"), "{message}");
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
    for calls in [
        vec![(FindWebhook, Reply::NoWebhook), (ConnectionState, Reply::State(None))],
        vec![(FindWebhook, AS_ASKED), (ConnectionState, Reply::State(None))],
        [vec![(FindWebhook, not_there())], not_loaded()].concat(),
    ] {
        assert_eq!(end(&run(calls)), ("defer", Class::Loading));
    }
}

#[test]
fn only_an_instance_that_is_absent_twice_is_made_again() {
    let missed = || vec![(FindWebhook, not_there())];
    let back = [missed(), absent(), found("our-token-1")].concat();

    assert_eq!(end(&run([missed(), gone_twice()].concat())), ("back to create", Class::EffectGone));
    assert_eq!(end(&run(back)), ("defer", Class::Loading));
}

#[test]
fn the_qr_code_is_fetched_and_kept_as_a_secret() {
    let calls = asked(Close, vec![Reply::Connect(Connect::NotYet), Reply::Connect(Connect::Qr(code()))]);

    let (outcome, script) = run_with(&given(), &with_qr(), calls);

    let (output, facts, note) = success(outcome);
    assert_eq!(facts.qr_code, Some(code()));
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
        let (output, facts, note) = success(run_with(&given(), &with_qr(), asked(Close, vec![reply; 3])).0);

        assert_eq!((facts.qr_code, output["qr"].as_str()), (None, Some("missing")));
        assert!(note.unwrap().contains(why));
    }
}

#[test]
fn an_instance_that_connects_by_itself_is_asked_for_no_code() {
    let paired = Given { paired_before: true, ..given() };
    let opens = asked(Connecting, vec![Reply::Connect(Connect::Open)]);

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
    let calls = [asked(Close, vec![not_there()]), gone_twice()].concat();

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
    let asked =
        |said, times| success(run_with(&paired, &settings(), asked(Close, vec![Reply::Connect(said); times])).0);

    let scanned = asked(Connect::Qr(code()), 1);
    let connected = asked(Connect::Open, 1);
    let waiting = asked(Connect::NotYet, 3);

    assert_eq!(scanned.1.status, Some(InstanceStatus::Connecting));
    assert_eq!(scanned.1.qr_code, Some(code()));
    assert_eq!(connected.1.status, Some(InstanceStatus::Connected));
    assert_eq!(waiting.1.status, Some(InstanceStatus::Connecting));
    assert!(waiting.2.unwrap().contains("no code yet"));
    assert!(waiting.1.reason.unwrap().contains("no code yet"), "who was connected hears why they are not");
    assert_eq!((scanned.1.reason, connected.1.reason), (None, None));
}

#[test]
fn an_api_that_is_away_when_the_code_is_asked_for_is_an_outage() {
    let calls = asked(Close, vec![timed_out(), refused()]);

    assert_eq!(end(&run_with(&given(), &with_qr(), calls).0), ("defer", Class::Unreachable));
}

#[test]
fn the_code_gets_a_few_seconds_and_no_more() {
    let timings = Timings { qr_tries: 20, ..Timings::default() };
    let settings = Settings::parse(Options { qr_at_signup: QrAtSignup::Fetch, timings, ..options() }).unwrap();
    let calls = asked(Close, vec![Reply::Connect(Connect::NotYet); 6]);

    let (outcome, script) = run_with(&given(), &settings, calls);

    assert_eq!(success(outcome).0["qr"], "missing");
    let connects: Vec<_> = script.connects.lock().unwrap().iter().map(Duration::as_secs).collect();
    assert_eq!(connects, [6, 5, 4, 3, 2, 1]);
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
