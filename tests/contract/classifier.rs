//! Every recorded answer of the real API to a call that we make, read and judged by the code that
//! the steps run on, and held against `verdicts.txt`: one line per answer, to be checked by a
//! person against the contract. A recorded exchange that is not a call of ours is on a list with
//! its reason; the two sums are all there is.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use workflows::{
    outcome::{HostSignal, Mend, Outcome},
    secret::Secret,
    whatsapp::{
        evolution::{
            ApiError, Call, Connect, ErrorKind, Own, Support, TRIED,
            answer::{self, Response},
            classify::{self, classify, host_signal},
            redact::Redaction,
        },
        names::InstanceName,
    },
};

const RECORDED: &str = include_str!("contract.jsonl");
const VERDICTS: &str = include_str!("verdicts.txt");

#[derive(Deserialize)]
struct Record {
    id: String,
    kind: String,
    #[serde(default)]
    request: Value,
    #[serde(default)]
    response: Value,
    client_error: Option<String>,
}

/// What became of a recorded exchange.
enum Place {
    /// A line of `verdicts.txt`.
    Judged(String),
    /// Not a call of ours; why.
    Skipped(&'static str),
    /// About another route.
    Elsewhere,
}

#[test]
fn every_recorded_answer_is_judged_as_the_table_of_verdicts_says() {
    let expected: BTreeMap<_, _> = VERDICTS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| (line.split('|').next().unwrap_or_default().trim(), line))
        .collect();
    let (mut judged, mut skipped, mut wrong) = (BTreeSet::new(), BTreeMap::new(), Vec::new());

    for record in records() {
        match place(&record) {
            Place::Judged(line) => {
                if expected.get(record.id.as_str()).is_none_or(|expected| *expected != line) {
                    wrong.push(line);
                }
                judged.insert(record.id);
            }
            Place::Skipped(why) => *skipped.entry(why).or_insert(0) += 1,
            Place::Elsewhere => *skipped.entry("another route").or_insert(0) += 1,
        }
    }

    let stale: Vec<_> = expected.keys().filter(|id| !judged.contains(**id)).collect();
    assert!(wrong.is_empty() && stale.is_empty(), "judged otherwise:\n{}\nnot judged: {stale:?}", wrong.join("\n"));
    let sums: Vec<_> = skipped.into_iter().chain([("judged", judged.len())]).collect();
    assert_eq!(sums, SUMS, "every recorded exchange is judged, or skipped for a reason");
    assert_eq!(SUMS.iter().map(|(_, count)| count).sum::<usize>(), 450, "records in contract.jsonl");
}

const SUMS: [(&str, usize); 8] = [
    ("a list that is not filtered by name", 3),
    ("a measured series, not an exchange", 54),
    ("a method that we do not use on this route", 6),
    ("a name that no instance of ours can have", 15),
    ("a query that we never send", 6),
    ("a refused instance token where we send the global key", 5),
    ("another route", 23),
    ("judged", 338),
];

fn records() -> impl Iterator<Item = Record> {
    RECORDED.lines().map(|line| serde_json::from_str(&uncut(line)).expect("a line of contract.jsonl is a record"))
}

/// The recorder cut long texts, and says so within them. A QR code has no such characters: it
/// counts as one that ends there.
fn uncut(line: &str) -> String {
    let mut parts = line.split("…<");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(" more characters cut>") {
            Some((_, rest)) if whole.rsplit('"').next().is_some_and(|text| text.starts_with("data:image/")) => {
                whole.push_str(rest);
            }
            _ => whole.extend(["…<", part]),
        }
    }
    whole
}

