//! What the steps are given and what they leave behind, in the product's words. Between runs it is
//! the resource's memory, under the keys below; the public rows are written from there.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    ids::Subject,
    outcome::{Memory, StepInput},
    secret::Secret,
    whatsapp::{
        evolution::{Digest, StoredWebhook, Webhook},
        names::{InstanceName, InstanceStatus},
    },
};

/// The keys of an instance's memory. The projection (SQL) and the import read and write the same.
pub(super) mod key {
    pub const TOKEN: &str = "token";
    pub const STATUS: &str = "status";
    pub const QR_CODE: &str = "qr_code";
    pub const WEBHOOK_URL: &str = "webhook_url";
    /// The digest of the webhook that was verified last.
    pub const WEBHOOK: &str = "webhook";
    /// How the API's webhook was found to differ from that one; null once it is mended. SQL
    /// announces it.
    pub const DRIFT: &str = "webhook_drift";
    /// Whether the instance was found to be gone from the API, and is not verified since. SQL
    /// announces it.
    pub const GONE: &str = "gone";
    pub const PAIRED: &str = "paired";
    pub const PHONE_NUMBER: &str = "phone_number";
    pub const REASON: &str = "reason";
    pub const IMPORTED: &str = "imported";
    pub const DISCARDS: &str = "discards";
    pub const NOT_LOADED: &str = "looks_not_loaded";
    pub const WITHOUT_ROW: &str = "creates_without_row";
}

/// What is counted between the attempts, since none of it counts as a failure. Each goes back to
/// nothing when its trouble is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// How often what a failed create left behind was deleted at the API.
    pub discards: u32,
    /// How many looks in a row found the instance in the API's database and not in its memory.
    pub not_loaded: u32,
    /// How many creates in a row failed because the API could not insert their row.
    pub without_row: u32,
}

impl Counts {
    fn of(memory: &Memory) -> Self {
        let count = |key| memory.get(key).and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok());
        Self {
            discards: count(key::DISCARDS).unwrap_or_default(),
            not_loaded: count(key::NOT_LOADED).unwrap_or_default(),
            without_row: count(key::WITHOUT_ROW).unwrap_or_default(),
        }
    }

    /// What the memory must keep where these were `before`.
    pub(super) fn since(self, before: Self) -> Memory {
        let mut memory = Memory::default();
        for (key, before, now) in [
            (key::DISCARDS, before.discards, self.discards),
            (key::NOT_LOADED, before.not_loaded, self.not_loaded),
            (key::WITHOUT_ROW, before.without_row, self.without_row),
        ] {
            if before != now {
                memory = memory.with(key, now);
            }
        }
        memory
    }
}

/// How the instance stands, with its code to scan and the reason why it is not connected: those of
/// an earlier status are forgotten. What is connected is paired.
pub(super) fn standing(status: InstanceStatus, code: Option<&Secret>, reason: Option<String>) -> Memory {
    let memory = Memory::default()
        .with(key::STATUS, status.as_str())
        .with(key::QR_CODE, code.map(Secret::expose))
        .with(key::REASON, reason);
    if status == InstanceStatus::Connected { memory.with(key::PAIRED, true) } else { memory }
}

/// What a step is given to work with. The instance is the ledger's, never the public row's.
#[derive(Debug, Clone)]
pub struct Given {
    pub subject: Subject,
    pub instance: InstanceName,
    pub token: Secret,
    /// Whether a create was ever claimed for this instance before this attempt: then read back
    /// before creating.
    pub created_before: bool,
    /// Whether the instance was ever paired with a phone: decides what `close` means.
    pub paired_before: bool,
    /// Whether it waits to be scanned, as far as is known: its code is shown until `verify` knows
    /// better.
    pub connecting_before: bool,
    /// Whether the instance was taken over from an existing set-up: then its name is the subject's
    /// own, whatever it is.
    pub imported: bool,
    /// Whether an earlier run has found the instance at the API, or has made it.
    pub known_before: bool,
    /// Whether it is known to be gone.
    pub gone_before: bool,
    /// The webhook that was verified last, where the instance has it as far as is known.
    pub webhook_before: Option<Digest>,
    /// Whether that webhook is known to have been changed at the API.
    pub drifted_before: bool,
    pub counts: Counts,
}

impl Given {
    /// The engine's input, in the product's words.
    pub fn of(input: &StepInput) -> Self {
        let flag = |key| input.memory.get(key).and_then(Value::as_bool).unwrap_or(false);
        let token = input.memory.get(key::TOKEN).and_then(Value::as_str);
        let status = input.memory.get(key::STATUS).and_then(|status| InstanceStatus::deserialize(status).ok());
        Self {
            subject: input.subject.clone(),
            instance: InstanceName::from(input.resource.clone()),
            token: token.map_or_else(|| input.secret.clone(), Secret::new),
            created_before: input.exclusive_before,
            paired_before: flag(key::PAIRED),
            connecting_before: status == Some(InstanceStatus::Connecting),
            imported: flag(key::IMPORTED),
            known_before: matches!(
                status,
                Some(InstanceStatus::Connecting | InstanceStatus::Connected | InstanceStatus::Disconnected)
            ),
            gone_before: flag(key::GONE),
            webhook_before: input.memory.get(key::WEBHOOK).and_then(|digest| Digest::deserialize(digest).ok()),
            drifted_before: input.memory.get(key::DRIFT).is_some_and(|drift| !drift.is_null()),
            counts: Counts::of(&input.memory),
        }
    }

    /// What is kept where the API's database has the instance no longer. What we have deleted
    /// ourselves, or never knew, is not news.
    pub(super) fn finding_it_gone(&self) -> Memory {
        if !self.created_before || !self.known_before || self.gone_before || self.counts.discards > 0 {
            return Memory::default();
        }
        let mut memory = Memory::default().with(key::GONE, true);
        memory.merge(&self.forgetting_the_webhook());
        memory
    }

    /// An instance that is made again has no webhook.
    pub(super) fn forgetting_the_webhook(&self) -> Memory {
        let memory = Memory::default();
        if self.webhook_before.is_some() { memory.with(key::WEBHOOK, Value::Null) } else { memory }
    }

    /// What is kept where the API's webhook is neither the one that was verified last nor the one
    /// that is asked now: an attempt of ours may have set the latter.
    pub(super) fn finding_drift(&self, stored: Option<&StoredWebhook>, asked: &Webhook) -> Memory {
        let memory = Memory::default();
        let Some(before) = &self.webhook_before else { return memory };
        let Some(now) = stored.map(StoredWebhook::digest) else {
            return memory.with(key::DRIFT, json!({ "found": "missing" }));
        };
        match before.differences(&now) {
            fields if fields.is_empty() || now == asked.digest() => memory,
            fields => memory.with(key::DRIFT, json!({ "found": "changed", "fields": fields })),
        }
    }

    /// What is kept where this webhook was set: what was verified before no longer holds.
    pub(super) fn setting(&self, webhook: &Webhook) -> Memory {
        if self.webhook_before.as_ref() == Some(&webhook.digest()) {
            return Memory::default();
        }
        self.forgetting_the_webhook()
    }

    /// What is kept where this webhook was verified.
    pub(super) fn verifying(&self, webhook: &Webhook) -> Memory {
        let mut memory = Memory::default().with(key::WEBHOOK, json!(webhook.digest()));
        if self.drifted_before {
            memory = memory.with(key::DRIFT, Value::Null);
        }
        if self.gone_before {
            memory = memory.with(key::GONE, Value::Null);
        }
        memory
    }
}
