use super::{
    assert_no_secret, end,
    script::{
        Reply, Script, USER, answer, given, not_in_database, not_in_list, not_there, options, per_instance, published,
        settings, timed_out,
    },
    success,
};
use crate::{
    outcome::{Class, HostSignal, Memory, Outcome},
    whatsapp::{
        evolution::{
            ApiState,
            Call::{ConnectionState, Fetch, FetchOwn, FindRabbitmq, FindWebhook, SetRabbitmq, SetWebhook},
            Own, Rabbitmq, Shape,
        },
        provision::{Counts, Facts, Given, Settings, configure_webhooks},
    },
};

fn run(calls: Vec<(crate::whatsapp::evolution::Call, Reply)>) -> (Outcome, Script) {
    let script = Script::new(calls);
    let outcome = script.play(configure_webhooks(&script, &given(), &settings()));
    assert_no_secret(&outcome);
    (outcome, script)
}

#[test]
fn the_webhook_is_sent_expanded_and_shown_without_secrets() {
    let (outcome, script) = run(vec![(SetWebhook, Reply::Webhook(|_| ()))]);

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
    let loading = answer(500, Shape::Plain, "Cannot read properties of undefined (reading 'instanceId')");

    let (outcome, _) = run(vec![(SetWebhook, loading)]);

    assert_eq!(end(&outcome), ("defer", Class::Loading));
    let Outcome::Defer { failure, .. } = outcome else { panic!() };
    assert_eq!(failure.host, HostSignal::Healthy);
    assert_eq!(failure.memory.get("looks_not_loaded"), Some(&1.into()));
}

#[test]
fn only_an_instance_that_is_absent_twice_is_gone() {
    let absent = || [(Fetch, not_in_list()), (ConnectionState, not_there())];
    let twice: Vec<_> = [(SetWebhook, not_there())].into_iter().chain(absent()).chain(absent()).collect();
    let (mut once, mut loading) = (twice.clone(), twice.clone());
    once.truncate(3);
    once.push((Fetch, Reply::Row("our-token-1")));
    loading.truncate(4);
    loading.push((ConnectionState, Reply::State(None)));
    let in_database = twice.clone().into_iter().chain([(FetchOwn, Reply::Own(Own::NotLoaded))]).collect();
    let gone = twice.into_iter().chain(not_in_database()).collect();

    let (gone, script) = run(gone);

    assert_eq!(end(&gone), ("back to create", Class::EffectGone));
    assert_eq!(script.waited().as_secs(), 3);
    assert_eq!(end(&run(once).0), ("defer", Class::Loading));
    assert_eq!(end(&run(loading).0), ("defer", Class::Loading));
    assert_eq!(end(&run(in_database).0), ("defer", Class::Loading));
}

#[test]
fn an_instance_that_lost_its_row_is_made_again_by_the_step_that_may() {
    let no_row = answer(500, Shape::Plain, "constraint: `Webhook_instanceId_fkey`");
    let phantom = [(Fetch, Reply::NoRow), (ConnectionState, Reply::State(Some(ApiState::Close)))];
    let calls = [(SetWebhook, no_row)].into_iter().chain(phantom).collect();

    assert_eq!(end(&run(calls).0), ("back to create", Class::EffectGone));
}

#[test]
fn an_instance_that_no_load_brings_into_memory_is_left_to_the_step_that_may_make_it_again() {
    let loading = || answer(500, Shape::Plain, "Cannot read properties of undefined (reading 'instanceId')");
    let run = |looks, paired_before| {
        let script = Script::new([(SetWebhook, loading())]);
        let counts = Counts { not_loaded: looks, ..Counts::default() };
        let given = Given { counts, paired_before, ..given() };
        end(&script.play(configure_webhooks(&script, &given, &settings())))
    };

    assert_eq!(run(14, false), ("defer", Class::Loading));
    assert_eq!(run(15, false), ("back to create", Class::EffectGone));
    assert_eq!(run(15, true), ("defer", Class::Loading), "a paired instance is never made again");
}

