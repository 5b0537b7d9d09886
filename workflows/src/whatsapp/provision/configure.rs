//! `configure-webhooks`: the instance delivers to the app what the settings ask for, and, where
//! they say so, publishes its events to the API's RabbitMQ. Upserts at the API, safe to repeat.

use serde_json::json;

use super::{Attempt, template::Asked};
use crate::{
    outcome::Outcome,
    whatsapp::evolution::{AmqpMode, ApiError, Evolution, Rabbitmq, Webhook},
};

/// Sets both. What others have asked RabbitMQ for stays.
pub(super) async fn configure_webhooks(
    attempt: &mut Attempt<'_, impl Evolution>,
    webhook: &Webhook,
    asked: &Asked,
) -> Result<Outcome, ApiError> {
    let Attempt { api, given, settings, .. } = *attempt;
    let name = &given.instance;
    // Where one was verified before, only this step can know whether it is still there: it is about
    // to write over it.
    if given.webhook_before.is_some() {
        attempt.found = given.finding_drift(api.find_webhook(name).await?.as_ref(), webhook);
    }
    api.set_webhook(name, webhook).await?;
    if settings.amqp_mode == AmqpMode::Instance {
        let stored = api.find_rabbitmq(name).await?;
        if let Some(rabbitmq) = Rabbitmq::to_set(stored.as_ref()) {
            api.set_rabbitmq(name, &rabbitmq).await?;
        }
    }
    attempt.counts.not_loaded = 0;
    // The row says so once the API has been read back: `verify` writes it down.
    let output = json!({ "instance": name, "webhook": asked });
    Ok(Outcome::Success { output, memory: given.setting(webhook), note: None })
}
