//! Which webhook every instance gets, and whether a sign-up waits for a QR code.

use std::collections::BTreeMap;

use clap::Args;
use workflows::{
    secret::Secret,
    whatsapp::{
        evolution::AmqpMode,
        provision::{self, QrAtSignup, Timings, WebhookTemplate},
    },
};

use crate::config::Faults;

const EVENTS: &str = "QRCODE_UPDATED,CONNECTION_UPDATE,MESSAGES_UPSERT";

#[derive(Args)]
#[command(next_help_heading = "Webhooks and QR code")]
pub struct WebhookOptions {
    /// The app's Supabase project, https://YOUR_PROJECT_REF.supabase.co: WEBHOOK_URL's default is
    /// made of it
    #[arg(long, env = "SUPABASE_URL", value_name = "URL")]
    supabase_url: Option<String>,

    /// Where the API sends what happens to an instance; {user_id}, {instance} and {token} stand for
    /// each instance's own. Default: ${SUPABASE_URL}/functions/v1/evolution-webhook-handler
    #[arg(long, env = "WEBHOOK_URL", value_name = "URL")]
    webhook_url: Option<String>,

    /// What it is sent, separated by commas
    #[arg(long, env = "WEBHOOK_EVENTS", value_name = "NAMES", default_value = EVENTS)]
    webhook_events: String,

    /// What it is sent along, a JSON object of texts with the same placeholders: {"authorization":
    /// "Bearer …"}. A jwt_key makes the API sign each delivery
    #[arg(long, env = "WEBHOOK_HEADERS", value_name = "JSON")]
    webhook_headers: Option<String>,

    /// Whether each event goes to a path of its own, e.g. …/qrcode-updated
    #[arg(long, env = "WEBHOOK_BY_EVENTS", value_name = "BOOL", default_value = "false")]
    webhook_by_events: String,

    /// Whether media are sent along in base64
    #[arg(long, env = "WEBHOOK_BASE64", value_name = "BOOL", default_value = "false")]
    webhook_base64: String,

    /// Whether a sign-up fetches a QR code, so that the user sees it at once. It costs a socket to
    /// WhatsApp and the webhooks of each new code until it is scanned, for up to 22 minutes; false
    /// leaves that to the moment when the user asks
    #[arg(long, env = "QR_AT_SIGNUP", value_name = "BOOL", default_value = "true")]
    qr_at_signup: String,
}

impl WebhookOptions {
    /// No mode: its fault was left, and the rest is checked.
    pub(super) fn read(&self, amqp_mode: Option<AmqpMode>, faults: &mut Faults) -> Option<provision::Settings> {
        let url = self.url(faults);
        let headers = self.headers(faults);
        let by_events = faults.switch("WEBHOOK_BY_EVENTS", &self.webhook_by_events);
        let base64 = faults.switch("WEBHOOK_BASE64", &self.webhook_base64);
        let qr_at_signup = faults.switch("QR_AT_SIGNUP", &self.qr_at_signup);
        let qr_at_signup = qr_at_signup.map(|wanted| if wanted { QrAtSignup::Fetch } else { QrAtSignup::Skip });
        let events = self.webhook_events.split(',').map(str::trim).filter(|name| !name.is_empty());

        // What is missing was reported: a stand-in lets the rest be checked too.
        let webhook = provision::WebhookOptions {
            url: url.clone().unwrap_or_else(|| "https://example.com".to_owned()),
            events: events.map(str::to_owned).collect(),
            headers: headers.clone().unwrap_or_default(),
            by_events: by_events.unwrap_or_default(),
            base64: base64.unwrap_or_default(),
        };
        let webhook = WebhookTemplate::parse(webhook).map_err(|found| self.translate(found, faults)).ok()?;
        let is_whole = url.is_some() && headers.is_some() && by_events.is_some() && base64.is_some();
        let (qr_at_signup, amqp_mode) = (qr_at_signup?, amqp_mode?);
        is_whole.then_some(provision::Settings { webhook, qr_at_signup, amqp_mode, timings: Timings::default() })
    }

    fn url(&self, faults: &mut Faults) -> Option<String> {
        if let Some(url) = &self.webhook_url {
            return Some(url.trim().to_owned());
        }
        let what = "give where the API shall send events, or SUPABASE_URL for the app's evolution-webhook-handler";
        if self.supabase_url.is_none() {
            faults.add_unset("WEBHOOK_URL", format!("is not set: {what}"));
        }
        let project = self.supabase_url.as_deref()?.trim().trim_end_matches('/');
        if project.contains("YOUR_PROJECT_REF") {
            faults.add_url("SUPABASE_URL", project, "still has YOUR_PROJECT_REF in it: put your project's there");
            return None;
        }
        Some(format!("{project}/functions/v1/evolution-webhook-handler"))
    }

    fn headers(&self, faults: &mut Faults) -> Option<BTreeMap<String, Secret>> {
        let Some(text) = &self.webhook_headers else { return Some(BTreeMap::new()) };
        // The error's own text may repeat a value.
        let problem = |error: serde_json::Error| {
            let (line, column) = (error.line(), error.column());
            format!(r#"is no JSON object of texts (line {line}, column {column}): expected {{"name": "value"}}"#)
        };
        serde_json::from_str(text).map_err(|error| faults.add_secret("WEBHOOK_HEADERS", problem(error))).ok()
    }

    /// Faults by the names of the variables.
    fn translate(&self, found: Vec<provision::Fault>, faults: &mut Faults) {
        for provision::Fault { setting, problem } in found {
            match (setting.as_str(), setting.strip_prefix("webhook.headers.")) {
                ("webhook.url", _) => match (&self.webhook_url, &self.supabase_url) {
                    (None, Some(project)) => faults.add_url("SUPABASE_URL", project, problem),
                    (url, _) => faults.add_url("WEBHOOK_URL", url.as_deref().unwrap_or_default(), problem),
                },
                ("webhook.events", _) => faults.add("WEBHOOK_EVENTS", &self.webhook_events, problem),
                // What is no name may be a value that was put in its place.
                (_, Some(name)) if name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) => {
                    faults.add_secret("WEBHOOK_HEADERS", format!("{name:?} {problem}"));
                }
                (_, Some(_)) => faults.add_secret("WEBHOOK_HEADERS", format!("a name in it {problem}")),
                (_, None) => faults.add_unset(&setting, problem),
            }
        }
    }
}
