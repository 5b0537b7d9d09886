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

pub use definition::{PROVISION_INSTANCE, definition};
pub use given::{Counts, Given};
pub use host::Host;
pub use settings::{Fault, QrAtSignup, Settings, Timings, WebhookOptions};
pub use template::WebhookTemplate;

use self::{
    configure::configure_webhooks,
    create::create_instance,
    mend::wait_for_load,
    presence::{Look, look_twice},
    verify::verify,
};
use crate::{
    calls::ExclusiveCalls,
    definition::Definition,
    ids::StepName,
    outcome::{Class, Failure, HostSignal, Memory, Outcome, StepInput},
    whatsapp::evolution::{
        ApiError, Evolution, ExclusiveApi, ExclusiveEvolution,
        classify::{self, Verdict, classify},
    },
    workflow::{Boxed, Workflow},
};

/// The names of the steps.
pub const CREATE_INSTANCE: &str = "create-instance";
pub const CONFIGURE_WEBHOOKS: &str = "configure-webhooks";
pub const VERIFY: &str = "verify";

/// What the parts of one attempt share.
struct Attempt<'a, A> {
    api: &'a A,
    given: &'a Given,
    settings: &'a Settings,
    /// As far as this attempt has counted on.
    counts: Counts,
    /// What is kept of what it found, whatever its end.
    found: Memory,
}

/// One whose step may create and delete.
type Exclusive<'a, E> = Attempt<'a, ExclusiveApi<'a, E>>;

impl<'a, A> Attempt<'a, A> {
    fn new(api: &'a A, given: &'a Given, settings: &'a Settings) -> Self {
        Self { api, given, settings, counts: given.counts, found: Memory::default() }
    }

    /// The same end, with what was found and counted.
    fn end(&self, outcome: Outcome) -> Outcome {
        outcome.remembering(&self.found).remembering(&self.counts.since(self.given.counts))
    }
}

/// A failure for which the API's host is not to blame.
fn healthy(class: Class, what: impl Into<String>) -> Failure {
    Failure::new(class, what).with_host(HostSignal::Healthy)
}

/// The API answers, and says that the instance is being loaded or deleted.
fn loading(what: impl Into<String>) -> Outcome {
    Outcome::Defer { failure: healthy(Class::Loading, what), after: None }
}

/// What that step did is gone, or not what was asked.
fn send_back(to: &str, why: String, status: Option<u16>) -> Outcome {
    let failure = healthy(Class::EffectGone, why).with_status(status);
    Outcome::SendBack { to: to.parse().expect("the step names of this module are valid"), failure }
}

/// The same end, with this on the attempt.
fn said(mut outcome: Outcome, text: &str) -> Outcome {
    match &mut outcome {
        Outcome::Success { note: Some(note), .. } => *note = format!("{note}; {text}"),
        Outcome::Success { note, .. } => *note = Some(text.to_owned()),
        Outcome::Retry(failure)
        | Outcome::Permanent(failure)
        | Outcome::Defer { failure, .. }
        | Outcome::SendBack { failure, .. } => *failure = failure.clone().and(text),
    }
    outcome
}

/// The API has the instance in its database and not in its memory. Once a load would have ended,
/// only the step that creates may clear that away.
fn not_loaded<A>(attempt: &mut Attempt<'_, A>) -> Outcome {
    let (too_long, outcome) = wait_for_load(attempt);
    let Given { instance: name, paired_before, .. } = attempt.given;
    if too_long && !paired_before {
        let why = format!("instance \"{name}\" is in the API's database and was never loaded");
        return send_back(CREATE_INSTANCE, why, None);
    }
    outcome
}

/// What a later step does where the API does not find the instance. Only the step that creates may
/// make it again, and clear away what is in its way.
async fn missing(attempt: &mut Attempt<'_, impl Evolution>) -> Outcome {
    let Attempt { api, given, settings, .. } = *attempt;
    let name = &given.instance;
    match look_twice(api, given, &settings.timings).await {
        Ok(Look::Absent) => {
            let why = format!(
                "the API and its database know no instance \"{name}\": it was deleted or lost, and is made again"
            );
            send_back(CREATE_INSTANCE, why, Some(404)).remembering(&given.finding_it_gone())
        }
        Ok(Look::Phantom) => {
            let why = format!("instance \"{name}\" is in the API's memory and not in its database: it is made again");
            send_back(CREATE_INSTANCE, why, None)
        }
        Ok(Look::NotLoaded) => not_loaded(attempt),
        Ok(Look::There(_)) => {
            loading(format!("the API did not find instance \"{name}\", and then did: it is being loaded"))
        }
        Err(error) => classify::outcome(&error, name),
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

/// Runs a step that neither creates nor deletes. Its input is not looked at: all that is needed is
/// known of the resource and the settings.
async fn later_step(step: &str, api: &impl Evolution, given: &Given, settings: &Settings) -> Outcome {
    let (webhook, asked) = match settings.webhook.expand(given) {
        Ok(expanded) => expanded,
        Err(fault) => return Outcome::Permanent(Failure::new(Class::Rejected, fault.to_string())),
    };
    let mut attempt = Attempt::new(api, given, settings);
    let ended = match step {
        VERIFY => verify(&mut attempt, &webhook, &asked).await,
        _ => configure_webhooks(&mut attempt, &webhook, &asked).await,
    };
    let outcome = match ended {
        Ok(outcome) => outcome,
        Err(error) => failed(&mut attempt, error).await,
    };
    attempt.end(outcome)
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
        later @ (CONFIGURE_WEBHOOKS | VERIFY) => later_step(later, &**api, given, settings).await,
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
