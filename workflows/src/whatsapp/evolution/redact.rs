//! Cuts what nobody may see from a text that came from outside: known secrets, and the dumps of the
//! API's ORM with the paths and source lines of its server. What is left is one line that a person
//! can read.

use super::MESSAGE_CHARS;
use crate::{
    secret::{self, Secret},
    whatsapp::names::InstanceName,
};

/// The secrets of one call, and the instance's name, which is none: the old set-up's tokens are
/// part of the name.
pub struct Redaction<'a> {
    name: Option<&'a InstanceName>,
    secrets: Vec<&'a str>,
}

impl<'a> Redaction<'a> {
    pub fn new(name: Option<&'a InstanceName>, secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        Self { name, secrets: secrets.into_iter().map(Secret::expose).collect() }
    }

    /// The text in one line, without secrets and server paths, at most `MESSAGE_CHARS` long.
    pub fn readable(&self, text: &str) -> String {
        let name = self.name.map(InstanceName::as_str);
        let line = self.without_dump(&secret::cut(text, name.as_slice(), &self.secrets));
        let mut cut: String = line.chars().take(MESSAGE_CHARS).collect();
        if cut.len() < line.len() {
            cut.push('…');
        }
        cut
    }

    /// Keeps the first and the last line of a text of many (an ORM says what it did in the first
    /// and what went wrong in the last; between them are source lines and arguments), and no path
    /// of a source file. Spaces stay as they are: the instance's name may hold any number of them.
    fn without_dump(&self, text: &str) -> String {
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let first = lines.iter().position(|line| line.contains(" invocation in")).unwrap_or(0);
        let kept = match lines.get(first..).unwrap_or_default() {
            [] => String::new(),
            [only] => (*only).to_owned(),
            [first, .., last] => format!("{} {last}", first.trim_end_matches(" in")),
        };
        let in_name = |word: &str| self.name.is_some_and(|name| name.as_str().contains(word));
        let words: Vec<_> = kept.split(' ').map(|word| if in_name(word) { word } else { without_path(word) }).collect();
        words.join(" ").replace(|c: char| c.is_control(), " ")
    }
}

fn without_path(word: &str) -> &str {
    const SOURCES: [&str; 6] = [".ts", ".js", ".mjs", ".cjs", ".tsx", ".node"];
    let is_path = word.contains(['/', '\\']) && !word.contains("://");
    let is_source = SOURCES.iter().any(|end| {
        word.match_indices(end).any(|(at, _)| !word[at + end.len()..].starts_with(|c: char| c.is_ascii_alphanumeric()))
    });
    if is_path && is_source { "<file>" } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_what_a_person_reads_and_no_secret() {
        let dump = "\nInvalid `this.prisma.webhook.upsert()` invocation in\n/srv/api/src/webhook.controller.ts:42:7\n\n  \
                    41 const x = {\n→ 42 upsert({ headers: { k: \"s\" } }\nThe provided value is too long.";
        let long = "é".repeat(5000);
        let cut = format!("{}…", "é".repeat(MESSAGE_CHARS));
        for (case, name, secrets, text, readable) in [
            (
                "secrets are cut, the longest first",
                None,
                &["key-1234", "https://x.test/?k=key-1234"][..],
                "key-1234 posted to https://x.test/?k=key-1234, twice",
                "*** posted to ***, twice",
            ),
            (
                "a token that is part of the name leaves the name readable",
                Some("user_7051bc96"),
                &["7051bc96"],
                r#"This name "user_7051bc96" is already in use. (7051bc96)"#,
                r#"This name "user_7051bc96" is already in use. (***)"#,
            ),
            ("a name inside a secret does not save the secret", Some("a"), &["banana"], "a banana", "a ***"),
            (
                "a secret that begins with the name is cut as a whole",
                Some("user_7051"),
                &["7051", "user_7051-key"],
                "user_7051 was refused with user_7051-key",
                "user_7051 was refused with ***",
            ),
            (
                "an ORM's dump keeps what was done and what went wrong",
                None,
                &[],
                dump,
                "Invalid `this.prisma.webhook.upsert()` invocation The provided value is too long.",
            ),
            ("a source path", None, &[], "failed at /srv/app/main.js:10:2 now", "failed at <file> now"),
            ("a route", None, &[], "Cannot GET /instance/nope/x", "Cannot GET /instance/nope/x"),
            ("the spaces of a name", Some("a  b"), &[], r#"The "a  b" instance"#, r#"The "a  b" instance"#),
            ("a long text is cut at a character", None, &[], &long, &cut),
        ] {
            let name: Option<InstanceName> = name.map(|name| name.parse().unwrap());
            let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::new(*secret)).collect();

            assert_eq!(Redaction::new(name.as_ref(), &secrets).readable(text), readable, "{case}");
        }
    }
}
