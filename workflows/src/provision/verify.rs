//! `verify`: reads back that the instance is loaded and its webhook is what was asked, and fetches the QR code. Ready is a
//! verified webhook; the QR code is best effort, since WhatsApp may be away for hours and the app can ask for a code again.

use super::{
    Asked, CONFIGURE_WEBHOOKS, Qr, QrAtSignup, Ready, Settings, Timings, gone, loading, output, phantom,
    presence::{Look, look_twice},
    send_back,
};
use crate::{
    evolution::{
        ApiError, ApiState, Connect, Evolution, StoredWebhook,
        classify::{self, Pairing, Verdict, classify, instance_status},
    },
    ids::InstanceName,
    outcome::{Class, Facts, Failure, Given, HostSignal, InstanceStatus, Outcome},
    secret::Secret,
};

/// Reads back and makes the run's result. The input is not looked at: what is asked comes from the settings, so that a
/// webhook which the settings changed since is mended too.
pub async fn verify(api: &impl Evolution, given: &Given, settings: &Settings) -> Outcome {
    let name = &given.instance;
    let (webhook, asked) = match settings.webhook.expand(given) {
        Ok(expanded) => expanded,
        Err(fault) => return Outcome::Permanent(Failure::new(Class::Rejected, fault.to_string())),
    };
    let stored = match api.find_webhook(name).await {
        Ok(stored) => stored,
        Err(error) => return absent_or(api, name, error, settings).await,
    };
    let state = match api.connection_state(name).await {
        Ok(Some(state)) => state,
        Ok(None) => return loading(format!("instance {name:?} is known to the API but not in its memory yet")),
        Err(error) => return absent_or(api, name, error, settings).await,
    };
    let wrong = stored.as_ref().map(|stored: &StoredWebhook| webhook.differences(stored));
    match wrong.as_deref() {
        Some([]) => {}
        Some(fields) => return reconfigure(format!("the webhook is not what was asked: {} differ", fields.join(", "))),
        None => return reconfigure("the instance has no webhook".to_owned()),
    }
    match qr_code(api, given, settings, state).await {
        Scan::Absent(error) => absent_or(api, name, error, settings).await,
        scan => ready(given, asked, state, scan),
    }
}

/// What asking for the QR code gave.
enum Scan {
    Code(Secret),
    Open,
    NotAsked,
    /// None came; why.
    Missing(String),
    /// The instance vanished meanwhile.
    Absent(ApiError),
}

async fn qr_code(api: &impl Evolution, given: &Given, settings: &Settings, state: ApiState) -> Scan {
    if settings.qr_at_signup == QrAtSignup::Skip || given.paired_before || state == ApiState::Open {
        return Scan::NotAsked;
    }
    let Timings { qr_tries, qr_pause, .. } = settings.timings;
    let mut why = String::new();
    for attempt in 0..qr_tries {
        if attempt > 0 {
            api.pause(qr_pause).await;
        }
        match api.connect(&given.instance).await {
            Ok(Connect::Qr(code)) => return Scan::Code(code),
            Ok(Connect::Open) => return Scan::Open,
            Ok(Connect::NotYet) => why = "WhatsApp gave no code yet".to_owned(),
            Err(error) if classify(&error, &given.instance) == Verdict::Absent => return Scan::Absent(error),
            Err(error) => why = error.to_string(),
        }
    }
    Scan::Missing(why)
}

fn ready(given: &Given, asked: Asked, state: ApiState, scan: Scan) -> Outcome {
    let (state, qr, code, note) = match scan {
        Scan::Code(code) => (ApiState::Connecting, Qr::Fetched, Some(code), None),
        Scan::Open => (ApiState::Open, Qr::NotNeeded, None, None),
        Scan::Missing(why) => (state, Qr::Missing, None, Some(format!("ready without a QR code: {why}"))),
        Scan::NotAsked | Scan::Absent(_) => (state, Qr::NotNeeded, None, None),
    };
    let pairing = if given.paired_before { Pairing::Done } else { Pairing::NotYet };
    let status = instance_status(Some(state), pairing);
    let facts = Facts { token: None, status, qr_code: code, webhook_url: Some(asked.url.clone()) };
    let status = status.unwrap_or(InstanceStatus::Connecting);
    let ready = Ready { instance: given.instance.clone(), status, webhook: asked, qr };
    Outcome::Success { output: output(ready), facts, note }
}

fn reconfigure(what: String) -> Outcome {
    send_back(CONFIGURE_WEBHOOKS, Failure::new(Class::EffectGone, what).with_host(HostSignal::Healthy))
}

/// A 404 is looked into; anything else is judged by the table.
async fn absent_or(api: &impl Evolution, name: &InstanceName, error: ApiError, settings: &Settings) -> Outcome {
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
