use super::{
    assert_no_secret, end,
    script::{
        Calls, Reply, Script, USER, absent, answer, found, given, gone_twice, not_loaded, not_there, options,
        per_instance, phantom, published, settings, timed_out,
    },
    success,
};
use crate::{
    outcome::{Class, HostSignal, Memory, Outcome},
    whatsapp::{
        evolution::{
            Call::{FetchOwn, FindRabbitmq, FindWebhook, SetRabbitmq, SetWebhook},
            Own, Rabbitmq, Shape,
        },
        provision::{Counts, Facts, Given, Settings, configure_webhooks},
    },
};

fn run_with(given: &Given, settings: &Settings, calls: Calls) -> (Outcome, Script) {
    let script = Script::new(calls);
    let outcome = script.play(configure_webhooks(&script, given, settings));
    assert_no_secret(&outcome);
    (outcome, script)
}

fn run(calls: Calls) -> (Outcome, Script) {
    run_with(&given(), &settings(), calls)
}

fn ends(calls: Calls) -> (&'static str, Class) {
    end(&run(calls).0)
}

/// A success of the call that sets the webhook.
fn set() -> Calls {
    vec![(SetWebhook, Reply::Webhook(|_| ()))]
}

fn loading() -> Reply {
    answer(500, Shape::Plain, "Cannot read properties of undefined (reading 'instanceId')")
}

#[test]
fn the_webhook_is_sent_expanded_and_shown_without_secrets() {
    let (outcome, script) = run(set());

    let (output, facts, _) = success(outcome);

    let sent = script.sent.lock().unwrap()[0].body();
    assert_eq!(sent["webhook"]["url"], format!("https://app.test/hook/{USER}?i=user_{USER}&t=our-token-1"));
    assert_eq!(sent["webhook"]["headers"]["authorization"], "Bearer our-token-1");
    assert_eq!(sent["webhook"]["headers"]["jwt_key"], "signing-key-1");
    assert_eq!(sent["webhook"]["enabled"], true);
    let shown = format!("https://app.test/hook/{USER}?i=user_{USER}&t=***");
    assert_eq!(facts, Facts::default(), "`verify` writes it down");
    assert_eq!(output["webhook"]["url"], shown);
    assert_eq!(output["webhook"]["headers"], serde_json::json!(["authorization", "jwt_key"]));
}

#[test]
fn a_loading_instance_is_waited_for() {
    let (outcome, _) = run(vec![(SetWebhook, loading())]);

    assert_eq!(end(&outcome), ("defer", Class::Loading));
    let failure = outcome.failure().unwrap();
    assert_eq!(failure.host, HostSignal::Healthy);
    assert_eq!(failure.memory.get("looks_not_loaded"), Some(&1.into()));
}

#[test]
fn only_an_instance_that_is_absent_twice_is_gone() {
    let missed = || vec![(SetWebhook, not_there())];
    let in_database = [absent(), vec![(FetchOwn, Reply::Own(Own::NotLoaded))]].concat();

    let (gone, script) = run([missed(), gone_twice()].concat());

    assert_eq!(end(&gone), ("back to create", Class::EffectGone));
    assert_eq!(script.waited().as_secs(), 3);
    for second in [found("our-token-1"), not_loaded(), in_database] {
        assert_eq!(ends([missed(), absent(), second].concat()), ("defer", Class::Loading));
    }
}

#[test]
fn an_instance_that_lost_its_row_is_made_again_by_the_step_that_may() {
    let no_row = answer(500, Shape::Plain, "constraint: `Webhook_instanceId_fkey`");

    assert_eq!(ends([vec![(SetWebhook, no_row)], phantom()].concat()), ("back to create", Class::EffectGone));
}

#[test]
fn an_instance_that_no_load_brings_into_memory_is_left_to_the_step_that_may_make_it_again() {
    let run = |looks, paired_before| {
        let counts = Counts { not_loaded: looks, ..Counts::default() };
        let given = Given { counts, paired_before, ..given() };
        end(&run_with(&given, &settings(), vec![(SetWebhook, loading())]).0)
    };

    assert_eq!(run(14, false), ("defer", Class::Loading));
    assert_eq!(run(15, false), ("back to create", Class::EffectGone));
    assert_eq!(run(15, true), ("defer", Class::Loading), "a paired instance is never made again");
}

#[test]
fn a_refusal_is_final_and_an_outage_is_not() {
    let refusal = answer(400, Shape::Schema, "webhook.url is not of a type(s) string");
    let boom = answer(500, Shape::Plain, "database \"evolution\" is not currently accepting connections");

    assert_eq!(ends(vec![(SetWebhook, refusal)]), ("permanent", Class::Rejected));
    assert_eq!(ends(vec![(SetWebhook, boom)]), ("defer", Class::ServerError));
    assert_eq!(ends(vec![(SetWebhook, timed_out())]), ("retry", Class::NoAnswer));
}

