//! `verify`: reads back that the instance is loaded, has its settings, and its webhook and its
//! events are what was asked, and asks for the QR code. Ready is a verified webhook; the QR code is
//! best effort and gets a few seconds, since WhatsApp may be away for hours and the app can ask for
//! a code again.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Attempt, CONFIGURE_WEBHOOKS, QrAtSignup, Settings, Timings,
    given::{key, standing},
    not_loaded, send_back,
    template::Asked,
};
use crate::{
    outcome::Outcome,
    secret::Secret,
    whatsapp::{
        evolution::{
            AmqpMode, ApiError, ApiState, Connect, ErrorKind, Evolution, Rabbitmq, Webhook,
            classify::{Pairing, Verdict, classify, instance_status},
        },
        names::InstanceStatus,
        provision::Given,
    },
};

/// Reads back and makes the run's result. What is asked comes from the settings, so that a webhook
/// which the settings changed since is mended too.
pub(super) async fn verify(
    attempt: &mut Attempt<'_, impl Evolution>,
    webhook: &Webhook,
    asked: &Asked,
) -> Result<Outcome, ApiError> {
    let Attempt { api, given, settings, .. } = *attempt;
    let name = &given.instance;
    let stored = api.find_webhook(name).await?;
    let Some(state) = api.connection_state(name).await? else { return Ok(not_loaded(attempt)) };
    let wrong = match stored.as_ref().map(|stored| webhook.differences(stored)) {
        Some(fields) if fields.is_empty() => None,
        Some(fields) => Some(format!("the webhook is not what was asked: {} differ", fields.join(", "))),
        None => Some("the instance has no webhook".to_owned()),
    };
    if let Some(what) = wrong {
        attempt.found = given.finding_drift(stored.as_ref(), webhook);
        return Ok(send_back(CONFIGURE_WEBHOOKS, what, None));
    }
    if let Some(what) = unpublished(api, given, settings).await? {
        return Ok(send_back(CONFIGURE_WEBHOOKS, what, None));
    }
    let mended = complete_settings(api, given).await?;
    let scan = qr_code(api, given, settings, state).await?;
    attempt.counts.not_loaded = 0;
    Ok(ready(given, asked, state, scan, mended).remembering(&given.verifying(webhook)))
}

/// What the API does not publish of the instance, where it publishes for each.
async fn unpublished(api: &impl Evolution, given: &Given, settings: &Settings) -> Result<Option<String>, ApiError> {
    if settings.amqp_mode == AmqpMode::Global {
        return Ok(None);
    }
    let stored = api.find_rabbitmq(&given.instance).await?;
    let missing = Rabbitmq::missing(stored.as_ref());
    let what = || format!("the API does not publish these events of the instance: {}", missing.join(", "));
    Ok((!missing.is_empty()).then(what))
}

/// An instance whose create was cut off has no settings at all, and gets those that a create
/// stores. Settings that are there stay as they are: the user, or the app, may have changed them.
/// Answers what is to be said of it.
async fn complete_settings(api: &impl Evolution, given: &Given) -> Result<Option<&'static str>, ApiError> {
    if api.has_settings(&given.instance).await? {
        return Ok(None);
    }
    // "None" may also be a database that was away for that question: the row itself knows.
    let row = api.fetch(&given.instance).await?;
    if row.is_none_or(|row| row.has_settings != Some(false)) {
        return Ok(None);
    }
    api.set_settings(&given.instance).await?;
    Ok(Some("the instance had no settings: it got those that a create stores"))
}

/// What asking for the QR code gave.
enum Scan {
    Code(Secret),
    Open,
    NotAsked,
    /// None came; why.
    Missing(String),
}

/// An instance that was paired and is closed is asked for a code whatever the settings say: its
/// user must scan again, or the call connects it.
async fn qr_code(api: &impl Evolution, given: &Given, settings: &Settings, state: ApiState) -> Result<Scan, ApiError> {
    let asked = match (state, given.paired_before) {
        (ApiState::Open, _) | (ApiState::Connecting, true) => false,
        (ApiState::Close, true) => true,
        (ApiState::Close | ApiState::Connecting, false) => settings.qr_at_signup == QrAtSignup::Fetch,
    };
    if !asked {
        return Ok(Scan::NotAsked);
    }
    let Timings { qr_tries, qr_pause, qr_limit, .. } = settings.timings;
    let end = api.elapsed() + qr_limit;
    let mut why = String::new();
    for attempt in 0..qr_tries {
        if attempt > 0 {
            api.pause(qr_pause).await;
        }
        let left = end.saturating_sub(api.elapsed());
        if left < LEAST {
            break;
        }
        match api.connect(&given.instance, left).await {
            Ok(Connect::Qr(code)) => return Ok(Scan::Code(code)),
            Ok(Connect::Open) => return Ok(Scan::Open),
            Ok(Connect::NotYet) => why = "WhatsApp gave no code yet".to_owned(),
            // The instance vanished meanwhile.
            Err(error) if classify(&error, &given.instance) == Verdict::Absent => return Err(error),
            // A connection that was refused is an outage, and says nothing about WhatsApp.
            Err(error) if matches!(error.kind, ErrorKind::Unreachable(_)) => return Err(error),
            Err(error) => why = error.to_string(),
        }
    }
    Ok(Scan::Missing(why))
}

/// In less, no code can come.
const LEAST: Duration = Duration::from_millis(100);

fn ready(given: &Given, asked: &Asked, state: ApiState, scan: Scan, mended: Option<&str>) -> Outcome {
    // An instance that was asked for a code is on its way to be connected, paired before or not.
    let (state, qr, code, note) = match scan {
        Scan::Code(code) => (ApiState::Connecting, "fetched", Some(code), None),
        Scan::Open => (ApiState::Open, "not_needed", None, None),
        Scan::NotAsked => (state, "not_needed", None, None),
        // The app asks again when the user looks.
        Scan::Missing(why) => (ApiState::Connecting, "missing", None, Some(format!("ready without a QR code: {why}"))),
    };
    let note = match (note, mended) {
        (Some(note), Some(mended)) => Some(format!("{mended}; {note}")),
        (note, mended) => note.or(mended.map(str::to_owned)),
    };
    let pairing = if given.paired_before { Pairing::Done } else { Pairing::NotYet };
    let status = instance_status(Some(state), pairing).unwrap_or(InstanceStatus::Connecting);
    let reason = match (status, &code) {
        (InstanceStatus::Connecting, None) if given.paired_before => {
            Some(note.clone().unwrap_or_else(|| "it was paired, and connects to WhatsApp by itself now".to_owned()))
        }
        _ => None,
    };
    let mut memory = standing(status, code.as_ref(), reason).with(key::WEBHOOK_URL, asked.url.as_str());
    // A number that the row has of one that was never paired is somebody's invention.
    if status != InstanceStatus::Connected && !given.paired_before {
        memory = memory.with(key::PHONE_NUMBER, Value::Null);
    }
    let output = json!({ "instance": given.instance, "status": status, "webhook": asked, "qr": qr });
    Outcome::Success { output, memory, note }
}
