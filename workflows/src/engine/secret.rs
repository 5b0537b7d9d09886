//! Texts that must never be seen: a secret prints as `***`. Only `expose` hands the text out, so a
//! grep for it finds every place where a secret leaves the process.

use std::{cmp::Reverse, fmt, ops::Range};

use serde::Deserialize;

/// A text that prints as `***`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: for a header, a request body or a ledger column, never for anything that a
    /// person reads.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A shorter text is no secret, and cutting it would mangle every message.
const SHORTEST: usize = 4;

/// The text, with `***` in place of each of these secrets. These names are none: a secret that is
/// part of a name stays readable within the name, and nowhere else.
pub fn cut(text: &str, names: &[&str], secrets: &[&str]) -> String {
    let named: Vec<_> = names.iter().flat_map(|name| places(text, name)).collect();
    let in_name = |hidden: &Range<usize>| named.iter().any(|name| name.start <= hidden.start && hidden.end <= name.end);
    let secrets = secrets.iter().filter(|secret| secret.len() >= SHORTEST);
    let mut hidden: Vec<_> = secrets.flat_map(|secret| places(text, secret)).filter(|place| !in_name(place)).collect();
    // Of those that begin together the longest first: a URL that holds a token goes as a whole.
    hidden.sort_by_key(|place| (place.start, Reverse(place.end)));
    let (mut clean, mut done) = (String::with_capacity(text.len()), 0);
    for place in hidden {
        if place.start >= done {
            clean.push_str(&text[done..place.start]);
            clean.push_str("***");
        }
        done = done.max(place.end);
    }
    clean + &text[done..]
}

/// Where this part of the text stands, each time.
fn places(text: &str, part: &str) -> impl Iterator<Item = Range<usize>> {
    let starts = text.char_indices().map(|(at, _)| at).filter(move |&at| text[at..].starts_with(part));
    starts.map(move |at| at..at + part.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }

    #[test]
    fn what_overlaps_is_cut_to_its_end() {
        assert_eq!(cut("abcdef and xuser_1y", &[], &["abcd", "cdef", "user_1"]), "*** and x***y");
        assert_eq!(cut("abcdabcd", &[], &["abcd"]), "******");
    }

    #[test]
    fn a_name_saves_only_what_lies_within_it() {
        let names = ["user_1", ""];

        assert_eq!(cut("user_1 user_1-key xuser_ser_1", &names, &["user_1-key", "ser_1"]), "user_1 *** xuser_***");
        assert_eq!(cut("übers user_1é", &names, &["rs user", "é"]), "übe***_1é");
    }
}
