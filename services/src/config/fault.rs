//! What is wrong with the settings: all of it at once, a line each, and never a secret.

use std::fmt;

use url::{Host, Url};
use workflows::definition::Registry;

use crate::telemetry::log::Format;

/// For passwords in addresses.
pub(super) const ENCODE: &str = "in a password write %2F for a /, %3F for a ?, %23 for a #, %40 for an @";

/// What stands for a setting where a workflow's definition cannot work.
const WORKFLOW: &str = "WORKFLOW";

/// One setting that cannot work: which, what it is set to, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub setting: String,
    /// What it is set to, fit to be seen; none where it is not set.
    pub shown: Option<String>,
    pub problem: String,
}

impl Fault {
    /// Whether it is mended in the program's code, and not by a setting.
    pub(crate) fn is_of_a_workflow(&self) -> bool {
        self.setting == WORKFLOW
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shown {
            Some(shown) => write!(f, "{}={shown}: {}", self.setting, self.problem),
            None => write!(f, "{}: {}", self.setting, self.problem),
        }
    }
}

/// Every fault that was found, in the order of the options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    found: Vec<Fault>,
    /// How the process was told to log, so that it refuses in the same form.
    pub(crate) format: Option<Format>,
}

impl Faults {
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.found.iter()
    }

    /// These, and those after them.
    pub fn and(mut self, more: Self) -> Self {
        self.found.extend(more.found);
        self
    }

    /// A setting that may be seen.
    pub fn add(&mut self, setting: &str, value: &str, problem: impl Into<String>) {
        self.push(setting, Some(value.chars().take(80).flat_map(char::escape_debug).collect()), problem);
    }

    /// As `add`, of what has no value then.
    pub fn refuse<T>(&mut self, setting: &str, value: &str, problem: impl Into<String>) -> Option<T> {
        self.add(setting, value, problem);
        None
    }

    /// A setting that may not.
    pub fn add_secret(&mut self, setting: &str, problem: impl Into<String>) {
        self.push(setting, Some("***".to_owned()), problem);
    }

    /// An address, which is seen without what may be secret in it.
    pub fn add_url(&mut self, setting: &str, url: &str, problem: impl Into<String>) {
        self.push(setting, Some(redacted(url)), problem);
    }

    pub fn add_unset(&mut self, setting: &str, problem: impl Into<String>) {
        self.push(setting, None, problem);
    }

    /// What is wrong with the definitions of workflows.
    pub(crate) fn add_definitions(&mut self, registry: &Registry) {
        for fault in registry.faults() {
            self.add(WORKFLOW, &fault.workflow, fault.problem);
        }
    }

    fn push(&mut self, setting: &str, shown: Option<String>, problem: impl Into<String>) {
        self.found.push(Fault { setting: setting.to_owned(), shown, problem: problem.into() });
    }
}

/// A line each.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.found.iter().map(Fault::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Faults {}

/// Scheme, host and port of an address that can be read, and nothing else: passwords stand before
/// an `@`, keys in paths and queries. What stands where the host does may be a part of a password
/// that was not encoded: then an `@` follows, or a `%` is in it.
pub(super) fn redacted(text: &str) -> String {
    readable(text).unwrap_or_else(|| "***".to_owned())
}

fn readable(text: &str) -> Option<String> {
    const SCHEMES: [&str; 6] = ["postgres", "postgresql", "redis", "rediss", "http", "https"];
    let url = Url::parse(text.trim()).ok()?;
    let scheme = SCHEMES.into_iter().find(|scheme| *scheme == url.scheme())?;
    let behind = [Some(url.path()), url.query(), url.fragment()];
    if behind.into_iter().flatten().any(|part| part.contains(['@', '%'])) {
        return None;
    }
    let host = match url.host()? {
        Host::Domain(host) if host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)) => host.to_owned(),
        Host::Domain(_) => return None,
        Host::Ipv4(host) => host.to_string(),
        Host::Ipv6(host) => format!("[{host}]"),
    };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{scheme}://{host}{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        let shown = [
            ("postgres://ada:hunter2@db.example.com:5432/app", "postgres://db.example.com:5432"),
            ("postgres://ada:hun@ter2@db_1/app?sslmode=sure", "postgres://db_1"),
            ("postgres://ada@[::1]:5432/app", "postgres://[::1]:5432"),
            ("https://example.com/hunter2/hook?key=hunter2#hunter2", "https://example.com"),
            // A part of a password stands where the host does.
            ("postgres://ada:hun/ter2@db:5432/app", "***"),
            ("redis://default:ab@hunter2/Tail@host", "***"),
            ("redis://default:1/hunter2@host", "***"),
            ("postgres://ada%3Ahunter2%40db/app?sslmode=sure", "***"),
            ("postgres://ada:1%2Fhunter2%40db/app", "***"),
            ("redis://:hun?ter2@cache", "***"),
            ("redis://:hun#ter2@cache/0", "***"),
            ("https://ada:1\\hunter2@example.com", "***"),
            ("redis://:hunter2", "***"),
            ("hunter2://cache", "***"),
            ("hunter2:cache", "***"),
            ("hunter2", "***"),
        ];

        for (url, expected) in shown {
            assert_eq!(redacted(url), expected, "{url}");
        }
    }

    #[test]
    fn a_fault_is_one_line_whatever_the_value_holds() {
        let mut faults = Faults::default();

        faults.add("LOG_FORMAT", "js\non", "expected pretty or json");

        assert_eq!(faults.to_string(), r"LOG_FORMAT=js\non: expected pretty or json");
    }
}
