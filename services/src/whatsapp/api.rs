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

#[derive(Args)]
#[command(next_help_heading = "Evolution API")]
pub struct KeyOptions {
    /// The API's AUTHENTICATION_API_KEY. Better given in the environment: the flag shows in the
    /// list of processes
    #[arg(long, env = "EVOLUTION_API_KEY", value_name = "KEY")]
    evolution_api_key: Option<String>,
}

impl HostOptions {
    /// A relay needs it too: it is a part of the steps' definitions, which name the gate that they
    /// stand behind.
    pub(super) fn host(&self, faults: &mut Faults) -> Option<String> {
        let url = faults.required(
            URL,
            self.evolution_api_base_url.as_deref(),
            "give its address, e.g. https://evolution.example.com",
        )?;
        match evolution::host(url) {
            Ok(host) => Some(host),
            Err(error) => {
                faults.add_url(URL, url, problem(error));
                None
            }
        }
    }

    pub(super) fn client(&self, key: &KeyOptions, faults: &mut Faults) -> Option<evolution::Client> {
        let url = self.evolution_api_base_url.as_deref();
        let host = self.host(faults);
        let key = key.evolution_api_key.as_deref();
        let key = faults.required(KEY, key, "give the API's AUTHENTICATION_API_KEY").map(str::trim)?;
        // With a stand-in for an address that is refused already, the key is checked too.
        let usable = url.filter(|_| host.is_some());
        let options = evolution::Options {
            base_url: usable.unwrap_or("http://localhost").to_owned(),
            key: Secret::new(key),
            timeouts: evolution::Timeouts::default(),
        };
        match evolution::Client::new(options) {
            Ok(client) => return usable.map(|_| client),
            Err(error @ evolution::OptionsError::Key) => faults.add_secret(KEY, problem(error)),
            Err(error) => faults.add_url(URL, url.unwrap_or_default(), problem(error)),
        }
        None
    }
}

/// The text without the subject that the setting's name is already.
fn problem(error: evolution::OptionsError) -> String {
    use evolution::OptionsError::{BaseUrl, Key, Tls};
    match error {
        BaseUrl(problem) => problem,
        Key => "is empty or holds characters that no header can carry".to_owned(),
        error @ Tls(_) => error.to_string(),
    }
}
