//! The product: `provision-instance` over the Evolution API, as any program adds it to its
//! workflows.
//!
//! `api`, `webhook` and `retries` are what people set; `reports` takes in the events that the API
//! itself publishes. The engine knows none of this.

mod api;
mod reports;
mod retries;
mod webhook;

use clap::Args;
pub use reports::{AmqpModeOptions, ReportOptions, Reports};
use workflows::{
    calls::ExclusiveCalls,
    definition::Definition,
    ids::StepName,
    outcome::{Outcome, StepInput},
    whatsapp::{
        evolution::{AmqpMode, HostProbe},
        provision::Provision,
    },
    workflow::{Boxed, Catalog, Workflow},
};

use crate::{Program, config::Faults, supabase::Finder, telemetry::Vitals};

/// What a relay is told of the product.
#[derive(Args)]
pub struct DefinitionOptions {
    #[command(flatten)]
    host: api::HostOptions,
    #[command(flatten)]
    retries: retries::RetryOptions,
}

/// What a worker is told of it.
#[derive(Args)]
#[command(next_help_heading = "Evolution API")]
pub struct WorkflowOptions {
    #[command(flatten)]
    host: api::HostOptions,
    /// The API's AUTHENTICATION_API_KEY. Better given in the environment: the flag shows in the
    /// list of processes
    #[arg(long, env = "EVOLUTION_API_KEY", value_name = "KEY")]
    evolution_api_key: Option<String>,
    #[command(flatten)]
    webhook: webhook::WebhookOptions,
    #[command(flatten)]
    amqp_mode: AmqpModeOptions,
    #[command(flatten)]
    retries: retries::RetryOptions,
}

impl DefinitionOptions {
    /// Adds the workflow as far as relays know it: without the key to the API, and without the code
    /// of its steps.
    pub fn add_to(&self, catalog: Catalog, faults: &mut Faults) -> Catalog {
        let host = self.host.host(faults);
        catalog.with(DefinitionOnly(self.retries.definition(host.as_deref().unwrap_or_default(), faults)))
    }
}

impl WorkflowOptions {
    /// How the API publishes, for who follows it in the same process. None: `add_to` leaves the
    /// fault.
    pub fn amqp_mode(&self) -> Option<AmqpMode> {
        self.amqp_mode.read(&mut Faults::default())
    }

    /// Adds the workflow and the probe of its API. Where it cannot run, that left a fault, and only
    /// its steps are known.
    pub fn add_to(&self, catalog: Catalog, vitals: &Vitals, faults: &mut Faults) -> Catalog {
        let client = self.host.client(self.evolution_api_key.as_deref(), faults);
        let amqp_mode = self.amqp_mode.read(faults);
        let settings = self.webhook.read(amqp_mode, faults);
        let host = client.as_ref().map(|client| client.host().to_owned()).unwrap_or_default();
        let definition = self.retries.definition(&host, faults);
        let (Some(client), Some(settings)) = (client, settings) else {
            return catalog.with(DefinitionOnly(definition));
        };
        let client = client.measured_by(vitals.metrics.clone());
        let probe = HostProbe::new(host, client.clone());
        catalog.with(Provision::new(client, settings, definition)).probing(probe)
    }
}

/// Has the program's relays find sign-ups that got lost.
pub fn with_duties(program: Program) -> Program {
    program.with_duty(Finder::of_recent()).with_duty(Finder::of_all())
}

/// A workflow for processes that run none of its steps.
struct DefinitionOnly(Definition);

impl Workflow for DefinitionOnly {
    fn definitions(&self) -> Vec<Definition> {
        vec![self.0.clone()]
    }

    fn run<'a>(&'a self, _: &'a StepName, _: &'a StepInput, _: &'a ExclusiveCalls<'a>) -> Boxed<'a, Option<Outcome>> {
        Box::pin(async { None })
    }
}
