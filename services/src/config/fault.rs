//! What is wrong with the settings: all of it at once, a line each, and never a secret.

use std::fmt;

use url::Url;

/// One setting that cannot work: which, what it is set to, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub setting: String,
    /// What it is set to, fit to be seen; none where it is not set.
    pub shown: Option<String>,
    pub problem: String,
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
pub struct Faults(Vec<Fault>);

impl Faults {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// These, and those after them.
    pub fn and(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        self
    }

    /// A setting that may be seen.
    pub fn add(&mut self, setting: &str, value: &str, problem: impl Into<String>) {
        self.push(setting, Some(shortened(value)), problem);
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

    fn push(&mut self, setting: &str, shown: Option<String>, problem: impl Into<String>) {
        self.0.push(Fault { setting: setting.to_owned(), shown, problem: problem.into() });
    }
}

/// A line each.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.0.iter().enumerate() {
            let end = if number + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "{fault}{end}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

fn shortened(value: &str) -> String {
    value.chars().take(80).flat_map(char::escape_debug).collect()
}

/// Scheme, host, port and path. Passwords stand before an `@`, keys in queries; what cannot be taken apart is not shown,
/// for nobody knows where in it the secret is.
fn redacted(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return "***".to_owned() };
    let (login, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("***@", rest),
        None => ("", rest),
    };
    let bare = format!("{scheme}://{rest}");
    if Url::parse(&bare).is_err() {
        return format!("{}://***", shortened(scheme));
    }
    let (seen, hidden) = match rest.find(['?', '#']) {
        Some(at) => (&rest[..at], "?***"),
        None => (rest, ""),
    };
    format!("{}://{login}{}{hidden}", shortened(scheme), shortened(seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        let shown = [
            ("postgres://ada:hunter2@db.example.com:5432/app", "postgres://***@db.example.com:5432/app"),
            ("postgres://ada:hun/ter2@db:5432/app", "postgres://***@db:5432/app"),
            ("redis://:hun?ter2@cache", "redis://***@cache"),
            ("redis://:hun#ter2@cache/0", "redis://***@cache/0"),
            ("https://example.com/hook?key=hunter2", "https://example.com/hook?***"),
            ("redis://:hunter2", "redis://***"),
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
