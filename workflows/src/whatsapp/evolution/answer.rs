//! From a response's bytes to a typed answer or an `ErrorKind`: the shapes that were recorded (2.3)
//! or read (1.8), and no others. Pure, so that the client, the simulator and the contract test read
//! answers with the same code.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    Answer, ApiState, Connect, Created, ErrorKind, Kind, Listed, Own, Rabbitmq, RetryAfter, Roster, Shape,
    StoredWebhook, Version, classify::Pairing, redact::Redaction,
};
use crate::{secret::Secret, whatsapp::names::InstanceName};

/// The integration that our create asks for, as rows name it.
const OUR_KIND: &str = "WHATSAPP-BAILEYS";

/// The id that no instance has: the API looks it up in its database.
pub const NO_ID: &str = "00000000-0000-0000-0000-000000000000";

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
    let body = success_at_a_known_path(response, redaction)?;
    let instance = instance(response, &body, name, "`instance.instanceName` is not the name that was sent")?;
    let token = match body.get("hash") {
        Some(Value::String(token)) => Some(Secret::new(token)),
        Some(Value::Object(hash)) => hash.get("apikey").and_then(Value::as_str).map(Secret::new),
        _ => return Err(unreadable(response, "`hash` is neither a text nor an object")),
    };
    Ok(Created { token, instance_id: text(instance, &["instanceId"]) })
}

/// Reads the list filtered by a name. `None`: a list without it.
pub fn listed(response: &Response, name: &InstanceName, redaction: &Redaction) -> Result<Option<Listed>, ErrorKind> {
    let body = success_at_a_known_path(response, redaction)?;
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
    let status = text(row, &["connectionStatus", "status"]).and_then(|state| api_state(&state));
    let owner = text(row, &["ownerJid", "owner"]).filter(|owner| !owner.is_empty());
    let listed = Listed {
        instance_id: text(row, &["id", "instanceId"]),
        token: text(row, &["token", "apikey"]).filter(|token| !token.is_empty()).map(Secret::new),
        status,
        kind: text(row, &["integration"]).filter(|kind| kind != OUR_KIND).map_or(Kind::Ours, Kind::Other),
        has_settings: row.get("Setting").map(|settings| !settings.is_null()),
        pairing: if owner.is_some() || status == Some(ApiState::Open) { Pairing::Done } else { Pairing::NotYet },
        phone_number: owner.as_deref().and_then(phone_number),
    };
    Some((text(row, &["name", "instanceName"])?, listed))
}

/// The number in an address of WhatsApp's: `5511999999999:12@s.whatsapp.net`. An address of another
/// kind (`@lid`) has none.
pub(super) fn phone_number(address: &str) -> Option<String> {
    let (user, server) = address.split_once('@').unwrap_or((address, "s.whatsapp.net"));
    let number = user.split(':').next().filter(|number| !number.is_empty())?;
    (server == "s.whatsapp.net" && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.to_owned())
}

/// Reads the list that was asked for with the instance's own token.
pub fn own(response: &Response, name: &InstanceName, redaction: &Redaction) -> Result<Own, ErrorKind> {
    match listed(response, name, redaction) {
        Ok(Some(row)) => Ok(Own::Loaded(row)),
        Ok(None) | Err(ErrorKind::Answer(Answer { status: 401, shape: Shape::Plain, .. })) => Ok(Own::NoSuchRow),
        Err(ErrorKind::Answer(Answer { status: 404, shape: Shape::Listed, message, .. }))
            if message == format!("Instance \"{name}\" not found") =>
        {
            Ok(Own::NotLoaded)
        }
        Err(other) => Err(other),
    }
}

/// Reads the whole list.
pub fn roster(response: &Response, redaction: &Redaction) -> Result<Roster, ErrorKind> {
    let body = success_at_a_known_path(response, redaction)?;
    let rows = body.as_array().ok_or_else(|| unreadable(response, "not a list"))?;
    rows.iter().map(|value| row(value).ok_or_else(|| unreadable(response, NAMELESS))).collect()
}

/// Reads whether a row of settings is there: the API says `null` where none is.
pub fn has_settings(response: &Response, redaction: &Redaction) -> Result<bool, ErrorKind> {
    match success(response, redaction)? {
        Value::Null => Ok(false),
        Value::Object(_) => Ok(true),
        _ => Err(unreadable(response, "settings that are no object")),
    }
}

/// Reads the version out of the API's welcome.
pub fn version(response: &Response, redaction: &Redaction) -> Result<Version, ErrorKind> {
    let body = success(response, redaction)?;
    let version = body["version"].as_str().and_then(|version| version.parse().ok());
    version.ok_or_else(|| unreadable(response, "a welcome without a version"))
}