#[test]
fn a_refusal_is_final_and_an_outage_is_not() {
    let refusal = answer(400, Shape::Schema, "webhook.url is not of a type(s) string");
    let boom = answer(500, Shape::Plain, "database \"evolution\" is not currently accepting connections");

    assert_eq!(end(&run(vec![(SetWebhook, refusal)]).0), ("permanent", Class::Rejected));
    assert_eq!(end(&run(vec![(SetWebhook, boom)]).0), ("defer", Class::ServerError));
    assert_eq!(end(&run(vec![(SetWebhook, timed_out())]).0), ("retry", Class::NoAnswer));
}

#[test]
fn a_subject_that_is_no_user_cannot_fill_a_url_that_asks_for_one() {
    let script = Script::new([]);
    let given = Given { subject: "shop-7".parse().unwrap(), ..given() };

    let outcome = script.play(configure_webhooks(&script, &given, &settings()));

    assert_eq!(end(&outcome), ("permanent", Class::Rejected));
}

/// Whose webhook was verified when these settings held.
fn verified(settings: &Settings) -> Given {
    let (webhook, _) = settings.webhook.expand(&given()).unwrap();
    Given { created_before: true, webhook_before: Some(webhook.digest()), ..given() }
}

/// What a run over these calls keeps.
fn kept(given: &Given, settings: &Settings, calls: Vec<(crate::whatsapp::evolution::Call, Reply)>) -> Memory {
    let script = Script::new(calls);
    match script.play(configure_webhooks(&script, given, settings)) {
        Outcome::Success { memory, .. } => memory,
        other => other.failure().unwrap().memory.clone(),
    }
}

#[test]
fn a_webhook_that_was_changed_since_it_was_verified_is_told_before_it_is_written_over() {
    let set = || (SetWebhook, Reply::Webhook(|_| ()));
    let found = |reply| kept(&verified(&settings()), &settings(), vec![(FindWebhook, reply), set()]);

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

    assert!(kept(&verified(&settings()), &settings(), calls).get("webhook_drift").is_some());
}

#[test]
fn settings_that_changed_are_no_drift_whether_or_not_an_attempt_has_set_them_already() {
    let mut options = options();
    options.webhook.base64 = false;
    let before = verified(&Settings::parse(options).unwrap());
    let set = || (SetWebhook, Reply::Webhook(|_| ()));

    for stored in [Reply::Webhook(|stored| stored.base64 = false), Reply::Webhook(|_| ())] {
        let kept = kept(&before, &settings(), vec![(FindWebhook, stored), set()]);

        assert_eq!(kept.get("webhook_drift"), None);
        assert_eq!(kept.get("webhook"), Some(&serde_json::Value::Null), "the other one holds no longer");
    }
}

/// The step where the API publishes for each instance: after the webhook these calls, and no other.
fn run_per_instance(calls: Vec<(crate::whatsapp::evolution::Call, Reply)>) -> (Outcome, Script) {
    let script = Script::new([(SetWebhook, Reply::Webhook(|_| ()))].into_iter().chain(calls));
    let outcome = script.play(configure_webhooks(&script, &given(), &per_instance()));
    (outcome, script)
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
    let loading = answer(500, Shape::Plain, "Cannot read properties of undefined (reading 'instanceId')");
    let refusal = answer(400, Shape::Schema, "rabbitmq.events[0] is not one of enum values: CALL");
    let judged = |calls| end(&run_per_instance(calls).0);

    assert_eq!(judged(vec![nothing(), (SetRabbitmq, loading)]), ("defer", Class::Loading));
    assert_eq!(judged(vec![nothing(), (SetRabbitmq, refusal)]), ("permanent", Class::Rejected));
    assert_eq!(judged(vec![nothing(), (SetRabbitmq, timed_out())]), ("retry", Class::NoAnswer));
    assert_eq!(judged(vec![(FindRabbitmq, timed_out())]), ("retry", Class::NoAnswer));
}
