mod configure;
mod create;
mod guarded;
mod script;
mod settings;
mod verify;

use crate::outcome::{Class, Facts, Outcome};

/// The parts of a success; anything else fails the test.
fn success(outcome: Outcome) -> (serde_json::Value, Facts, Option<String>) {
    match outcome {
        Outcome::Success { output, facts, note } => (output, facts, note),
        other => panic!("no success: {other:?}"),
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
    if let Outcome::Success { output, note, facts } = outcome {
        seen.push_str(&format!("{output} {note:?} {:?}", facts.webhook_url));
    }
    for secret in [script::TOKEN, "their-token-1", "signing-key-1"] {
        assert!(!seen.contains(secret), "{secret} is shown in {seen}");
    }
}
