//! The names and numbers of the engine, parsed once at the edge. After that nothing checks them
//! again.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is no valid id or name. The message says which, with which value, and what is
/// expected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} {value:?} is not valid: {expected}")]
pub struct Invalid {
    what: &'static str,
    value: String,
    expected: &'static str,
}

impl Invalid {
    /// `what` was given as `value`, which is not as `expected`. Only the first characters are kept.
    pub fn new(what: &'static str, value: &str, expected: &'static str) -> Self {
        let value = value.chars().take(80).collect();
        Self { what, value, expected }
    }
}

/// One execution of a workflow. A uuid v7: sorted by the moment of its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(Uuid);

impl RunId {
    pub fn new(id: Uuid) -> Self {
        Self(id)
    }

    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RunId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self).map_err(|_| Invalid::new("run id", text, "a uuid, as `sluice runs list` shows it"))
    }
}

/// The fencing number that a claim draws: random 64 bits, compared for equality only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(i64);

impl Token {
    pub fn new(bits: i64) -> Self {
        Self(bits)
    }

    pub fn bits(self) -> i64 {
        self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Makes a newtype over a text that is short, not empty and free of control characters.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $expected:literal, $fits:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                let fits: fn(char) -> bool = $fits;
                if text.is_empty() || text.chars().count() > $max || !text.chars().all(fits) {
                    return Err(Invalid::new($what, text, $expected));
                }
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

fn in_a_slug(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

name!(
    /// A workflow's name, e.g. `welcome`.
    WorkflowName, "workflow name", 60, "lower-case letters, digits and hyphens, at most 60", in_a_slug
);
name!(
    /// A step's name, e.g. `create-contact`. Its queue has the same name.
    StepName, "step name", 60, "lower-case letters, digits and hyphens, at most 60", in_a_slug
);
name!(
    /// Whom a run is for, e.g. a user id.
    Subject, "subject", 200, "1 to 200 characters, none of them a control character", |c| !c.is_control()
);
name!(
    /// What a run works on, e.g. the name of an account at an API.
    ResourceName, "resource name", 255, "1 to 255 characters, none of them a control character", |c| !c.is_control()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_parsed_once_and_says_what_it_expects() {
        let error = "Create Contact".parse::<StepName>().unwrap_err();

        assert_eq!(
            error.to_string(),
            r#"step name "Create Contact" is not valid: lower-case letters, digits and hyphens, at most 60"#
        );
        assert!("".parse::<ResourceName>().is_err());
        assert!("a\nb".parse::<ResourceName>().is_err());
        assert!("é".repeat(255).parse::<ResourceName>().is_ok());
    }
}
