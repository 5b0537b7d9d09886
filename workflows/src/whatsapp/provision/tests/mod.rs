mod configure;
mod create;
mod exclusive;
mod given;
mod script;
mod settings;
mod verify;

use serde::Deserialize;

use crate::{
    outcome::{Class, Memory, Outcome},
    secret::Secret,
    whatsapp::{names::InstanceStatus, provision::Facts},
};

/// The parts of a success; anything else fails the test.
fn success(outcome: Outcome) -> (serde_json::Value, Facts, Option<String>) {
    match outcome {
        Outcome::Success { output, memory, note } => (output, remembered(&memory), note),
        other => panic!("no success: {other:?}"),
    }
}

/// What is kept of the instance, under the keys that the public rows are written from.
fn remembered(memory: &Memory) -> Facts {
    let kept = |key| memory.get(key).filter(|value| !value.is_null());
    let text = |key| kept(key).map(|value| value.as_str().expect("a text").to_owned());
    let status = kept("status").map(|status| InstanceStatus::deserialize(status).expect("a status"));
    assert_ne!(status, Some(InstanceStatus::Error));
    let paired = memory.get("paired").and_then(serde_json::Value::as_bool);
    assert!(paired == Some(true) || status != Some(InstanceStatus::Connected), "a connected instance is paired");
    assert!(status.is_none() || memory.get("qr_code").is_some(), "an earlier status' code is forgotten");
    Facts {
        token: text("token").map(Secret::new),
        status,
        qr_code: text("qr_code").map(Secret::new),
        reason: text("reason"),
        webhook_url: text("webhook_url"),
        paired,
        phone_number: memory.get("phone_number").map(|_| text("phone_number")),
    }
}

/// The kind of any other end and its class, to compare in one go.
fn end(outcome: &Outcome) -> (&'static str, Class) {
    match outcome {
        Outcome::Success { .. } => panic!("a success: {outcome:?}"),
        Outcome::Retry(failure) => ("retry", failure.class),
        Outcome::Defer { failure, .. } => ("defer", failure.class),
        Outcome::Permanent(failure) => ("permanent", failure.class),
        Outcome::SendBack { to, failure } if to.as_str() == super::CREATE_INSTANCE => ("back to create", failure.class),
        Outcome::SendBack { failure, .. } => ("back to configure", failure.class),
    }
}

/// Neither what is kept nor what is shown may hold the token or the signing key.
fn assert_no_secret(outcome: &Outcome) {
    let mut seen = format!("{outcome:?}");
    if let Outcome::Success { output, note, memory } = outcome {
        seen.push_str(&format!("{output} {note:?} {:?}", memory.get("webhook_url")));
    }
    for secret in [script::TOKEN, "their-token-1", "signing-key-1"] {
        assert!(!seen.contains(secret), "{secret} is shown in {seen}");
    }
}