/// Reads the answer to the question for the instance with the id `NO_ID`: the database was asked,
/// and has none.
pub fn database(response: &Response, redaction: &Redaction) -> Result<(), ErrorKind> {
    match success_at_a_known_path(response, redaction) {
        Ok(_) | Err(ErrorKind::Answer(Answer { status: 404, shape: Shape::Listed, .. })) => Ok(()),
        Err(other) => Err(other),
    }
}

/// Reads the state in the API's memory. `None`: the row is there, the instance is not loaded.
pub fn connection_state(
    response: &Response,
    name: &InstanceName,
    redaction: &Redaction,
) -> Result<Option<ApiState>, ErrorKind> {
    let body = success_at_a_known_path(response, redaction)?;
    let instance = instance(response, &body, name, "`instance.instanceName` is not the name that was asked for")?;
    let Some(state) = instance.get("state").filter(|state| !state.is_null()) else { return Ok(None) };
    let known = state.as_str().and_then(api_state);
    known.map(Some).ok_or_else(|| unreadable(response, "`instance.state` is none of open, connecting, close"))
}

/// The instance that the answer is about, which has to be this one.
fn instance<'a>(response: &Response, body: &'a Value, name: &InstanceName, what: &str) -> Result<&'a Value, ErrorKind> {
    let instance = body.get("instance").ok_or_else(|| unreadable(response, "no `instance`"))?;
    let is_it = instance.get("instanceName").and_then(Value::as_str) == Some(name.as_str());
    is_it.then_some(instance).ok_or_else(|| unreadable(response, what))
}

/// A QR code that can be kept and shown: the URL of an image, not too long, without a character
/// that a URL cannot hold.
pub(super) fn qr_code(value: &Value) -> Option<Secret> {
    let url = value.as_str().filter(|url| url.starts_with("data:image/") && url.len() <= QR_BYTES)?;
    url.bytes().all(|byte| byte.is_ascii_graphic()).then(|| Secret::new(url))
}

/// Reads the answer to a connect.
pub fn connect(response: &Response, redaction: &Redaction) -> Result<Connect, ErrorKind> {
    let body = success_at_a_known_path(response, redaction)?;
    if let Some(instance) = body.get("instance") {
        let open = text(instance, &["state"]).as_deref() == Some("open");
        return Ok(if open { Connect::Open } else { Connect::NotYet });
    }
    match body.get("base64") {
        None | Some(Value::Null) if body.get("count").is_some() => Ok(Connect::NotYet),
        Some(code) => qr_code(code)
            .map(Connect::Qr)
            .ok_or_else(|| unreadable(response, "`base64` is no image, or one of more than 64 KiB")),
        None => Err(unreadable(response, "neither `base64`, `count` nor `instance`")),
    }
}

/// Reads the row that a webhook was stored as.
pub fn stored_webhook(response: &Response, redaction: &Redaction) -> Result<StoredWebhook, ErrorKind> {
    found_webhook(response, redaction)?.ok_or_else(|| unreadable(response, "null where a webhook was just stored"))
}

/// Reads a stored webhook. `None`: the API said `null`.
pub fn found_webhook(response: &Response, redaction: &Redaction) -> Result<Option<StoredWebhook>, ErrorKind> {
    let body = success_at_a_known_path(response, redaction)?;
    if body.is_null() {
        return Ok(None);
    }
    let flag = |key| body.get(key).and_then(Value::as_bool);
    let (Some(url), Some(enabled)) = (text(&body, &["url"]), flag("enabled")) else {
        return Err(unreadable(response, "a webhook without `url` or `enabled`"));
    };
    Ok(Some(StoredWebhook {
        enabled,
        url: Secret::new(url),
        events: events(&body),
        headers: headers(&body),
        by_events: flag("webhookByEvents").unwrap_or(false),
        base64: flag("webhookBase64").unwrap_or(false),
    }))
}

/// What an empty body says where RabbitMQ was asked about: the API answers so where it is off.
pub const RABBITMQ_OFF: &str = "nothing, as it does where its RABBITMQ_ENABLED is false";

/// Reads the row that was stored of what the API publishes of an instance.
pub fn stored_rabbitmq(response: &Response, redaction: &Redaction) -> Result<Rabbitmq, ErrorKind> {
    found_rabbitmq(response, redaction)?.ok_or_else(|| unreadable(response, "null where a row was just stored"))
}

