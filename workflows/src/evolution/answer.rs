//! From a response's bytes to a typed answer or an `ErrorKind`: the shapes that were recorded (2.3) or read (1.8), and no
//! others. Pure, so that the client, the simulator and the contract test read answers with the same code.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Answer, ApiState, Connect, Created, ErrorKind, Listed, RetryAfter, Shape, StoredWebhook, redact::Redaction,
};
use crate::{ids::InstanceName, secret::Secret};

/// The most that a QR code may take, in bytes of its `data:` URL.
const QR_BYTES: usize = 64 * 1024;

/// A response as it came, its body already bounded by who received it.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    pub status: u16,
    pub retry_after: Option<&'a str>,
    pub date: Option<&'a str>,
    pub body: &'a [u8],
}

/// Reads the answer to a create.
pub fn created(response: &Response, name: &InstanceName, redaction: &Redaction) -> Result<Created, ErrorKind> {
    let body = success(response, redaction)?;
    let unreadable = |what| unreadable(response, what);
    let instance = body.get("instance").ok_or_else(|| unreadable("no `instance`"))?;
    if text(instance, &["instanceName"]).as_deref() != Some(name.as_str()) {
        return Err(unreadable("`instance.instanceName` is not the name that was sent"));
    }
    let token = match body.get("hash") {
        Some(Value::String(token)) => Some(Secret::new(token)),
        Some(Value::Object(hash)) => hash.get("apikey").and_then(Value::as_str).map(Secret::new),
        _ => return Err(unreadable("`hash` is neither a text nor an object")),
    };
    Ok(Created { token, instance_id: text(instance, &["instanceId"]) })
}

