//! `configure-webhooks`: the instance delivers to the app what the settings ask for. An upsert at the API, safe to repeat.

use super::{Configured, Settings, failed, output};
use crate::{
    outcome::{Class, Failure, Memory, Outcome},
    whatsapp::{evolution::Evolution, provision::Given},
};

/// Sets the webhook. The input is not looked at: `reconfigure-webhooks` starts here.
pub async fn configure_webhooks(api: &impl Evolution, given: &Given, settings: &Settings) -> Outcome {
    let name = &given.instance;
    let (webhook, asked) = match settings.webhook.expand(given) {
        Ok(expanded) => expanded,
        Err(fault) => return Outcome::Permanent(Failure::new(Class::Rejected, fault.to_string())),
    };
    let mut counts = given.counts;
    counts.not_loaded = 0;
    let outcome = match api.set_webhook(name, &webhook).await {
        Ok(_) => {
            let configured = Configured { instance: name.clone(), webhook: asked };
            // The row says so once the API has been read back: `verify` writes it down.
            Outcome::Success { output: output(configured), memory: Memory::default(), note: None }
        }
        Err(error) => {
            counts = given.counts;
            failed(api, given, settings, error, &mut counts).await
        }
    };
    outcome.remembering(&counts.since(given.counts))
}
