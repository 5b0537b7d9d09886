//! The workflow `provision-instance` over a scripted API: which calls a step makes, in which order,
//! and what it makes of their answers.

#![allow(clippy::unwrap_used)]

mod configure;
mod create;
mod exclusive;
mod given;
mod host;
mod mend;
mod scenes;
mod script;
mod settings;
mod verify;

use std::time::Duration;

use serde_json::{Value, json};
use workflows::{
    calls::{ExclusiveCalls, Permission},
    outcome::{Class, Failure, HostSignal, Memory, Outcome, StepInput},
    secret::Secret,
    whatsapp::{
        evolution::{
            AmqpMode, ApiError, ApiState, Call, Connect, ErrorKind, Evolution, ExclusiveApi, Kind, Listed, Own,
            Rabbitmq, Roster, Shape, StoredWebhook, Webhook, classify::Pairing,
        },
        provision::{
            self, CONFIGURE_WEBHOOKS, CREATE_INSTANCE, Counts, Given, Host, QrAtSignup, Settings, Timings, VERIFY,
            WebhookOptions, WebhookTemplate,
        },
    },
};

use crate::{scenes::*, script::*};

/// How an attempt ended.
pub struct Ended(Outcome);

impl Ended {
    /// The kind of an end that is no success and its class, to compare in one go.
    pub fn kind(&self) -> (&'static str, Class) {
        let kind = match &self.0 {
            Outcome::Success { .. } => panic!("a success: {:?}", self.0),
            Outcome::Retry(_) => "retry",
            Outcome::Defer { .. } => "defer",
            Outcome::Permanent(_) => "permanent",
            Outcome::SendBack { to, .. } if to.as_str() == CREATE_INSTANCE => "back to create",
            Outcome::SendBack { .. } => "back to configure",
        };
        (kind, self.failure().class)
    }

    pub fn failure(&self) -> &Failure {
        self.0.failure().unwrap()
    }

    /// The output, the memory and the note of a success; anything else fails the test.
    pub fn success(self) -> (Value, Value, Option<String>) {
        match self.0 {
            Outcome::Success { output, memory, note } => (output, memory.as_json(), note),
            other => panic!("no success: {other:?}"),
        }
    }

    /// What the memory keeps of it, whatever the end.
    pub fn memory(&self) -> &Memory {
        match &self.0 {
            Outcome::Success { memory, .. } => memory,
            _ => &self.failure().memory,
        }
    }

    /// Neither what is kept nor what is shown may hold the token or the signing key.
    pub fn assert_no_secret(&self) {
        let mut seen = format!("{:?}", self.0);
        if let Outcome::Success { output, note, memory } = &self.0 {
            seen.push_str(&format!("{output} {note:?} {:?}", memory.get("webhook_url")));
        }
        for secret in [TOKEN, THEIRS, "signing-key-1"] {
            assert!(!seen.contains(secret), "{secret} is shown in {seen}");
        }
    }

    /// What the public rows take for granted of what is written into them.
    pub fn assert_fit_for_the_row(&self) {
        let kept = self.memory().as_json();
        let status = kept["status"].as_str();
        let known = [None, Some("creating"), Some("disconnected"), Some("connecting"), Some("connected")];
        assert!(known.contains(&status), "{status:?}");
        assert!(kept["paired"] == true || status != Some("connected"), "a connected instance is paired");
        assert!(status.is_none() || kept.get("qr_code").is_some(), "an earlier status' code is forgotten");
    }
}

pub fn play(step: &str, given: &Given, settings: &Settings, calls: Calls) -> Ended {
    Script::new(calls).play(step, given, settings)
}

pub fn create(given: &Given, calls: Calls) -> Ended {
    Script::new(calls).create(given)
}
