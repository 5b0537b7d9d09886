//! Which versions of the API our calls fit. An older one is refused before anything is made: 1.8
//! takes a create and then refuses every webhook.

use std::{fmt, str::FromStr};

/// A version as the API states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    number: (u32, u32, u32),
    text: String,
}

/// What we know of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Tried, or between two that were.
    Tried,
    Older,
    Newer,
}

/// The oldest and the newest version that were tried.
const OLDEST: (u32, u32, u32) = (2, 2, 3);
const NEWEST: (u32, u32, u32) = (2, 3, 7);

/// All that were tried, for people.
pub const TRIED: &str = "2.2.3, 2.3.6 and 2.3.7";

impl Version {
    pub fn support(&self) -> Support {
        match self.number {
            number if number < OLDEST => Support::Older,
            number if number > NEWEST => Support::Newer,
            _ => Support::Tried,
        }
    }
}

/// A text that begins with no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no version: expected numbers such as 2.3.7")]
pub struct NoVersion;

impl FromStr for Version {
    type Err = NoVersion;

    /// What follows the three numbers (`-rc1`) is kept and means nothing.
    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let text: String = text.trim().chars().take(40).collect();
        let end = |c: char| !c.is_ascii_digit() && c != '.';
        let digits = text.trim_start_matches('v').split(end).next().unwrap_or_default();
        let mut numbers = digits.split('.').map_while(|part| part.parse().ok());
        let mut next = || numbers.next().ok_or(NoVersion);
        let number = (next()?, next()?, next()?);
        Ok(Self { number, text })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_tried_older_or_newer() {
        for (support, texts) in [
            (Some(Support::Older), &["1.8.6", "2.2.2"][..]),
            (Some(Support::Tried), &["2.2.3", "2.3.0", "2.3.7"]),
            (Some(Support::Newer), &["2.4.0-rc2", "v2.10.0"]),
            (None, &["", "latest", "2", "2.3", "2..3", "99999999999.0.0"]),
        ] {
            for text in texts {
                assert_eq!(text.parse::<Version>().ok().map(|version| version.support()), support, "{text}");
            }
        }
    }
}
