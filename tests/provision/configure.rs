use super::*;

fn configure(given: &Given, calls: Calls) -> Ended {
    play(CONFIGURE_WEBHOOKS, given, &settings(), calls)
}

/// How the step ends where the call that sets the webhook gives this, and then these follow.
fn end_after(reply: Reply, more: Calls) -> (&'static str, Class) {
    configure(&given(), [vec![(Call::SetWebhook, reply)], more].concat()).kind()
}

/// A success of the call that sets the webhook.
fn set() -> Calls {
    vec![(Call::SetWebhook, as_asked())]
}

fn loading() -> Reply {
    answer(500, Shape::Plain, "Cannot read properties of undefined (reading 'instanceId')")
}

#[test]
fn the_webhook_is_sent_expanded_and_shown_without_secrets() {
    let (sent, ended) = sent(&given(), &settings());
    let (sent, (output, kept, _)) = (sent.body(), ended.success());

    assert_eq!(sent["webhook"]["url"], format!("https://app.test/hook/{USER}?i=user_{USER}&t={TOKEN}"));
    assert_eq!(sent["webhook"]["headers"]["authorization"], "Bearer our-token-1");
    assert_eq!(sent["webhook"]["headers"]["jwt_key"], "signing-key-1");
    assert_eq!(sent["webhook"]["enabled"], true);
    assert_eq!(kept, json!({}), "`verify` writes it down");
    assert_eq!(output["webhook"]["url"], format!("https://app.test/hook/{USER}?i=user_{USER}&t=***"));
    assert_eq!(output["webhook"]["headers"], json!(["authorization", "jwt_key"]));
}

#[test]
fn a_loading_instance_is_waited_for() {
    let ended = configure(&given(), vec![(Call::SetWebhook, loading())]);

    assert_eq!(ended.kind(), ("defer", Class::Loading));
    assert_eq!(ended.failure().host, HostSignal::Healthy);
    assert_eq!(ended.memory().get("looks_not_loaded"), Some(&1.into()));
}

#[test]
fn only_an_instance_that_is_absent_twice_is_gone() {
    let script = Script::new([vec![(Call::SetWebhook, not_there())], gone_twice()].concat());
    let gone = script.play(CONFIGURE_WEBHOOKS, &given(), &settings());

    assert_eq!(gone.kind(), ("back to create", Class::EffectGone));
    assert_eq!(script.waited().as_secs(), 3);
    for second in [found(TOKEN), not_loaded(), [absent(), own(Own::NotLoaded)].concat()] {
        assert_eq!(end_after(not_there(), [absent(), second].concat()), ("defer", Class::Loading));
    }
}

#[test]
fn an_instance_that_lost_its_row_is_made_again_by_the_step_that_may() {
    let no_row = answer(500, Shape::Plain, "constraint: `Webhook_instanceId_fkey`");

    assert_eq!(end_after(no_row, phantom()), ("back to create", Class::EffectGone));
}

#[test]
fn an_instance_that_no_load_brings_into_memory_is_left_to_the_step_that_may_make_it_again() {
    for (not_loaded, paired_before, end) in [
        (14, false, ("defer", Class::Loading)),
        (15, false, ("back to create", Class::EffectGone)),
        // A paired instance is never made again.
        (15, true, ("defer", Class::Loading)),
    ] {
        let counts = Counts { not_loaded, ..Counts::default() };
        let given = Given { counts, paired_before, ..given() };

        assert_eq!(configure(&given, vec![(Call::SetWebhook, loading())]).kind(), end);
    }
}

#[test]
fn a_refusal_is_final_and_an_outage_is_not() {
    let refusal = answer(400, Shape::Schema, "webhook.url is not of a type(s) string");

    assert_eq!(end_after(refusal, Vec::new()), ("permanent", Class::Rejected));
    assert_eq!(end_after(database_away(), Vec::new()), ("defer", Class::ServerError));
    assert_eq!(end_after(timed_out(), Vec::new()), ("retry", Class::NoAnswer));
}

