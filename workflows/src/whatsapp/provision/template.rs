//! The webhook that is wanted, with places for what differs between users. Checked when it is
//! parsed, and again when it is expanded, since the API takes any text for a URL and fails on a
//! long one.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use url::Url;

use super::{
    placeholder::{Text, Values, encoded},
    settings::{Fault, WebhookOptions},
};
use crate::{
    secret::Secret,
    whatsapp::{
        evolution::{Event, Webhook},
        names::UserId,
        provision::Given,
    },
};

/// The longest URL that the API's column takes; a longer one is a 500.
const URL_CHARS: usize = 500;
/// Headers that belong to the connection: to set them breaks every delivery.
const RESERVED: [&str; 4] = ["host", "content-length", "transfer-encoding", "connection"];

/// The webhook of every instance, with its placeholders.
#[derive(Debug, Clone)]
pub struct WebhookTemplate {
    url: Text,
    events: BTreeSet<Event>,
    headers: BTreeMap<String, Text>,
    by_events: bool,
    base64: bool,
}

/// What was asked for an instance, as anybody may see it: the token in the URL is `***`, headers
/// are names.
#[derive(Serialize)]
pub(super) struct Asked {
    pub url: String,
    pub events: Vec<String>,
    pub headers: Vec<String>,
    pub by_events: bool,
    pub base64: bool,
}

impl WebhookTemplate {
    /// Checks everything and reports every fault.
    pub fn parse(options: WebhookOptions) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let url = Text::parse("webhook.url", &options.url).and_then(|url| probe(&url).map(|()| url));
        let url = url.map_err(|fault| faults.push(fault)).ok();
        let events = events(&options.events, &mut faults);
        let headers = headers(options.headers, &mut faults);
        match url {
            Some(url) if faults.is_empty() => {
                Ok(Self { url, events, headers, by_events: options.by_events, base64: options.base64 })
            }
            _ => Err(faults),
        }
    }

    /// The webhook for one instance, and what of it may be seen.
    pub(super) fn expand(&self, given: &Given) -> Result<(Webhook, Asked), Fault> {
        let values = Values {
            user_id: UserId::of(&given.subject).map(|user| user.to_string()),
            instance: given.instance.as_str(),
            token: given.token.expose(),
        };
        let url = checked_url(&self.url.expand("webhook.url", &values, encoded)?)?;
        let hidden = Values { token: "***", ..values.clone() };
        let mut shown = checked_url(&self.url.expand("webhook.url", &hidden, encoded)?)?;
        if shown.password().is_some() && shown.set_password(Some("***")).is_err() {
            return Err(Fault::new("webhook.url", "holds a password where none can be"));
        }
        let mut headers = BTreeMap::new();
        for (name, value) in &self.headers {
            let setting = header_setting(name);
            let value = value.expand(&setting, &values, str::to_owned)?;
            check_header_value(&setting, &value)?;
            headers.insert(name.clone(), Secret::new(value));
        }
        let asked = Asked {
            url: shown.into(),
            events: self.events.iter().map(|event| event.to_string()).collect(),
            headers: headers.keys().cloned().collect(),
            by_events: self.by_events,
            base64: self.base64,
        };
        let webhook = Webhook {
            enabled: true,
            url: Secret::new(url),
            events: self.events.clone(),
            headers,
            by_events: self.by_events,
            base64: self.base64,
        };
        Ok((webhook, asked))
    }
}

fn events(names: &[String], faults: &mut Vec<Fault>) -> BTreeSet<Event> {
    if names.is_empty() {
        faults.push(Fault::new("webhook.events", "is empty, which the API takes for all of them: name those you want"));
    }
    let mut events = BTreeSet::new();
    for name in names {
        match name.parse::<Event>() {
            Ok(event) => drop(events.insert(event)),
            Err(unknown) => faults.push(Fault::new("webhook.events", unknown.to_string())),
        }
    }
    events
}

fn headers(options: BTreeMap<String, Secret>, faults: &mut Vec<Fault>) -> BTreeMap<String, Text> {
    let mut headers = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (name, value) in options {
        let setting = header_setting(&name);
        let checked = check_header_name(&setting, &name)
            .and_then(|()| check_header_value(&setting, value.expose()))
            .and_then(|()| Text::parse(&setting, value.expose()));
        if !seen.insert(name.to_ascii_lowercase()) {
            faults.push(Fault::new(&setting, "is there twice: the case of a header's name means nothing"));
        }
        match checked {
            Ok(value) => drop(headers.insert(name, value)),
            Err(fault) => faults.push(fault),
        }
    }
    headers
}

fn header_setting(name: &str) -> String {
    format!("webhook.headers.{}", name.chars().take(80).collect::<String>())
}

fn check_header_name(setting: &str, name: &str) -> Result<(), Fault> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        return Err(Fault::new(setting, "is no header name: expected letters, digits and hyphens"));
    }
    if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(Fault::new(setting, "belongs to the connection and cannot be set"));
    }
    Ok(())
}

fn check_header_value(setting: &str, value: &str) -> Result<(), Fault> {
    if value.trim() != value || !value.chars().all(|c| c == '\t' || (' '..='~').contains(&c)) {
        let problem = "its value is none that a header may have: expected printable ASCII without spaces at its ends";
        return Err(Fault::new(setting, problem));
    }
    Ok(())
}

/// Whether the URL is one whatever the placeholders hold, and goes to the same host.
fn probe(template: &Text) -> Result<(), Fault> {
    let uuid = "00000000-0000-4000-8000-000000000000";
    let with = |text: &'static str| {
        let values = Values { user_id: Some(text.to_owned()), instance: text, token: text };
        checked_url(&template.expand("webhook.url", &values, encoded)?)
    };
    let (one, other) = (with(uuid)?, with("a")?);
    let host = |url: &Url| (url.origin(), url.username().to_owned(), url.password().map(str::to_owned));
    if host(&one) != host(&other) {
        let problem = "has a placeholder before its path: it may stand in path and query only";
        return Err(Fault::new("webhook.url", problem));
    }
    Ok(())
}

fn checked_url(text: &str) -> Result<Url, Fault> {
    let fault = |problem: String| Fault::new("webhook.url", problem);
    // The text itself may hold a token: it is not repeated.
    let url = Url::parse(text).map_err(|error| fault(format!("is no URL ({error}): expected https://host/path")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(fault("has another scheme: expected http:// or https://".to_owned()));
    }
    let length = url.as_str().chars().count();
    if length > URL_CHARS {
        return Err(fault(format!("is {length} characters long when expanded: the API takes {URL_CHARS}")));
    }
    Ok(url)
}