#[test]
fn a_subject_that_is_no_user_cannot_fill_a_url_that_asks_for_one() {
    let given = Given { subject: "shop-7".parse().unwrap(), ..given() };

    let (outcome, _) = run_with(&given, &settings(), Vec::new());

    assert_eq!(end(&outcome), ("permanent", Class::Rejected));
}

/// Whose webhook was verified when these settings held.
fn verified(settings: &Settings) -> Given {
    let (webhook, _) = settings.webhook.expand(&given()).unwrap();
    Given { created_before: true, webhook_before: Some(webhook.digest()), ..given() }
}

/// What a run over these calls keeps.
fn kept(given: &Given, calls: Calls) -> Memory {
    match run_with(given, &settings(), calls).0 {
        Outcome::Success { memory, .. } => memory,
        other => other.failure().unwrap().memory.clone(),
    }
}

#[test]
fn a_webhook_that_was_changed_since_it_was_verified_is_told_before_it_is_written_over() {
    let found = |reply| kept(&verified(&settings()), [vec![(FindWebhook, reply)], set()].concat());

    let changed = found(Reply::Webhook(|stored| {
        stored.url = crate::secret::Secret::new("https://elsewhere.test/?t=our-token-1");
        stored.events.clear();
    }));
    let missing = found(Reply::NoWebhook);
    let unchanged = found(Reply::Webhook(|_| ()));

    let told = serde_json::json!({ "found": "changed", "fields": ["events", "url"] });
    assert_eq!(changed.get("webhook_drift"), Some(&told));
    assert_eq!(missing.get("webhook_drift"), Some(&serde_json::json!({ "found": "missing" })));
    assert!(unchanged.is_empty());
}

#[test]
fn what_was_found_is_told_too_where_the_webhook_cannot_be_set() {
    let calls = vec![(FindWebhook, Reply::NoWebhook), (SetWebhook, timed_out())];

    assert!(kept(&verified(&settings()), calls).get("webhook_drift").is_some());
}

#[test]
fn settings_that_changed_are_no_drift_whether_or_not_an_attempt_has_set_them_already() {
    let mut options = options();
    options.webhook.base64 = false;
    let before = verified(&Settings::parse(options).unwrap());

    for stored in [Reply::Webhook(|stored| stored.base64 = false), Reply::Webhook(|_| ())] {
        let kept = kept(&before, [vec![(FindWebhook, stored)], set()].concat());

        assert_eq!(kept.get("webhook_drift"), None);
        assert_eq!(kept.get("webhook"), Some(&serde_json::Value::Null), "the other one holds no longer");
    }
}

/// The step where the API publishes for each instance: after the webhook these calls, and no other.
fn run_per_instance(calls: Calls) -> (Outcome, Script) {
    run_with(&given(), &per_instance(), [set(), calls].concat())
}

#[test]
fn each_instance_is_told_to_publish_what_a_follower_reads_and_keeps_what_others_asked_for() {
    for (stored, set) in [
        (None, Some(published(&[]))),
        (Some(published(&["CALL"])), None),
        (Some(Rabbitmq { enabled: false, events: Default::default() }), Some(published(&[]))),
        (Some(Rabbitmq { enabled: true, events: ["CALL".to_owned()].into() }), Some(published(&["CALL"]))),
    ] {
        let mut calls = vec![(FindRabbitmq, Reply::Rabbitmq(stored))];
        calls.extend(set.iter().map(|_| (SetRabbitmq, Reply::Done)));

        let (outcome, script) = run_per_instance(calls);

        success(outcome);
        assert_eq!(script.published.lock().unwrap().first(), set.as_ref());
    }
}

#[test]
fn what_is_said_of_an_instances_events_is_judged_as_what_is_said_of_its_webhook() {
    let nothing = || (FindRabbitmq, Reply::Rabbitmq(None));
    let refusal = answer(400, Shape::Schema, "rabbitmq.events[0] is not one of enum values: CALL");
    let judged = |calls| end(&run_per_instance(calls).0);

    assert_eq!(judged(vec![nothing(), (SetRabbitmq, loading())]), ("defer", Class::Loading));
    assert_eq!(judged(vec![nothing(), (SetRabbitmq, refusal)]), ("permanent", Class::Rejected));
    assert_eq!(judged(vec![nothing(), (SetRabbitmq, timed_out())]), ("retry", Class::NoAnswer));
    assert_eq!(judged(vec![(FindRabbitmq, timed_out())]), ("retry", Class::NoAnswer));
}
