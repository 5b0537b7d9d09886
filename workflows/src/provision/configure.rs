//! `configure-webhooks`: the instance delivers to the app what the settings ask for. An upsert at the API, safe to repeat.

use super::{
    Configured, Settings, gone, loading, output, phantom,
    presence::{Look, look_twice},
};
use crate::{
    evolution::{
        Evolution,
        classify::{self, Verdict, classify},
    },
    outcome::{Class, Facts, Failure, Given, Outcome},
};

/// Sets the webhook. The input is not looked at: `reconfigure-webhooks` starts here.
pub async fn configure_webhooks(api: &impl Evolution, given: &Given, settings: &Settings) -> Outcome {
    let name = &given.instance;
    let (webhook, asked) = match settings.webhook.expand(given) {
        Ok(expanded) => expanded,
        Err(fault) => return Outcome::Permanent(Failure::new(Class::Rejected, fault.to_string())),
    };
    let error = match api.set_webhook(name, &webhook).await {
        Ok(_) => {
            let facts = Facts { webhook_url: Some(asked.url.clone()), ..Facts::default() };
            let configured = Configured { instance: name.clone(), webhook: asked };
            return Outcome::Success { output: output(configured), facts, note: None };
        }
        Err(error) => error,
    };
    if classify(&error, name) != Verdict::Absent {
        return classify::outcome(&error, name);
    }
    match look_twice(api, name, &settings.timings).await {
        Look::Absent => gone(name),
        Look::Phantom => phantom(name),
        Look::There(_) | Look::Loading => loading(format!("{error}; yet the API knows the name: it is being loaded")),
        Look::Unclear(error) => classify::outcome(&error, name),
    }
}