fn place(record: &Record) -> Place {
    if record.kind != "exchange" {
        return Place::Skipped("a measured series, not an exchange");
    }
    let text = |pointer: &str| record.request.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (method, target) = (text("/method"), text("/path"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let segments: Vec<_> = path.trim_matches('/').split('/').collect();
    let (call, ours) = match segments[..] {
        ["instance", "create"] => (Call::Create, "POST"),
        ["instance", "fetchInstances"] => (Call::Fetch, "GET"),
        ["instance", "connectionState", _] => (Call::ConnectionState, "GET"),
        ["instance", "connect", _] => (Call::Connect, "GET"),
        ["webhook", "set", _] => (Call::SetWebhook, "POST"),
        ["webhook", "find", _] => (Call::FindWebhook, "GET"),
        ["rabbitmq", "set", _] => (Call::SetRabbitmq, "POST"),
        ["rabbitmq", "find", _] => (Call::FindRabbitmq, "GET"),
        ["settings", "find", _] => (Call::FindSettings, "GET"),
        ["instance", "delete", _] => (Call::Delete, "DELETE"),
        ["verify-creds"] => (Call::VerifyCreds, "POST"),
        [""] => (Call::Version, "GET"),
        _ => return Place::Elsewhere,
    };
    if method != ours {
        return Place::Skipped("a method that we do not use on this route");
    }
    let (key, refused) = (text("/headers/apikey"), record.response.get("status") == Some(&Value::from(401)));
    let owned = key.contains("TOKEN");
    let call = match call {
        Call::Fetch if query.starts_with("instanceName=") && owned => Call::FetchOwn,
        Call::Fetch if query.starts_with("instanceId=") && !owned => Call::Database,
        Call::Fetch if query.is_empty() && !owned => Call::Roster,
        Call::Fetch if !query.starts_with("instanceName=") => {
            return Place::Skipped("a list that is not filtered by name");
        }
        other => other,
    };
    if !matches!(call, Call::Fetch | Call::FetchOwn | Call::Database) && !query.is_empty() {
        return Place::Skipped("a query that we never send");
    }
    if !matches!(call, Call::Delete | Call::FetchOwn) && refused && owned {
        return Place::Skipped("a refused instance token where we send the global key");
    }
    let sent = match call {
        Call::Create => name_in(record.request.get("body").unwrap_or(&Value::Null)),
        Call::Fetch | Call::FetchOwn => Some(decoded(&query["instanceName=".len()..])),
        Call::VerifyCreds | Call::Version | Call::Roster | Call::Database => None,
        _ => segments.get(2).map(|name| decoded(name)),
    };
    let name = match sent.as_deref().map(str::parse::<InstanceName>) {
        Some(Ok(name)) if !name.as_str().contains("characters cut>") => name,
        // A create whose body was lost, and an answer that names nobody.
        None => "user_1".parse().expect("a name"),
        Some(_) => return Place::Skipped("a name that no instance of ours can have"),
    };
    let read = read(call, record, &name);
    Place::Judged(line(record, call, &name, read))
}

/// The name in a create's body, which is a text where it is recorded as it was sent.
fn name_in(body: &Value) -> Option<String> {
    let parsed = body.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let name = parsed.as_ref().unwrap_or(body).get("instanceName")?;
    name.as_str().map(str::to_owned)
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// What our code makes of the answer: a word for a success.
fn read(call: Call, record: &Record, name: &InstanceName) -> Result<String, ErrorKind> {
    let key = Secret::new("<GLOBAL_API_KEY>");
    let redaction = Redaction::new(Some(name), [&key]);
    let Some(status) = record.response.get("status").and_then(Value::as_u64) else {
        let why = record.client_error.clone().unwrap_or_default();
        return Err(if why.contains("refused") { ErrorKind::Unreachable(why) } else { ErrorKind::NoAnswer(why) });
    };
    let body = match record.response.get("body") {
        Some(Value::String(text)) => text.clone(),
        Some(json) => json.to_string(),
        None => String::new(),
    };
    let status = u16::try_from(status).expect("a status");
    let response = Response { status, retry_after: None, date: None, body: body.as_bytes() };
    match call {
        Call::Create => answer::created(&response, name, &redaction).map(|created| match created.token {
            Some(_) => "created, with its token".to_owned(),
            None => "created".to_owned(),
        }),
        Call::Fetch => answer::listed(&response, name, &redaction).map(|row| match row {
            Some(row) => {
                format!("listed {:?}, {}", row.status, if row.token.is_some() { "with its token" } else { "no token" })
            }
            None => "not listed".to_owned(),
        }),
        Call::ConnectionState => {
            answer::connection_state(&response, name, &redaction).map(|state| format!("{state:?}"))
        }
        Call::Connect => answer::connect(&response, &redaction).map(|connect| match connect {
            Connect::Qr(_) => "a QR code".to_owned(),
            other => format!("{other:?}"),
        }),
        Call::SetWebhook => answer::stored_webhook(&response, &redaction).map(|_| "stored".to_owned()),
        Call::FindWebhook => answer::found_webhook(&response, &redaction).map(|webhook| match webhook {
            Some(webhook) => format!("{} events, {} headers", webhook.events.len(), webhook.headers.len()),
            None => "no webhook".to_owned(),
        }),
        Call::SetRabbitmq => answer::stored_rabbitmq(&response, &redaction).map(|_| "stored".to_owned()),
        Call::FindRabbitmq => answer::found_rabbitmq(&response, &redaction).map(|found| match found {
            Some(found) => format!("{} events", found.events.len()),
            None => "nothing published".to_owned(),
        }),
        Call::FetchOwn => answer::own(&response, name, &redaction).map(|own| match own {
            Own::Loaded(_) => "loaded".to_owned(),
            other => format!("{other:?}"),
        }),
        Call::Roster => answer::roster(&response, &redaction).map(|roster| format!("{} instances", roster.0.len())),
        Call::FindSettings => answer::has_settings(&response, &redaction)
            .map(|there| if there { "settings" } else { "no settings" }.to_owned()),
        Call::Version => answer::version(&response, &redaction).map(|version| version.to_string()),
        Call::Database => answer::database(&response, &redaction).map(|()| "its database answers".to_owned()),
        Call::Delete | Call::Discard | Call::SetSettings | Call::VerifyCreds => {
            answer::done(&response, &redaction).map(|()| "done".to_owned())
        }
    }
}

fn line(record: &Record, call: Call, name: &InstanceName, read: Result<String, ErrorKind>) -> String {
    let status = record.response.get("status").and_then(Value::as_u64);
    let status = status.map_or_else(|| "---".to_owned(), |status| status.to_string());
    let judged = match read {
        Ok(what) => format!("ok: {what}"),
        Err(kind) => {
            let error = ApiError { call, kind };
            format!("{:?} | host {:?}", classify(&error, name), host_signal(&error, name))
        }
    };
    format!("{} | {call:?} | {status} | {judged}", record.id)
}

#[test]
fn no_text_of_a_recorded_failure_shows_a_line_of_the_servers_source() {
    let mut seen = 0;
    for record in records().filter(|record| record.kind == "exchange") {
        let body = record.response.get("body").map(Value::to_string).unwrap_or_default();
        // Where the record itself was cut inside the dump, its end is not what the server sent.
        if body.contains("characters cut>") {
            continue;
        }
        let response = Response { status: 500, retry_after: None, date: None, body: body.as_bytes() };
        if let Err(ErrorKind::Answer(answer)) = answer::done(&response, &Redaction::new(None, [])) {
            let text = answer.message;
            assert!(!text.contains("frame cut") && !text.contains("<server"), "{}: {text}", record.id);
            seen += usize::from(body.contains("<server"));
        }
    }
    assert!(seen >= 5, "dumps in contract.jsonl: {seen}");
}

/// Where 2.3.7 answers otherwise than the recorded version, and what stands before its successors.
/// From their source.
#[test]
fn the_answers_of_newer_versions_are_read_too() {
    let name: InstanceName = "user_1".parse().expect("a name");
    let redaction = Redaction::new(Some(&name), []);
    let respond =
        |status, body: &'static str| Response { status, retry_after: None, date: None, body: body.as_bytes() };

    // Its state may be one that 2.3.6 does not have.
    let created = respond(
        201,
        r#"{"instance":{"instanceName":"user_1","instanceId":"i","integration":"WHATSAPP-BAILEYS","status":"unknown"},"hash":"t"}"#,
    );
    assert_eq!(answer::created(&created, &name, &redaction).map(|created| created.token), Ok(Some(Secret::new("t"))));
    // A connect loads nothing.
    let connected = respond(200, r#"{"error":true,"message":"[object Object]"}"#);
    assert!(matches!(answer::connect(&connected, &redaction), Err(ErrorKind::Answer(_))));
    // The licence gate of 2.4.0 stands before every route but the welcome.
    let gate = respond(
        503,
        r#"{"error":"service not activated","code":"LICENSE_REQUIRED","register_url":"http://x/manager/login","instance_id":"i",
            "docs_url":"http://x","message":"This Evolution API instance is not activated. Open http://x/manager/login to activate"}"#,
    );
    for call in [Call::Create, Call::Fetch, Call::Roster, Call::SetWebhook, Call::FindWebhook, Call::VerifyCreds] {
        let kind = answer::done(&gate, &redaction).expect_err("a refusal");
        let error = ApiError { call, kind };
        let Outcome::Defer { failure, .. } = classify::outcome(&error, &name) else { panic!("{error} is counted") };

        assert_eq!((failure.host, failure.mend), (HostSignal::Failing, Mend::Person), "{error}");
        assert!(failure.message.contains("LICENSE_REQUIRED") && failure.message.contains("a person must mend it"));
    }
    let welcome = respond(200, r#"{"status":200,"message":"Welcome","version":"2.4.0-rc2"}"#);
    assert_eq!(answer::version(&welcome, &redaction).map(|version| version.support()), Ok(Support::Newer));
}

#[test]
fn the_readme_names_the_versions_that_were_tried() {
    assert!(include_str!("../../README.md").contains(TRIED), "README.md: {TRIED}");
}
