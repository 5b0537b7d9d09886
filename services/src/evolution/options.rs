//! What the client is told at start, and the checks that refuse what cannot work.

use std::{sync::Arc, time::Duration};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Url, header::HeaderValue, redirect, retry};
use workflows::secret::Secret;

use super::Client;
use crate::telemetry::chain;

/// Where the API is and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Options {
    pub base_url: String,
    /// The API's `AUTHENTICATION_API_KEY`.
    pub key: Secret,
    pub timeouts: Timeouts,
}

/// How long each call may take, answer included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands, TLS included.
    pub connect: Duration,
    pub create: Duration,
    /// A call for a QR code waits for WhatsApp.
    pub qr_code: Duration,
    pub other: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            create: Duration::from_secs(15),
            qr_code: Duration::from_secs(15),
            other: Duration::from_secs(10),
        }
    }
}

/// Options that no client can be made of.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error("the Evolution API's base URL {0}")]
    BaseUrl(String),
    #[error("the Evolution API's key is empty or holds characters that no header can carry")]
    Key,
    #[error("the TLS client cannot be made ({0}): install CA certificates, or name a file of them in SSL_CERT_FILE")]
    Tls(String),
}

impl Client {
    /// Checks the options and makes a client; opens no connection. For https the system's CA
    /// certificates are trusted, or those of SSL_CERT_FILE; http needs none.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        let Options { base_url, key, timeouts } = options;
        let base = parse_base(&base_url)?;
        let key_header = key_header(&key)?;
        // A second installation is refused, which is fine: then there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .http1_only()
            .connect_timeout(timeouts.connect)
            // The API closes idle connections after 5 s: below that, no request races with the
            // close.
            .pool_idle_timeout(Duration::from_secs(3));
        if base.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| OptionsError::Tls(chain(&error)))?;
        let (host, proxy) = (host_of(&base), proxy_of(&base));
        Ok(Self { http, base, host, proxy, key, key_header, timeouts, roster: Arc::default(), metrics: None })
    }
}

/// The host (and port) of a base URL: what a client of it names its gates after.
pub fn host(base_url: &str) -> Result<String, OptionsError> {
    parse_base(base_url).map(|base| host_of(&base))
}

fn host_of(base: &Url) -> String {
    let host = base.host_str().unwrap_or_default();
    base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The proxy that the environment names for this address, by the rules that the HTTP client
/// follows.
fn proxy_of(base: &Url) -> Option<String> {
    let proxy = Matcher::from_system().intercept(&base.as_str().parse().ok()?)?;
    proxy.uri().authority().map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default().to_owned())
}

fn parse_base(text: &str) -> Result<Url, OptionsError> {
    // Not repeated in full: it may hold a password.
    let problem = match Url::parse(text.trim()) {
        Err(error) => format!("is no URL ({error}): expected https://evolution.example.com"),
        Ok(url) if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() => {
            "has another scheme, or no host: expected http:// or https:// and a host".to_owned()
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            "has a query or a fragment: expected scheme, host and at most a path".to_owned()
        }
        Ok(url) => return Ok(url),
    };
    Err(OptionsError::BaseUrl(problem))
}

/// The key as a header that is not logged.
pub(super) fn key_header(key: &Secret) -> Result<HeaderValue, OptionsError> {
    let header = HeaderValue::from_str(key.expose()).ok();
    let mut header = header.filter(|header| !header.is_empty()).ok_or(OptionsError::Key)?;
    header.set_sensitive(true);
    Ok(header)
}