/// Reads the list filtered by a name. `None`: a list without it.
pub fn listed(response: &Response, name: &InstanceName, redaction: &Redaction) -> Result<Option<Listed>, ErrorKind> {
    let body = success(response, redaction)?;
    let rows = body.as_array().ok_or_else(|| unreadable(response, "not a list"))?;
    for value in rows {
        let (row_name, row) = row(value).ok_or_else(|| unreadable(response, NAMELESS))?;
        if row_name == name.as_str() {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// What is wrong with a row that `row` cannot read.
pub const NAMELESS: &str = "a row without a name";

/// One row of a list, and its name: any text, for it need not be one of ours.
pub fn row(value: &Value) -> Option<(String, Listed)> {
    // 1.8 wraps each row.
    let row = value.get("instance").unwrap_or(value);
    let listed = Listed {
        instance_id: text(row, &["id", "instanceId"]),
        token: text(row, &["token", "apikey"]).filter(|token| !token.is_empty()).map(Secret::new),
        status: text(row, &["connectionStatus", "status"]).and_then(|state| api_state(&state)),
    };
    Some((text(row, &["name", "instanceName"])?, listed))
}

/// Reads the state in the API's memory. `None`: the row is there, the instance is not loaded.
pub fn connection_state(
    response: &Response,
    name: &InstanceName,
    redaction: &Redaction,
) -> Result<Option<ApiState>, ErrorKind> {
    let body = success(response, redaction)?;
    let instance = body.get("instance").ok_or_else(|| unreadable(response, "no `instance`"))?;
    if text(instance, &["instanceName"]).as_deref() != Some(name.as_str()) {
        return Err(unreadable(response, "`instance.instanceName` is not the name that was asked for"));
    }
    match instance.get("state") {
        None | Some(Value::Null) => Ok(None),
        Some(state) => match state.as_str().and_then(api_state) {
            Some(state) => Ok(Some(state)),
            None => Err(unreadable(response, "`instance.state` is none of open, connecting, close")),
        },
    }
}

/// Reads the answer to a connect.
pub fn connect(response: &Response, redaction: &Redaction) -> Result<Connect, ErrorKind> {
    let body = success(response, redaction)?;
    if let Some(instance) = body.get("instance") {
        let open = text(instance, &["state"]).as_deref() == Some("open");
        return Ok(if open { Connect::Open } else { Connect::NotYet });
    }
    match body.get("base64") {
        Some(Value::String(url)) if url.starts_with("data:image/") && url.len() <= QR_BYTES => {
            Ok(Connect::Qr(Secret::new(url)))
        }
        None | Some(Value::Null) if body.get("count").is_some() => Ok(Connect::NotYet),
        Some(_) => Err(unreadable(response, "`base64` is no image, or one of more than 64 KiB")),
        None => Err(unreadable(response, "neither `base64`, `count` nor `instance`")),
    }
}

/// Reads the row that a webhook was stored as.
pub fn stored_webhook(response: &Response, redaction: &Redaction) -> Result<StoredWebhook, ErrorKind> {
    found_webhook(response, redaction)?.ok_or_else(|| unreadable(response, "null where a webhook was just stored"))
}

/// Reads a stored webhook. `None`: the API said `null`.
pub fn found_webhook(response: &Response, redaction: &Redaction) -> Result<Option<StoredWebhook>, ErrorKind> {
    let body = success(response, redaction)?;
    if body.is_null() {
        return Ok(None);
    }
    let (Some(url), Some(enabled)) = (text(&body, &["url"]), body.get("enabled").and_then(Value::as_bool)) else {
        return Err(unreadable(response, "a webhook without `url` or `enabled`"));
    };
    let flag = |key| body.get(key).and_then(Value::as_bool).unwrap_or(false);
    let events = body.get("events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(Some(StoredWebhook {
        enabled,
        url: Secret::new(url),
        events: events.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        headers: headers(body.get("headers")),
        by_events: flag("webhookByEvents"),
        base64: flag("webhookBase64"),
    }))
}

/// Reads an answer of which only the success matters.
pub fn done(response: &Response, redaction: &Redaction) -> Result<(), ErrorKind> {
    success(response, redaction).map(drop)
}

fn headers(value: Option<&Value>) -> BTreeMap<String, Secret> {
    let Some(Value::Object(headers)) = value else { return BTreeMap::new() };
    let secret = |value: &Value| match value {
        Value::String(text) => Secret::new(text),
        other => Secret::new(other.to_string()),
    };
    headers.iter().map(|(name, value)| (name.clone(), secret(value))).collect()
}

fn api_state(text: &str) -> Option<ApiState> {
    match text {
        "open" => Some(ApiState::Open),
        "connecting" => Some(ApiState::Connecting),
        "close" => Some(ApiState::Close),
        _ => None,
    }
}

/// The first of these keys that holds a text.
fn text(value: &Value, keys: &[&str]) -> Option<String> {
    keys.iter().find_map(|key| value.get(key)?.as_str()).map(str::to_owned)
}

fn unreadable(response: &Response, what: impl Into<String>) -> ErrorKind {
    ErrorKind::Unreadable { status: response.status, what: what.into() }
}

/// The body of an answer that is a success; `{"error":true}` is none, whatever the status says.
fn success(response: &Response, redaction: &Redaction) -> Result<Value, ErrorKind> {
    match response.status {
        204 | 205 | 304 => Err(unreadable(response, "an answer without a body")),
        200..=299 => {
            // The parser's own words may quote the body, and the body may hold a token: the place is enough.
            let body: Value = serde_json::from_slice(response.body).map_err(|error| {
                unreadable(response, format!("not JSON at line {} column {}", error.line(), error.column()))
            })?;
            match body.get("error") {
                Some(Value::Bool(true)) => Err(ErrorKind::Answer(refusal(response, redaction))),
                _ => Ok(body),
            }
        }
        300..=399 => {
            let mut answer = refusal(response, redaction);
            answer.message = "a redirect, which is not followed: the base URL is not the API's own".into();
            Err(ErrorKind::Answer(answer))
        }
        _ => Err(ErrorKind::Answer(refusal(response, redaction))),
    }
}

fn refusal(response: &Response, redaction: &Redaction) -> Answer {
    let body: Value = serde_json::from_slice(response.body).unwrap_or_default();
    let message = body.pointer("/response/message");
    let (shape, message) = match message.and_then(first_text) {
        Some((shape, text)) => (shape, redaction.readable(text)),
        None => (Shape::Foreign, redaction.readable(&foreign_text(&body, response.body))),
    };
    let retry_after = response.retry_after.and_then(|header| RetryAfter::parse(header, response.date));
    Answer { status: response.status, shape, message, retry_after }
}

fn first_text(message: &Value) -> Option<(Shape, &str)> {
    match message {
        Value::String(text) => Some((Shape::Plain, text)),
        Value::Array(list) => match list.first()? {
            Value::String(text) => Some((Shape::Listed, text)),
            Value::Array(inner) => Some((Shape::Schema, inner.first()?.as_str()?)),
            _ => None,
        },
        _ => None,
    }
}

/// What a person may make of a body of no recorded shape: a message of its own, or its first line.
fn foreign_text(body: &Value, bytes: &[u8]) -> String {
    if let Some(text) = text(body, &["message", "error"]) {
        return text;
    }
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]);
    start.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response<'_> {
        Response { status, retry_after: None, date: None, body: body.as_bytes() }
    }

    fn name() -> InstanceName {
        "user_1".parse().unwrap()
    }

    fn nothing_to_cut() -> Redaction<'static> {
        Redaction::new(None, [])
    }

    #[test]
    fn both_shapes_of_hash_are_read() {
        for (hash, token) in
            [(r#""t-1""#, Some("t-1")), (r#"{"apikey":"t-1"}"#, Some("t-1")), (r#"{"jwt":"a.b.c"}"#, None)]
        {
            let body = format!(r#"{{"instance":{{"instanceName":"user_1","instanceId":"i-1"}},"hash":{hash}}}"#);

            let created = created(&response(201, &body), &name(), &nothing_to_cut()).unwrap();

            assert_eq!(created.token.as_ref().map(Secret::expose), token, "{hash}");
            assert_eq!(created.instance_id.as_deref(), Some("i-1"));
        }
    }

    #[test]
    fn an_answer_about_another_instance_is_unreadable() {
        let other = r#"{"instance":{"instanceName":"user_2","state":"open"},"hash":"t"}"#;

        let state = connection_state(&response(200, other), &name(), &nothing_to_cut());
        let created = created(&response(201, other), &name(), &nothing_to_cut());

        assert!(matches!(state, Err(ErrorKind::Unreadable { status: 200, .. })));
        assert!(matches!(created, Err(ErrorKind::Unreadable { status: 201, .. })));
    }

    #[test]
    fn a_wrapped_row_of_the_older_version_is_read() {
        let body = r#"[{"instance":{"instanceName":"user_1","apikey":"t-1","status":"open"}}]"#;

        let row = listed(&response(200, body), &name(), &nothing_to_cut()).unwrap().unwrap();

        assert_eq!(row.token, Some(Secret::new("t-1")));
        assert_eq!(row.status, Some(ApiState::Open));
    }

    #[test]
    fn a_success_that_says_error_is_an_error() {
        let body = r#"{"error":true,"message":"[object Object]"}"#;

        let Err(ErrorKind::Answer(answer)) = connect(&response(200, body), &nothing_to_cut()) else { panic!() };

        assert_eq!((answer.status, answer.message.as_str()), (200, "[object Object]"));
    }

    #[test]
    fn what_is_no_json_is_unreadable_and_not_quoted() {
        for (status, body) in [(200, "<html>token-1</html>"), (200, ""), (204, ""), (304, ""), (201, "{\"token-1\"")] {
            let Err(ErrorKind::Unreadable { what, .. }) = done(&response(status, body), &nothing_to_cut()) else {
                panic!("{status} {body}")
            };
            assert!(!what.contains("token-1"), "{what}");
        }
    }

    #[test]
    fn a_proxys_page_keeps_its_first_line_and_its_retry_after() {
        let page = Response { retry_after: Some("7"), ..response(503, "\n<h1>no server</h1>\nmore") };

        let Err(ErrorKind::Answer(answer)) = done(&page, &nothing_to_cut()) else { panic!() };

        assert_eq!((answer.shape, answer.message.as_str()), (Shape::Foreign, "<h1>no server</h1>"));
        assert_eq!(answer.retry_after, RetryAfter::parse("7", None));
    }
}
