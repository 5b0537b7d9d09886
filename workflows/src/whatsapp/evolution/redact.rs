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

    fn name(text: &str) -> InstanceName {
        text.parse().unwrap()
    }

    #[test]
    fn secrets_are_cut_and_the_longest_first() {
        let (key, url) = (Secret::new("key-1234"), Secret::new("https://x.test/?k=key-1234"));
        let redaction = Redaction::new(None, [&key, &url]);

        let text = redaction.readable("key-1234 posted to https://x.test/?k=key-1234, twice");

        assert_eq!(text, "*** posted to ***, twice");
    }

    #[test]
    fn a_token_that_is_part_of_the_name_leaves_the_name_readable() {
        let (name, token) = (name("user_7051bc96"), Secret::new("7051bc96"));
        let redaction = Redaction::new(Some(&name), [&token]);

        let text = redaction.readable(r#"This name "user_7051bc96" is already in use. (7051bc96)"#);

        assert_eq!(text, r#"This name "user_7051bc96" is already in use. (***)"#);
    }

    #[test]
    fn a_name_inside_a_secret_does_not_save_the_secret() {
        let (name, key) = (name("a"), Secret::new("banana"));

        assert_eq!(Redaction::new(Some(&name), [&key]).readable("a banana"), "a ***");
    }

    #[test]
    fn a_secret_that_begins_with_the_name_is_cut_as_a_whole() {
        let (name, token, key) = (name("user_7051"), Secret::new("7051"), Secret::new("user_7051-key"));

        let text = Redaction::new(Some(&name), [&token, &key]).readable("user_7051 was refused with user_7051-key");

        assert_eq!(text, "user_7051 was refused with ***");
    }

    #[test]
    fn an_orm_dump_keeps_what_was_done_and_what_went_wrong() {
        let dump = "\nInvalid `this.prisma.webhook.upsert()` invocation in\n/srv/api/src/webhook.controller.ts:42:7\n\n  \
                    41 const x = {\n→ 42 upsert({ headers: { k: \"s\" } }\nThe provided value is too long.";

        let text = Redaction::new(None, []).readable(dump);

        assert_eq!(text, "Invalid `this.prisma.webhook.upsert()` invocation The provided value is too long.");
    }

    #[test]
    fn a_source_path_is_cut_and_a_route_is_not() {
        let redaction = Redaction::new(None, []);

        assert_eq!(redaction.readable("failed at /srv/app/main.js:10:2 now"), "failed at <file> now");
        assert_eq!(redaction.readable("Cannot GET /instance/nope/x"), "Cannot GET /instance/nope/x");
    }

    #[test]
    fn the_spaces_of_a_name_stay() {
        let name = name("a  b");

        assert_eq!(Redaction::new(Some(&name), []).readable(r#"The "a  b" instance"#), r#"The "a  b" instance"#);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let text = Redaction::new(None, []).readable(&"é".repeat(5000));

        assert_eq!(text.chars().count(), MESSAGE_CHARS + 1);
    }
}
