//! Texts that must never be seen: a secret prints and serialises as `***`. Only `expose` hands the text out, so a
//! grep for it finds every place where a secret leaves the process.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// A text that prints as `***`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: for a header, a request body or a ledger column, never for anything that a person reads.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// The text, in which each of these is replaced by what stands beside it: at each place the first
/// that begins there.
pub fn replace(text: &str, rules: &[(&str, &str)]) -> String {
    let (mut clean, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(first) = rest.chars().next() {
        match rules.iter().find(|(found, _)| !found.is_empty() && rest.starts_with(found)) {
            Some((found, instead)) => {
                clean.push_str(instead);
                rest = &rest[found.len()..];
            }
            None => {
                clean.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");

        let seen = format!("{secret} {secret:?} {}", serde_json::to_string(&secret).unwrap());

        assert_eq!(seen, r#"*** *** "***""#);
    }
}
