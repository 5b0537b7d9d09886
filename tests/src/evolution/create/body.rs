//! The body of a create: what is read from it, and what the 201 says back.

use serde_json::{Map, Value, json};

use super::Progress;
use crate::evolution::calls::Call;
use crate::evolution::schema;
use crate::evolution::store::LinkState;
use crate::evolution::world::default_settings;

pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "Boolean",
        Value::Number(number) if number.is_f64() => "Float",
        Value::Number(_) => "Int",
        Value::Array(_) => "(String)",
        Value::String(_) | Value::Object(_) => "Object",
    }
}

/// An inline object of the body, where it counts as given.
pub(super) fn inline<'a>(call: &'a Call, field: &str) -> Option<&'a Value> {
    call.body.get(field).filter(|value| truthy(value))
}

pub(super) fn truthy(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && *value != json!("") && *value != json!(0)
}

/// `value.field.length` as JavaScript reads it: only what has a length passes.
pub(in crate::evolution) fn read_length(value: &Value, field: &str) -> Result<Value, String> {
    match value.get(field) {
        None => Err("Cannot read properties of undefined (reading 'length')".to_owned()),
        Some(Value::Null) => Err("Cannot read properties of null (reading 'length')".to_owned()),
        Some(other) => Ok(other.clone()),
    }
}

pub(in crate::evolution) fn all_if_empty(events: Value) -> Value {
    if events.as_array().is_some_and(Vec::is_empty) { json!(schema::EVENTS) } else { events }
}

/// Inline webhooks are always stored as enabled.
pub(super) fn inline_webhook(webhook: &Value, events: Value) -> Map<String, Value> {
    let mut fields = Map::new();
    for field in ["url", "headers", "byEvents", "base64"] {
        if let Some(value) = webhook.get(field) {
            fields.insert(field.to_owned(), value.clone());
        }
    }
    fields.insert("enabled".to_owned(), json!(true));
    fields.insert("events".to_owned(), events);
    fields
}

pub(super) fn settings(body: &Map<String, Value>) -> Value {
    let mut settings = default_settings();
    if let Some(fields) = settings.as_object_mut() {
        for (field, value) in fields {
            if let Some(given) = body.get(field).filter(|given| truthy(given)) {
                *value = given.clone();
            }
        }
    }
    settings
}

pub(super) fn created_body(body: &Map<String, Value>, progress: &Progress, name: &str, state: LinkState) -> Value {
    let inline = |field: &str, inner: &str| body.get(field).and_then(|value| value.get(inner)).cloned();
    let mut webhook = Map::new();
    for (out, inner) in [
        ("webhookUrl", "url"),
        ("webhookHeaders", "headers"),
        ("webhookByEvents", "byEvents"),
        ("webhookBase64", "base64"),
    ] {
        if let Some(value) = inline("webhook", inner) {
            webhook.insert(out.to_owned(), value);
        }
    }
    let enabled = |field: &str| inline(field, "enabled").map_or_else(|| json!({}), |on| json!({"enabled": on}));
    json!({
        "instance": {
            "instanceName": name,
            "instanceId": progress.id,
            "integration": progress.integration,
            "webhookWaBusiness": null,
            "accessTokenWaBusiness": "",
            "status": state.as_str(),
        },
        "hash": progress.token,
        "webhook": webhook,
        "websocket": enabled("websocket"),
        "rabbitmq": enabled("rabbitmq"),
        "nats": enabled("nats"),
        "sqs": enabled("sqs"),
        "settings": settings(body),
    })
}
