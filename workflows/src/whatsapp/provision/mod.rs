//! The workflow `provision-instance`: every user gets a ready instance. Three steps over a trait
//! for the Evolution API, each of which does its effect once however often it is run.
//!
//! `settings` and `template` say what is wanted; `create`, `configure` and `verify` are the steps;
//! `presence` answers whether an instance is there, `mend` clears away what failed creates leave
//! behind, `host` is what a process knows of the API beyond one attempt. The instance's token never
//! stands in an input, an output, a note or a failure.

mod configure;
mod create;
mod definition;
mod given;
mod host;
mod mend;
mod placeholder;
mod presence;
mod settings;
mod template;
mod verify;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use configure::configure_webhooks;
pub use create::create_instance;
pub use definition::{PROVISION_INSTANCE, definition};
pub use given::{Counts, Facts, Given};
pub use host::Host;
pub use settings::{Fault, Options, QrAtSignup, Settings, Timings, WebhookOptions};
pub use template::{Asked, WebhookTemplate};
pub use verify::verify;

use self::{
    mend::Waiting,
    presence::{Look, look_twice},
};
use crate::{
    calls::ExclusiveCalls,
    definition::Definition,
    ids::StepName,
    outcome::{Class, Failure, HostSignal, Outcome, StepInput},
    whatsapp::{
        evolution::{
            ApiError, Evolution, ExclusiveApi, ExclusiveEvolution,
            classify::{self, Verdict, classify},
        },
        names::{InstanceName, InstanceStatus},
    },
    workflow::{Boxed, Workflow},
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

/// What the parts of one attempt share.
struct Attempt<'a, A> {
    api: &'a A,
    given: &'a Given,
    settings: &'a Settings,
    /// As far as this attempt has counted on.
    counts: Counts,
}

/// One whose step may create and delete.
type Exclusive<'a, E> = Attempt<'a, ExclusiveApi<'a, E>>;

impl<'a, A> Attempt<'a, A> {
    fn new(api: &'a A, given: &'a Given, settings: &'a Settings) -> Self {
        Self { api, given, settings, counts: given.counts }
    }

    /// The same end, with what was counted.
    fn end(&self, outcome: Outcome) -> Outcome {
        outcome.remembering(&self.counts.since(self.given.counts))
    }
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

/// Only the step that creates may make an instance again, and clear away what is in its way.
fn again(text: String, status: Option<u16>) -> Outcome {
    let failure = Failure::new(Class::EffectGone, text).with_status(status).with_host(HostSignal::Healthy);
    send_back(CREATE_INSTANCE, failure)
}

/// The API has the instance in its database and not in its memory. Once a load would have ended,
/// only the step that creates may clear that away.
fn not_loaded<A>(attempt: &mut Attempt<'_, A>) -> Outcome {
    let given = attempt.given;
    match mend::wait_for_load(attempt) {
        (Waiting::ForTooLong, _) if !given.paired_before => {
            again(format!("instance \"{}\" is in the API's database and was never loaded", given.instance), None)
        }
        (_, outcome) => outcome,
    }
}

/// What a later step does where the API does not find the instance.
async fn missing(attempt: &mut Attempt<'_, impl Evolution>) -> Outcome {
    let Attempt { api, given, settings, .. } = *attempt;
    let name = &given.instance;
    match look_twice(api, given, &settings.timings).await {
        Look::Absent => gone(name).remembering(&given.finding_it_gone()),
        Look::Phantom => {
            again(format!("instance \"{name}\" is in the API's memory and not in its database: it is made again"), None)
        }
        Look::NotLoaded => not_loaded(attempt),
        Look::There(_) => {
            loading(format!("the API did not find instance \"{name}\", and then did: it is being loaded"))
        }
        Look::Unclear(error) => classify::outcome(&error, name),
    }
}

/// What a failed call of a later step means, beyond the table.
async fn failed(attempt: &mut Attempt<'_, impl Evolution>, error: ApiError) -> Outcome {
    let name = &attempt.given.instance;
    match classify(&error, name) {
        Verdict::Absent => missing(attempt).await,
        Verdict::Loading => not_loaded(attempt),
        // The row that the instance's own must be written beside is not there.
        _ if classify::is_without_row(&error, name) => missing(attempt).await,
        _ => classify::outcome(&error, name),
    }
}

fn gone(name: &InstanceName) -> Outcome {
    let text =
        format!("the API and its database know no instance \"{name}\": it was deleted or lost, and is made again");
    again(text, Some(404))
}

/// Whether an error burns no attempt: then there is no point in asking on within this one.
fn is_uncounted(error: &ApiError, name: &InstanceName) -> bool {
    matches!(classify::outcome(error, name), Outcome::Defer { .. })
}

/// Runs the step of this name. `None`: this build has no code for it.
pub async fn run(
    step: &StepName,
    api: &ExclusiveApi<'_, impl ExclusiveEvolution>,
    given: &Given,
    settings: &Settings,
    host: &Host,
) -> Option<Outcome> {
    let outcome = match step.as_str() {
        CREATE_INSTANCE => create_instance(api, given, settings, host).await,
        CONFIGURE_WEBHOOKS => configure_webhooks(&**api, given, settings).await,
        VERIFY => verify(&**api, given, settings).await,
        _ => return None,
    };
    host.heard(api.elapsed(), &outcome);
    Some(host.say(outcome))
}

/// The workflow as the engine runs it, over any implementation of the API.
pub struct Provision<E> {
    api: E,
    settings: Settings,
    definition: Definition,
    host: Host,
}

impl<E: ExclusiveEvolution + Send + Sync> Provision<E> {
    /// `definition` comes from `definition`.
    pub fn new(api: E, settings: Settings, definition: Definition) -> Self {
        Self { api, settings, definition, host: Host::default() }
    }
}

impl<E: ExclusiveEvolution + Send + Sync> Workflow for Provision<E> {
    fn definitions(&self) -> Vec<Definition> {
        vec![self.definition.clone()]
    }

    fn run<'a>(
        &'a self,
        step: &'a StepName,
        input: &'a StepInput,
        calls: &'a ExclusiveCalls<'a>,
    ) -> Boxed<'a, Option<Outcome>> {
        Box::pin(async move {
            let api = ExclusiveApi::new(&self.api, calls);
            run(step, &api, &Given::of(input), &self.settings, &self.host).await
        })
    }
}
