//! The checks of request bodies: JSON itself, and the schemas of create and `webhook/set`, with
//! their wording.

use serde_json::{Map, Value};

use super::message::Body;

/// The events of `webhook/set`.
pub const EVENTS: [&str; 31] = [
    "APPLICATION_STARTUP",
    "QRCODE_UPDATED",
    "MESSAGES_SET",
    "MESSAGES_UPSERT",
    "MESSAGES_EDITED",
    "MESSAGES_UPDATE",
    "MESSAGES_DELETE",
    "SEND_MESSAGE",
    "SEND_MESSAGE_UPDATE",
    "CONTACTS_SET",
    "CONTACTS_UPSERT",
    "CONTACTS_UPDATE",
    "PRESENCE_UPDATE",
    "CHATS_SET",
    "CHATS_UPSERT",
    "CHATS_UPDATE",
    "CHATS_DELETE",
    "GROUPS_UPSERT",
    "GROUP_UPDATE",
    "GROUP_PARTICIPANTS_UPDATE",
    "CONNECTION_UPDATE",
    "LABELS_EDIT",
    "LABELS_ASSOCIATION",
    "CALL",
    "TYPEBOT_START",
    "TYPEBOT_CHANGE_STATUS",
    "REMOVE_INSTANCE",
    "LOGOUT_INSTANCE",
    "INSTANCE_CREATE",
    "INSTANCE_DELETE",
    "STATUS_INSTANCE",
];

/// The flat 1.x field `webhookEvents` knows the first 26 only.
const FLAT_EVENTS: usize = 26;

/// The fields of a body as the server sees them: only a JSON object sent as JSON has any.
///
/// # Errors
/// The parser's message (the answer is a 400) where the body is sent as JSON and is none.
pub(super) fn read_body(body: Body, content_type: Option<&str>) -> Result<Map<String, Value>, String> {
    let is_json =
        content_type.is_some_and(|text| text.split(';').next().unwrap_or_default().trim() == "application/json");
    match body {
        Body::Json(Value::Object(fields)) if is_json => Ok(fields),
        Body::Json(value) if is_json && !value.is_array() => Err(not_strict(&value.to_string())),
        Body::Text(text) if is_json && !text.is_empty() => parse_json(&text),
        _ => Ok(Map::new()),
    }
}

fn parse_json(text: &str) -> Result<Map<String, Value>, String> {
    if !text.trim_start().starts_with(['{', '[']) {
        return Err(not_strict(text));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Ok(Map::new()),
        Err(error) if error.is_eof() && text.trim_end().ends_with(',') => {
            Err(format!("Expected double-quoted property name in JSON at position {}", text.chars().count()))
        }
        Err(error) if error.is_eof() => Err("Unexpected end of JSON input".to_owned()),
        Err(error) => {
            let at = error.column().saturating_sub(1);
            let found = text.chars().nth(at).unwrap_or_default();
            Err(format!("Unexpected token '{found}', \"{text}\" is not valid JSON"))
        }
    }
}

fn not_strict(text: &str) -> String {
    let first = text.trim_start().chars().next().unwrap_or_default();
    format!("Unexpected token '{first}', \"{text}\" is not valid JSON")
}

fn type_fault(path: &str, value: Option<&Value>, wanted: &str) -> Option<String> {
    let value = value?;
    let fits = match wanted {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        _ => value.is_object(),
    };
    (!fits).then(|| format!("{path} is not of a type(s) {wanted}"))
}

fn event_faults(path: &str, value: Option<&Value>, known: &[&str], faults: &mut Vec<String>) {
    faults.extend(type_fault(path, value, "array"));
    let Some(events) = value.and_then(Value::as_array) else {
        return;
    };
    for (index, event) in events.iter().enumerate() {
        if event.as_str().is_none_or(|event| !known.contains(&event)) {
            faults.push(format!("{path}[{index}] is not one of enum values: {}", known.join(",")));
        }
    }
}

