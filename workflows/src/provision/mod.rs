//! The workflow `provision-instance`: every user gets a ready instance. Three steps over a trait for the Evolution API, each
//! of which does its effect once however often it is run.
//!
//! `settings` and `template` say what is wanted; `create`, `configure` and `verify` are the steps; `presence` answers
//! whether an instance is there. The instance's token never stands in an input, an output, a note or a failure.

mod configure;
mod create;
mod definition;
mod placeholder;
mod presence;
mod settings;
mod template;
mod verify;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use configure::configure_webhooks;
pub use create::create_instance;
pub use definition::{PROVISION_INSTANCE, definition};
pub use settings::{Fault, Options, QrAtSignup, Settings, Timings, WebhookOptions};
pub use template::{Asked, WebhookTemplate};
pub use verify::verify;

use crate::{
    evolution::{ApiError, Evolution, classify},
    ids::{InstanceName, StepName},
    outcome::{Class, Failure, Given, HostSignal, InstanceStatus, Outcome},
};

/// The names of the steps.
pub const CREATE_INSTANCE: &str = "create-instance";
pub const CONFIGURE_WEBHOOKS: &str = "configure-webhooks";
pub const VERIFY: &str = "verify";

/// What `create-instance` leaves for `configure-webhooks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub instance: InstanceName,
    pub how: How,
    /// The API's own id of it.
    pub instance_id: Option<String>,
}

/// How the instance came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// This attempt's create made it.
    Created,
    /// It was there with our token: an earlier create of ours made it.
    Found,
    /// It was there with another token, which we keep.
    Adopted,
}

/// What `configure-webhooks` leaves for `verify`: what was asked, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    pub instance: InstanceName,
    pub webhook: Asked,
}

/// What `verify` leaves as the run's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub instance: InstanceName,
    pub status: InstanceStatus,
    pub webhook: Asked,
    pub qr: Qr,
}

/// What became of the QR code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Qr {
    /// It was fetched and stands in the instance row.
    Fetched,
    /// Not wanted, or nothing to scan: the instance is or was paired.
    NotNeeded,
    /// WhatsApp gave none in time: the app asks again when the user looks.
    Missing,
}

fn output(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("a struct of texts and enums is JSON")
}

fn send_back(to: &str, failure: Failure) -> Outcome {
    Outcome::SendBack { to: to.parse().expect("the step names of this module are valid"), failure }
}

/// The API answers, and says that the instance is being loaded or deleted.
fn loading(what: impl Into<String>) -> Outcome {
    let failure = Failure::new(Class::Loading, what).with_host(HostSignal::Healthy);
    Outcome::Defer { failure, after: None }
}

/// The API has the instance in memory and not in its database. Counted, so that a person hears of it.
fn phantom(name: &InstanceName) -> Outcome {
    let text = format!(
        "instance {name:?} is in the API's memory and not in its database, where a create that failed halfway left it: \
         restart the API, or delete the instance there, and revive the run"
    );
    Outcome::Retry(Failure::new(Class::Loading, text).with_host(HostSignal::Healthy))
}

fn gone(name: &InstanceName) -> Outcome {
    let failure = Failure::new(
        Class::EffectGone,
        format!("the API knows no instance {name:?}, asked twice: it was deleted or lost, and is made again"),
    )
    .with_status(Some(404))
    .with_host(HostSignal::Healthy);
    send_back(CREATE_INSTANCE, failure)
}

/// Whether an error burns no attempt: then there is no point in asking on within this one.
fn is_uncounted(error: &ApiError, name: &InstanceName) -> bool {
    matches!(classify::outcome(error, name), Outcome::Defer { .. })
}

/// Runs the step of this name. `None`: this build has no code for it.
pub async fn run(step: &StepName, api: &impl Evolution, given: &Given, settings: &Settings) -> Option<Outcome> {
    Some(match step.as_str() {
        CREATE_INSTANCE => create_instance(api, given, settings).await,
        CONFIGURE_WEBHOOKS => configure_webhooks(api, given, settings).await,
        VERIFY => verify(api, given, settings).await,
        _ => return None,
    })
}

/// The steps by name, so that the engine's registry and this module cannot drift apart.
pub fn step_names() -> [StepName; 3] {
    [CREATE_INSTANCE, CONFIGURE_WEBHOOKS, VERIFY].map(|name| name.parse().expect("the step names are valid"))
}
