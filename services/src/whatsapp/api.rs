//! Where the Evolution API is, and the key to it.

use clap::Args;
use workflows::secret::Secret;

use crate::{config::Faults, evolution};

const URL: &str = "EVOLUTION_API_BASE_URL";
const KEY: &str = "EVOLUTION_API_KEY";

#[derive(Args)]
#[command(next_help_heading = "Evolution API")]
pub struct HostOptions {
    /// https://evolution.example.com, or with a path; the same for relays and workers, which share
    /// its limits and its breaker. For https the CA certificates of the system are trusted, or
    /// those of SSL_CERT_FILE. Calls go through the proxy that HTTPS_PROXY (for http: HTTP_PROXY)
    /// or ALL_PROXY names, unless NO_PROXY names the API's host
    #[arg(long, env = "EVOLUTION_API_BASE_URL", value_name = "URL")]
    evolution_api_base_url: Option<String>,
}

impl HostOptions {
    /// A relay needs it too: it is a part of the steps' definitions, which name the gate that they
    /// stand behind.
    pub(super) fn host(&self, faults: &mut Faults) -> Option<String> {
        let what = "give its address, e.g. https://evolution.example.com";
        let url = faults.required(URL, self.evolution_api_base_url.as_deref(), what)?;
        evolution::host(url).map_err(|error| leave(error, url, faults)).ok()
    }

    pub(super) fn client(&self, key: Option<&str>, faults: &mut Faults) -> Option<evolution::Client> {
        let url = self.evolution_api_base_url.as_deref();
        let usable = self.host(faults).and(url);
        let key = faults.required(KEY, key, "give the API's AUTHENTICATION_API_KEY")?;
        // With a stand-in for an address that is refused already, the key is checked too.
        let options = evolution::Options {
            base_url: usable.unwrap_or("http://localhost").to_owned(),
            key: Secret::new(key.trim()),
            timeouts: evolution::Timeouts::default(),
        };
        let client = evolution::Client::new(options);
        let client = client.map_err(|error| leave(error, url.unwrap_or_default(), faults)).ok();
        client.filter(|_| usable.is_some())
    }
}

/// Without the subject that the setting's name is already.
fn leave(error: evolution::OptionsError, url: &str, faults: &mut Faults) {
    use evolution::OptionsError::{BaseUrl, Key, Tls};
    match error {
        BaseUrl(problem) => faults.add_url(URL, url, problem),
        Key => faults.add_secret(KEY, "is empty or holds characters that no header can carry"),
        Tls(_) => faults.add_url(URL, url, error.to_string()),
    }
}