/// Reads what the API publishes of an instance. `None`: the API said `null`.
pub fn found_rabbitmq(response: &Response, redaction: &Redaction) -> Result<Option<Rabbitmq>, ErrorKind> {
    if matches!(response.status, 200 | 201) && response.body.is_empty() {
        let (status, message) = (response.status, RABBITMQ_OFF.to_owned());
        return Err(ErrorKind::Answer(Answer { status, shape: Shape::Swallowed, message, retry_after: None }));
    }
    let body = success(response, redaction)?;
    if body.is_null() {
        return Ok(None);
    }
    let enabled = body.get("enabled").and_then(Value::as_bool);
    let enabled = enabled.ok_or_else(|| unreadable(response, "a row of RabbitMQ without `enabled`"))?;
    Ok(Some(Rabbitmq { enabled, events: events(&body) }))
}

/// Reads an answer of which only the success matters.
pub fn done(response: &Response, redaction: &Redaction) -> Result<(), ErrorKind> {
    success(response, redaction).map(drop)
}

fn events(row: &Value) -> BTreeSet<String> {
    row["events"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn headers(row: &Value) -> BTreeMap<String, Secret> {
    let secret = |value: &Value| Secret::new(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let headers = row["headers"].as_object().into_iter().flatten();
    headers.map(|(name, value)| (name.clone(), secret(value))).collect()
}

fn api_state(text: &str) -> Option<ApiState> {
    serde_json::from_value(text.into()).ok()
}

/// The first of these keys that holds a text.
fn text(value: &Value, keys: &[&str]) -> Option<String> {
    keys.iter().find_map(|key| value.get(key)?.as_str()).map(str::to_owned)
}

fn foreign(response: &Response, what: impl Into<String>) -> ErrorKind {
    ErrorKind::Foreign { status: response.status, what: what.into() }
}

fn unreadable(response: &Response, what: impl Into<String>) -> ErrorKind {
    ErrorKind::Unreadable { status: response.status, what: what.into() }
}

/// The body of an answer that is a success; `{"error":true}` is none, whatever the status says.
fn success(response: &Response, redaction: &Redaction) -> Result<Value, ErrorKind> {
    match response.status {
        204 | 205 | 304 => Err(foreign(response, "an answer without a body")),
        200..=299 => {
            // The parser's own words may quote the body, and the body may hold a token: the place
            // is enough.
            let body: Value = serde_json::from_slice(response.body).map_err(|error| {
                let page = response.body.trim_ascii_start().starts_with(b"<");
                let what = if page { "a page of HTML, " } else { "" };
                foreign(response, format!("{what}not JSON at line {} column {}", error.line(), error.column()))
            })?;
            if body["error"] == true { Err(ErrorKind::Answer(refusal(response, redaction))) } else { Ok(body) }
        }
        300..=399 => {
            let message = "a redirect, which is not followed".to_owned();
            Err(ErrorKind::Answer(Answer { shape: Shape::Foreign, message, ..refusal(response, redaction) }))
        }
        _ => Err(ErrorKind::Answer(refusal(response, redaction))),
    }
}

/// As `success`, for a path that every version of the API has: if it is missing, the address leads
/// to another server, or has a path behind it that is not the API's.
fn success_at_a_known_path(response: &Response, redaction: &Redaction) -> Result<Value, ErrorKind> {
    success(response, redaction).map_err(|error| match error {
        ErrorKind::Answer(answer) if answer.has_no_such_path() => {
            ErrorKind::Answer(Answer { shape: Shape::Foreign, ..answer })
        }
        other => other,
    })
}

fn refusal(response: &Response, redaction: &Redaction) -> Answer {
    let body: Value = serde_json::from_slice(response.body).unwrap_or_default();
    let message = body.pointer("/response/message");
    let (shape, text) = match message.and_then(first_text) {
        Some((shape, text)) => (shape, text.to_owned()),
        None if matches!(response.status, 200..=299) => (Shape::Swallowed, foreign_text(&body, response.body)),
        None => (Shape::Foreign, foreign_text(&body, response.body)),
    };
    let retry_after = response.retry_after.and_then(|header| RetryAfter::parse(header, response.date));
    Answer { status: response.status, shape, message: redaction.readable(&text), retry_after }
}

fn first_text(message: &Value) -> Option<(Shape, &str)> {
    let listed = message.get(0);
    let within = listed.and_then(|listed| listed.get(0));
    let shapes = [(Shape::Plain, Some(message)), (Shape::Listed, listed), (Shape::Schema, within)];
    shapes.into_iter().find_map(|(shape, text)| Some((shape, text?.as_str()?)))
}

/// What a person may make of a body of no recorded shape: a message of its own, or its first line.
fn foreign_text(body: &Value, bytes: &[u8]) -> String {
    if let Some(message) = text(body, &["message", "error"]) {
        // Successors of the recorded versions name some refusals by a code.
        return text(body, &["code"]).map_or(message.clone(), |code| format!("{code}: {message}"));
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
    fn an_answer_that_is_an_error_keeps_its_shape_and_what_it_says() {
        let swallowed = r#"{"error":true,"message":"[object Object]"}"#;
        let gate = r#"{"error":"service not activated","code":"LICENSE_REQUIRED","message":"Open http://x/manager"}"#;
        for (status, body, shape, message) in [
            (200, swallowed, Shape::Swallowed, "[object Object]"),
            (503, "\n<h1>no server</h1>\nmore", Shape::Foreign, "<h1>no server</h1>"),
            (503, gate, Shape::Foreign, "LICENSE_REQUIRED: Open http://x/manager"),
        ] {
            let response = Response { retry_after: Some("7"), ..response(status, body) };

            let Err(ErrorKind::Answer(answer)) = connect(&response, &nothing_to_cut()) else { panic!("{body}") };

            let expected = Answer { status, shape, message: message.into(), retry_after: RetryAfter::parse("7", None) };
            assert_eq!(answer, expected);
        }
    }

    #[test]
    fn a_success_that_is_no_json_is_not_the_apis_and_not_quoted() {
        for (status, body) in [(200, "<html>token-1</html>"), (200, ""), (204, ""), (304, ""), (201, "{\"token-1\"")] {
            let Err(ErrorKind::Foreign { what, .. }) = done(&response(status, body), &nothing_to_cut()) else {
                panic!("{status} {body}")
            };
            assert!(!what.contains("token-1"), "{what}");
        }
    }

    #[test]
    fn the_own_token_tells_a_row_that_is_not_loaded_from_none() {
        let ask = |status, body: &str| own(&response(status, body), &name(), &nothing_to_cut());
        let error = |message: &str| format!(r#"{{"response":{{"message":{message}}}}}"#);

        let row = ask(200, r#"[{"name":"user_1","token":"t-1","integration":"WHATSAPP-BAILEYS"}]"#).unwrap();

        assert!(matches!(row, Own::Loaded(Listed { kind: Kind::Ours, pairing: Pairing::NotYet, .. })));
        assert_eq!(ask(404, &error(r#"["Instance \"user_1\" not found"]"#)), Ok(Own::NotLoaded));
        assert_eq!(ask(401, &error(r#""Unauthorized""#)), Ok(Own::NoSuchRow));
        for (status, body) in [(404, "404 page not found"), (401, "<h1>Authorization Required</h1>")] {
            assert!(ask(status, body).is_err(), "{body}");
        }
        assert!(ask(404, &error(r#"["Instance \"user_2\" not found"]"#)).is_err());
    }

    #[test]
    fn the_whole_list_has_every_row_and_what_kind_it_is() {
        let body = r#"[{"name":"user_1","token":"t-1","integration":"EVOLUTION"},
            {"name":"user_2","token":"t-2","integration":"WHATSAPP-BAILEYS","ownerJid":"55@s.whatsapp.net"}]"#;

        let roster = roster(&response(200, body), &nothing_to_cut()).unwrap();

        assert_eq!(roster.get(&name()).unwrap().kind, Kind::Other("EVOLUTION".to_owned()));
        let paired = roster.get(&"user_2".parse().unwrap()).unwrap();
        assert_eq!((paired.pairing, paired.phone_number.as_deref()), (Pairing::Done, Some("55")));
        let numbers = ["5511999999999:12@s.whatsapp.net", "123@lid", "me@s.whatsapp.net", "@s.whatsapp.net"];
        assert_eq!(numbers.map(phone_number), [Some("5511999999999".to_owned()), None, None, None]);
        assert_eq!((roster.0.len(), roster.others(&name(), 8)), (2, vec!["user_2".parse().unwrap()]));
        assert!(super::roster(&response(200, "{}"), &nothing_to_cut()).is_err());
    }

    #[test]
    fn the_welcome_tells_the_version_and_the_database_its_absence() {
        let welcome = r#"{"status":200,"message":"Welcome","version":"2.3.7"}"#;
        let nobody = format!(r#"{{"response":{{"message":["Instance \"{NO_ID}\" not found"]}}}}"#);
        let away = r#"{"response":{"message":"database \"evolution\" is not currently accepting connections"}}"#;

        assert_eq!(version(&response(200, welcome), &nothing_to_cut()).unwrap().to_string(), "2.3.7");
        assert_eq!(database(&response(404, &nobody), &nothing_to_cut()), Ok(()));
        assert!(database(&response(404, "404 page not found"), &nothing_to_cut()).is_err());
        let elsewhere = r#"{"response":{"message":["Cannot GET /api/instance/fetchInstances"]}}"#;
        let Err(ErrorKind::Answer(answer)) = database(&response(404, elsewhere), &nothing_to_cut()) else { panic!() };
        assert_eq!(answer.shape, Shape::Foreign);
        assert!(database(&response(500, away), &nothing_to_cut()).is_err());
    }
}