pub(super) fn create_faults(body: &Map<String, Value>) -> Vec<String> {
    const BEFORE: [(&str, &str); 1] = [("token", "string")];
    const AFTER: [(&str, &str); 10] = [
        ("businessId", "string"),
        ("qrcode", "boolean"),
        ("webhookUrl", "string"),
        ("rejectCall", "boolean"),
        ("msgCall", "string"),
        ("groupsIgnore", "boolean"),
        ("alwaysOnline", "boolean"),
        ("readMessages", "boolean"),
        ("readStatus", "boolean"),
        ("syncFullHistory", "boolean"),
    ];
    let mut faults = Vec::new();
    let of_type = |table: &[(&str, &str)], faults: &mut Vec<String>| {
        for (field, wanted) in table {
            faults.extend(type_fault(field, body.get(*field), wanted));
        }
    };
    of_type(&BEFORE, &mut faults);
    match body.get("number") {
        Some(Value::String(number)) if !is_number(number) => {
            faults.push(r#"number does not match pattern "^\\d+[\\.@\\w-]+""#.to_owned());
        }
        other => faults.extend(type_fault("number", other, "string")),
    }
    of_type(&AFTER, &mut faults);
    event_faults("webhookEvents", body.get("webhookEvents"), &EVENTS[..FLAT_EVENTS], &mut faults);
    let alone = body.keys().all(|key| key == "instanceName");
    if alone && body.get("instanceName").is_some_and(|name| name == "") {
        faults.push("The \"instanceName\" cannot be empty".to_owned());
    }
    faults
}

/// `^\d+[\.@\w-]+`: a digit, and one more character of those.
fn is_number(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|first| first.is_ascii_digit())
        && chars.next().is_some_and(|second| second.is_ascii_alphanumeric() || matches!(second, '_' | '.' | '@' | '-'))
}

pub(super) fn rabbitmq_faults(body: &Map<String, Value>) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(fields) = body.get("rabbitmq").and_then(Value::as_object) {
        faults.extend(type_fault("rabbitmq.enabled", fields.get("enabled"), "boolean"));
        event_faults("rabbitmq.events", fields.get("events"), &EVENTS, &mut faults);
    }
    faults
}

pub(super) fn settings_faults(body: &Map<String, Value>) -> Vec<String> {
    const FLAGS: [&str; 6] =
        ["rejectCall", "groupsIgnore", "alwaysOnline", "readMessages", "readStatus", "syncFullHistory"];
    let mut faults: Vec<_> = FLAGS.iter().filter_map(|flag| type_fault(flag, body.get(*flag), "boolean")).collect();
    faults.extend(["msgCall", "wavoipToken"].iter().filter_map(|text| type_fault(text, body.get(*text), "string")));
    let missing = FLAGS.iter().filter(|flag| !body.contains_key(**flag));
    faults.extend(missing.map(|flag| format!("instance requires property \"{flag}\"")));
    faults
}

/// What a 1.x server makes of the nested body.
pub(super) fn flat_webhook_faults(body: &Map<String, Value>) -> Vec<String> {
    let missing = ["url", "enabled"].into_iter().filter(|field| !body.contains_key(*field));
    missing.map(|field| format!("instance requires property \"{field}\"")).collect()
}

pub(super) fn webhook_faults(body: &Map<String, Value>) -> Vec<String> {
    let Some(webhook) = body.get("webhook") else {
        return vec!["instance requires property \"webhook\"".to_owned()];
    };
    let Some(fields) = webhook.as_object() else {
        return vec!["webhook is not of a type(s) object".to_owned()];
    };
    let mut faults = Vec::new();
    for (field, wanted) in [
        ("enabled", "boolean"),
        ("url", "string"),
        ("headers", "object"),
        ("byEvents", "boolean"),
        ("base64", "boolean"),
    ] {
        faults.extend(type_fault(&format!("webhook.{field}"), fields.get(field), wanted));
    }
    event_faults("webhook.events", fields.get("events"), &EVENTS, &mut faults);
    for field in ["enabled", "url"] {
        if !fields.contains_key(field) {
            faults.push(format!("webhook requires property \"{field}\""));
        }
    }
    let alone = fields.keys().all(|key| key == "enabled" || key == "url");
    if alone && fields.get("url").is_some_and(|url| url == "") {
        faults.push("The \"url\" cannot be empty".to_owned());
    }
    faults
}
