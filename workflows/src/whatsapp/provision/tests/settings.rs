use super::script::{given, options};
use crate::{
    secret::Secret,
    whatsapp::provision::{Given, Options, Settings},
};

fn faults(change: impl FnOnce(&mut Options)) -> Vec<String> {
    let mut options = options();
    change(&mut options);
    let faults = Settings::parse(options).unwrap_err();
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn every_fault_has_one_line_that_names_its_setting() {
    let faults = faults(|options| {
        options.webhook.url = "app.test/hook".into();
        options.webhook.events = vec!["CALL".into(), "call".into()];
        options.webhook.headers.insert("X Y".into(), Secret::new("secret-value"));
        options.webhook.headers.insert("Host".into(), Secret::new("secret-value"));
        options.webhook.headers.insert("X-Id".into(), Secret::new("{userid}"));
        options.webhook.headers.insert("X-Bad".into(), Secret::new("secret-value\nX-More: 1"));
        options.webhook.headers.insert("Authorization".into(), Secret::new("secret-value"));
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
        let faults = faults(|options| options.webhook.url = url.into());

        assert!(faults.len() == 1 && faults[0].contains(problem), "{url}: {faults:?}");
    }
}

#[test]
fn no_events_would_mean_all_of_them() {
    assert!(faults(|options| options.webhook.events.clear())[0].starts_with("webhook.events: is empty"));
}

#[test]
fn values_are_encoded_in_the_url_and_plain_in_a_header() {
    let mut options = options();
    options.webhook.url = "https://u:pass-word@app.test/{instance}?t={token}&j={\"a\":1}".into();
    options.webhook.headers = [("X-Instance".to_owned(), Secret::new("{instance}"))].into();
    let given = Given { instance: "a/b c&d".parse().unwrap(), token: Secret::new("t/1?&"), ..given() };

    let (webhook, asked) = Settings::parse(options).unwrap().webhook.expand(&given).unwrap();

    assert_eq!(webhook.url.expose(), "https://u:pass-word@app.test/a%2Fb%20c%26d?t=t%2F1%3F%26&j={%22a%22:1}");
    assert_eq!(webhook.headers["X-Instance"].expose(), "a/b c&d");
    assert_eq!(asked.url, "https://u:***@app.test/a%2Fb%20c%26d?t=***&j={%22a%22:1}");
}

#[test]
fn a_value_that_no_header_can_carry_is_refused_when_it_is_expanded() {
    let mut options = options();
    options.webhook.headers = [("X-Instance".to_owned(), Secret::new("{instance}"))].into();
    let given = Given { instance: "inst_é".parse().unwrap(), ..given() };

    let fault = Settings::parse(options).unwrap().webhook.expand(&given).unwrap_err();

    assert!(fault.to_string().starts_with("webhook.headers.X-Instance: its value is none"));
}