#[test]
fn a_subject_that_is_no_user_cannot_fill_a_url_that_asks_for_one() {
    let given = Given { subject: "shop-7".parse().unwrap(), ..given() };

    assert_eq!(configure(&given, Vec::new()).kind(), ("permanent", Class::Rejected));
}

/// Whose webhook was verified when these settings held.
fn verified(settings: &Settings) -> Given {
    Given { webhook_before: Some(sent(&given(), settings).0.digest()), ..again() }
}

/// What a run keeps that finds this webhook, where such a one was verified.
fn kept(before: &Given, found: Reply, set: Reply) -> Memory {
    configure(before, vec![(Call::FindWebhook, found), (Call::SetWebhook, set)]).memory().clone()
}

#[test]
fn a_webhook_that_was_changed_since_it_was_verified_is_told_before_it_is_written_over() {
    let before = verified(&settings());
    let changed = webhook(|stored| {
        stored.url = Secret::new("https://elsewhere.test/?t=our-token-1");
        stored.events.clear();
    });
    let missing = json!({ "found": "missing" });

    for (found, set, told) in [
        (changed, as_asked(), Some(json!({ "found": "changed", "fields": ["events", "url"] }))),
        (Reply::Webhook(None), as_asked(), Some(missing.clone())),
        // Also where it cannot be set.
        (Reply::Webhook(None), timed_out(), Some(missing)),
    ] {
        assert_eq!(kept(&before, found, set).get("webhook_drift"), told.as_ref());
    }
    assert!(kept(&before, as_asked(), as_asked()).is_empty(), "it is unchanged");
}

#[test]
fn settings_that_changed_are_no_drift_whether_or_not_an_attempt_has_set_them_already() {
    let before = verified(&settings_with(|webhook| webhook.base64 = false));

    for stored in [webhook(|stored| stored.base64 = false), as_asked()] {
        let kept = kept(&before, stored, as_asked());

        assert_eq!(kept.get("webhook_drift"), None);
        assert_eq!(kept.get("webhook"), Some(&Value::Null), "the other one holds no longer");
    }
}

/// The step where the API publishes for each instance: after the webhook these calls, and no other.
fn per_instance_script(calls: Calls) -> (Script, Ended) {
    let script = Script::new([set(), calls].concat());
    let ended = script.play(CONFIGURE_WEBHOOKS, &given(), &per_instance());
    (script, ended)
}

#[test]
fn each_instance_is_told_to_publish_what_a_follower_reads_and_keeps_what_others_asked_for() {
    for (stored, set) in [
        (None, Some(published(&[]))),
        (Some(published(&["CALL"])), None),
        (Some(Rabbitmq { enabled: false, events: Default::default() }), Some(published(&[]))),
        (Some(Rabbitmq { enabled: true, events: ["CALL".to_owned()].into() }), Some(published(&["CALL"]))),
    ] {
        let mut calls = vec![(Call::FindRabbitmq, Reply::Rabbitmq(stored))];
        calls.extend(set.iter().map(|_| (Call::SetRabbitmq, Reply::Done)));

        let (script, ended) = per_instance_script(calls);

        ended.success();
        assert_eq!(script.published.lock().unwrap().first(), set.as_ref());
    }
}

#[test]
fn what_is_said_of_an_instances_events_is_judged_as_what_is_said_of_its_webhook() {
    let nothing = || (Call::FindRabbitmq, Reply::Rabbitmq(None));
    let refusal = answer(400, Shape::Schema, "rabbitmq.events[0] is not one of enum values: CALL");

    for (calls, end) in [
        (vec![nothing(), (Call::SetRabbitmq, loading())], ("defer", Class::Loading)),
        (vec![nothing(), (Call::SetRabbitmq, refusal)], ("permanent", Class::Rejected)),
        (vec![nothing(), (Call::SetRabbitmq, timed_out())], ("retry", Class::NoAnswer)),
        (vec![(Call::FindRabbitmq, timed_out())], ("retry", Class::NoAnswer)),
    ] {
        assert_eq!(per_instance_script(calls).1.kind(), end);
    }
}
