//! `configure-webhooks`: the instance delivers to the app what the settings ask for, and, where
//! they say so, publishes its events to the API's RabbitMQ. Upserts at the API, safe to repeat.

use super::{Attempt, Configured, Settings, failed, output};
use crate::{
    outcome::{Class, Failure, Memory, Outcome},
    whatsapp::{
        evolution::{AmqpMode, ApiError, Evolution, Rabbitmq, Webhook},
        provision::Given,
    },
};

/// Sets both. The input is not looked at: all that is needed is known of the resource.
pub async fn configure_webhooks(api: &impl Evolution, given: &Given, settings: &Settings) -> Outcome {
    let name = &given.instance;
    let (webhook, asked) = match settings.webhook.expand(given) {
        Ok(expanded) => expanded,
        Err(fault) => return Outcome::Permanent(Failure::new(Class::Rejected, fault.to_string())),
    };
    let mut attempt = Attempt::new(api, given, settings);
    let (found, set) = set_webhook(api, given, &webhook).await;
    let set = match set {
        Ok(()) => set_rabbitmq(api, given, settings).await,
        failed => failed,
    };
    let outcome = match set {
        Ok(()) => {
            attempt.counts.not_loaded = 0;
            let configured = Configured { instance: name.clone(), webhook: asked };
            // The row says so once the API has been read back: `verify` writes it down.
            Outcome::Success { output: output(configured), memory: given.setting(&webhook), note: None }
        }
        Err(error) => failed(&mut attempt, error).await,
    };
    attempt.end(outcome.remembering(&found))
}

/// Sets it. Where one was verified before, looks first whether it is still there: only this step
/// can know, since it is about to write over it. Answers what is to be kept of that, too.
async fn set_webhook(api: &impl Evolution, given: &Given, webhook: &Webhook) -> (Memory, Result<(), ApiError>) {
    let name = &given.instance;
    let mut found = Memory::default();
    if given.webhook_before.is_some() {
        match api.find_webhook(name).await {
            Ok(stored) => found = given.finding_drift(stored.as_ref(), webhook),
            Err(error) => return (found, Err(error)),
        }
    }
    (found, api.set_webhook(name, webhook).await.map(drop))
}

/// Has the API publish the instance's events, where it does so for each instance. What others have
/// asked for stays.
async fn set_rabbitmq(api: &impl Evolution, given: &Given, settings: &Settings) -> Result<(), ApiError> {
    if settings.amqp_mode == AmqpMode::Global {
        return Ok(());
    }
    let stored = api.find_rabbitmq(&given.instance).await?;
    match Rabbitmq::to_set(stored.as_ref()) {
        Some(rabbitmq) => api.set_rabbitmq(&given.instance, &rabbitmq).await.map(drop),
        None => Ok(()),
    }
}
