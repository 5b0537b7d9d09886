use super::*;

fn faults(change: impl FnOnce(&mut WebhookOptions)) -> Vec<String> {
    template(change).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn every_fault_has_one_line_that_names_its_setting() {
    let faults = faults(|webhook| {
        webhook.url = "app.test/hook".into();
        webhook.events = vec!["CALL".into(), "call".into()];
        webhook.headers.insert("X Y".into(), Secret::new("secret-value"));
        webhook.headers.insert("Host".into(), Secret::new("secret-value"));
        webhook.headers.insert("X-Id".into(), Secret::new("{userid}"));
        webhook.headers.insert("X-Bad".into(), Secret::new("secret-value\nX-More: 1"));
        webhook.headers.insert("Authorization".into(), Secret::new("secret-value"));
    });

    for start in [
        "webhook.url: is no URL",
        "webhook.events: event \"call\" is unknown",
        "webhook.headers.X Y: is no header name",
        "webhook.headers.Host: belongs to the connection",
        "webhook.headers.X-Id: {userid} is no placeholder",
        "webhook.headers.X-Bad: its value is none that a header may have",
        "webhook.headers.authorization: is there twice",
    ] {
        assert!(faults.iter().any(|fault| fault.starts_with(start)), "{start} is not in {faults:#?}");
    }
    assert_eq!(faults.len(), 7, "{faults:#?}");
    assert!(faults.iter().all(|fault| !fault.contains('\n') && !fault.contains("secret-value")));
}

#[test]
fn a_url_that_the_api_would_choke_on_is_refused() {
    let long = format!("https://app.test/{}", "a".repeat(500));
    for (url, problem) in [
        ("", "is no URL"),
        ("ftp://app.test/x", "has another scheme"),
        ("https://{instance}.app.test/", "before its path"),
        ("https://app.test:{token}/", "is no URL"),
        ("https://u:{token}@app.test/", "before its path"),
        ("https://app.test/{who}", "{who} is no placeholder"),
        (long.as_str(), "is 517 characters long"),
    ] {
        let faults = faults(|webhook| webhook.url = url.into());

        assert!(faults.len() == 1 && faults[0].contains(problem), "{url}: {faults:?}");
    }
}

#[test]
fn no_events_would_mean_all_of_them() {
    assert!(faults(|webhook| webhook.events.clear())[0].starts_with("webhook.events: is empty"));
}

/// The settings with one header, which has the instance's name.
fn with_a_name_in_a_header(url: &str) -> Settings {
    settings_with(|webhook| {
        webhook.url = url.to_owned();
        webhook.headers = [("X-Instance".to_owned(), Secret::new("{instance}"))].into();
    })
}

#[test]
fn values_are_encoded_in_the_url_and_plain_in_a_header() {
    let url = "https://u:pass-word@app.test/{instance}?t={token}&j={\"a\":1}";
    let given = Given { instance: "a/b c&d".parse().unwrap(), token: Secret::new("t/1?&"), ..given() };

    let (sent, ended) = sent(&given, &with_a_name_in_a_header(url));

    assert_eq!(sent.url.expose(), "https://u:pass-word@app.test/a%2Fb%20c%26d?t=t%2F1%3F%26&j={%22a%22:1}");
    assert_eq!(sent.headers["X-Instance"].expose(), "a/b c&d");
    let shown = &ended.success().0["webhook"]["url"];
    assert_eq!(shown, "https://u:***@app.test/a%2Fb%20c%26d?t=***&j={%22a%22:1}");
}

#[test]
fn a_value_that_no_header_can_carry_is_refused_when_it_is_expanded() {
    let given = Given { instance: "inst_é".parse().unwrap(), ..given() };
    let settings = with_a_name_in_a_header("https://app.test/hook");

    let ended = play(CONFIGURE_WEBHOOKS, &given, &settings, Vec::new());

    assert_eq!(ended.kind(), ("permanent", Class::Rejected));
    assert!(ended.failure().message.starts_with("webhook.headers.X-Instance: its value is none"));
}
